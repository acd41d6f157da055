"""The network: a plain CNN, a two-way neck, a dense proposal head and a small DETR decoder.

Tensors: the image enters as uint8 [B, H, W, 3] RGB, everything else is channels-last NCHW; boxes are cx cy w h in 0..1
unless a name says otherwise; logits are raw (before the sigmoid). No layer subtracts a mean from the image, so that the
division by 255 folds exactly into the first convolution, zero padding included.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDES = (8, 16, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The shape of the network; kept in every checkpoint."""

    size: int = 320
    stem: int = 16
    widths: tuple[int, int, int, int] = (24, 64, 128, 160)
    depths: tuple[int, int, int, int] = (1, 2, 3, 1)
    dim: int = 96
    queries: int = 100
    decoder_layers: int = 2
    heads: int = 4
    teacher_dim: int = 96

    def to_dict(self) -> dict[str, object]:
        """The configuration as plain values for a checkpoint."""
        return asdict(self)


class ConvBN(nn.Sequential):
    """Convolution, batch norm and (unless switched off) ReLU."""

    def __init__(self, cin: int, cout: int, kernel: int = 3, stride: int = 1, *, act: bool = True) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(cout, momentum=0.03),
        ]
        if act:
            layers.append(nn.ReLU(inplace=True))
        super().__init__(*layers)


class Block(nn.Module):
    """Two 3x3 convolutions with a shortcut; the last norm starts at zero so that depth costs nothing at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.one = ConvBN(width, width)
        self.two = ConvBN(width, width, act=False)
        nn.init.constant_(self.two[1].weight, 0.2)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.two(self.one(x)))


class Backbone(nn.Module):
    """Features at strides 8, 16 and 32."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.stem = ConvBN(3, config.stem, 3, 2)
        stages, cin = [], config.stem
        for width, depth in zip(config.widths, config.depths, strict=True):
            stages.append(nn.Sequential(ConvBN(cin, width, 3, 2), *[Block(width) for _ in range(depth)]))
            cin = width
        self.stages = nn.ModuleList(stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features[1:]


class Context(nn.Module):
    """Pooled context at the coarsest level: a receptive field of the whole picture for large people."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.reduce = ConvBN(cin, cout, 1)
        self.mix = ConvBN(cout * 3, cout, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        y = F.max_pool2d(x, 5, 1, 2)
        return self.mix(torch.cat([x, y, F.max_pool2d(y, 5, 1, 2)], 1))


class Neck(nn.Module):
    """Top-down then bottom-up fusion to `dim` channels on each level."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        _, c8, c16, c32 = config.widths
        d = config.dim
        self.context = Context(c32, d)
        self.lateral16 = ConvBN(c16, d, 1)
        self.lateral8 = ConvBN(c8, d, 1)
        self.fuse16 = ConvBN(d, d)
        self.fuse8 = nn.Sequential(ConvBN(d, d // 2, 1), ConvBN(d // 2, d // 2), ConvBN(d // 2, d, 1))
        self.down16 = ConvBN(d, d, 3, 2)
        self.down32 = ConvBN(d, d, 3, 2)
        self.out16 = Block(d)
        self.out32 = Block(d)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        f8, f16, f32 = features
        p32 = self.context(f32)
        p16 = self.fuse16(self.lateral16(f16) + F.interpolate(p32, scale_factor=2.0, mode="nearest"))
        p8 = self.fuse8(self.lateral8(f8) + F.interpolate(p16, scale_factor=2.0, mode="nearest"))
        n16 = self.out16(p16 + self.down16(p8))
        n32 = self.out32(p32 + self.down32(n16))
        return [p8, n16, n32]


class DenseHead(nn.Module):
    """One proposal per location. Two class scores share the box: `many` (one person, many locations: dense teaching) and
    `one` (one person, one location: picks the queries, needs no suppression)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d = config.dim
        self.tower = nn.ModuleList([nn.Sequential(ConvBN(d, 64, 1), ConvBN(64, 64)) for _ in STRIDES])
        self.box = nn.ModuleList([nn.Conv2d(64, 4, 1) for _ in STRIDES])
        self.many = nn.ModuleList([nn.Conv2d(64, 1, 1) for _ in STRIDES])
        self.one = nn.ModuleList([nn.Conv2d(64, 1, 1) for _ in STRIDES])
        for box, many, one in zip(self.box, self.many, self.one, strict=True):
            nn.init.constant_(box.bias, 1.5)
            nn.init.constant_(many.bias, -4.6)
            nn.init.constant_(one.bias, -5.5)

    def forward(self, features: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Distances [B, N, 4] (left, top, right, bottom in strides), logits `many` and `one` [B, N]."""
        boxes, many, one = [], [], []
        for x, tower, box_head, many_head, one_head in zip(
            features, self.tower, self.box, self.many, self.one, strict=True
        ):
            t = tower(x)
            boxes.append(box_head(t).flatten(2))
            many.append(many_head(t).flatten(2))
            one.append(one_head(t).flatten(2))
        distances = F.softplus(torch.cat(boxes, 2).transpose(1, 2).float())
        return distances, torch.cat(many, 2)[:, 0].float(), torch.cat(one, 2)[:, 0].float()


def anchors(size: int) -> tuple[Tensor, Tensor]:
    """Centres [N, 2] in 0..1 and strides [N] in 0..1 of all locations of all levels."""
    points, strides = [], []
    for stride in STRIDES:
        n = size // stride
        axis = (torch.arange(n, dtype=torch.float32) + 0.5) / n
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        points.append(torch.stack([x, y], -1).reshape(-1, 2))
        strides.append(torch.full((n * n,), stride / size))
    return torch.cat(points), torch.cat(strides)


class Attention(nn.Module):
    """Multi-head attention with an optional additive bias [B, heads, Q, K]."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        b, n, d = query.shape
        m, h, e = key.shape[1], self.heads, d // self.heads
        q = self.q(query).reshape(b, n, h, e).transpose(1, 2)
        k = self.k(key).reshape(b, m, h, e).permute(0, 2, 3, 1)
        v = self.v(value).reshape(b, m, h, e).transpose(1, 2)
        scores = torch.matmul(q, k).float() * (1.0 / math.sqrt(e))
        if bias is not None:
            scores = scores + bias
        mixed = torch.matmul(scores.softmax(-1).to(v.dtype), v)
        return self.out(mixed.transpose(1, 2).reshape(b, n, d))


class DecoderLayer(nn.Module):
    """Self-attention, then cross-attention that looks near its own box (a learned Gaussian per head), then a small MLP."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d, h = config.dim, config.heads
        self.heads = h
        self.self_attn = Attention(d, h)
        self.cross_attn = Attention(d, h)
        self.gauss = nn.Linear(d, h * 4)
        self.mlp = nn.Sequential(nn.Linear(d, d * 2), nn.ReLU(inplace=True), nn.Linear(d * 2, d))
        self.norms = nn.ModuleList([nn.LayerNorm(d) for _ in range(3)])
        nn.init.zeros_(self.gauss.weight)
        spread = torch.tensor([[0.0, 0.0], [0.0, -0.25], [-0.25, 0.2], [0.25, 0.2]])[torch.arange(h) % 4]
        width = torch.tensor([0.7, 0.0, 0.0, 0.0])[torch.arange(h) % 4]
        with torch.no_grad():
            self.gauss.bias.copy_(torch.cat([spread, width[:, None].expand(h, 2)], 1).flatten())

    def bias(self, x: Tensor, box: Tensor, axes: list[Tensor]) -> Tensor:
        """The Gaussian prior [B, heads, Q, K] over the memory's locations, built from its two separable axes."""
        b, n, _ = x.shape
        g = self.gauss(x).float().reshape(b, n, self.heads, 4)
        centre = box[:, :, None, :2] + g[..., :2] * box[:, :, None, 2:]
        # A floor keeps the smallest people visible: at least about one cell of the finest memory level.
        sigma = torch.exp(g[..., 2:].clamp(-3, 3)) * 0.5 * box[:, :, None, 2:] + 0.04
        parts = []
        for axis in axes:
            d2 = -0.5 * ((axis - centre[..., None]) / sigma[..., None]).square()  # [B, Q, H, 2, n]
            parts.append((d2[..., 1, :, None] + d2[..., 0, None, :]).flatten(-2))
        return torch.cat(parts, -1).transpose(1, 2)

    def forward(self, x: Tensor, pos: Tensor, box: Tensor, key: Tensor, value: Tensor, axes: list[Tensor]) -> Tensor:
        q = x + pos
        x = self.norms[0](x + self.self_attn(q, q, x))
        x = self.norms[1](x + self.cross_attn(x + pos, key, value, self.bias(x, box, axes)))
        return self.norms[2](x + self.mlp(x))


def inverse_sigmoid(x: Tensor) -> Tensor:
    """The logit of x, kept finite."""
    x = x.clamp(1e-4, 1 - 1e-4)
    return torch.log(x / (1 - x))


class Decoder(nn.Module):
    """Takes the best proposals as queries and refines score and box in a few layers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d, size = config.dim, config.size
        self.queries = config.queries
        self.content = nn.Linear(d, d)
        self.content_norm = nn.LayerNorm(d)
        self.memory = nn.Linear(d, d)
        self.memory_norm = nn.LayerNorm(d)
        self.place = nn.Sequential(nn.Linear(8, d), nn.ReLU(inplace=True), nn.Linear(d, d))
        self.layers = nn.ModuleList([DecoderLayer(config) for _ in range(config.decoder_layers)])
        self.score = nn.ModuleList([nn.Linear(d, 1) for _ in range(config.decoder_layers)])
        self.box = nn.ModuleList(
            [nn.Sequential(nn.Linear(d, d), nn.ReLU(inplace=True), nn.Linear(d, 4)) for _ in self.layers]
        )
        for score, box in zip(self.score, self.box, strict=True):
            nn.init.zeros_(score.weight)
            nn.init.zeros_(score.bias)
            nn.init.zeros_(box[2].weight)
            nn.init.zeros_(box[2].bias)
        self.register_buffer("where", torch.empty(0), persistent=False)
        self.set_size(size)

    def set_size(self, size: int) -> None:
        """Make the memory's places for pictures of `size` pixels."""
        levels = [size // stride for stride in STRIDES[1:]]
        self.axes = [(torch.arange(n, dtype=torch.float32, device=self.where.device) + 0.5) / n for n in levels]
        points, strides = anchors(size)
        keep = points.shape[0] - sum(n * n for n in levels)
        where = self.place_code(points[keep:], strides[keep:, None].expand(-1, 2))
        self.where = where.to(self.where.device)

    @staticmethod
    def place_code(centre: Tensor, extent: Tensor) -> Tensor:
        """A smooth code [.., 8] of a box: the centre, its waves and the logarithm of the extent."""
        return torch.cat(
            [centre * 2 - 1, torch.sin(centre * 9.42), torch.cos(centre * 9.42), torch.log(extent + 0.01) * 0.5], -1
        )

    def forward(self, features: list[Tensor], one: Tensor, boxes: Tensor) -> tuple[list[Tensor], list[Tensor], Tensor]:
        """Per layer: logits [B, Q], boxes [B, Q, 4] (cx cy w h); and the chosen locations' indexes [B, Q]."""
        tokens = torch.cat([f.flatten(2).transpose(1, 2) for f in features], 1)
        coarse = tokens[:, -self.where.shape[0] :]
        value = self.memory_norm(self.memory(coarse))
        key = value + self.place(self.where.to(value.dtype))
        _, index = torch.topk(one, self.queries, dim=1)
        spread = index[:, :, None]
        x = self.content_norm(self.content(torch.gather(tokens, 1, spread.expand(-1, -1, tokens.shape[2]))))
        box = torch.gather(boxes, 1, spread.expand(-1, -1, 4)).detach()
        logit = torch.gather(one, 1, index).detach()
        logits, refined = [], []
        for layer, score_head, box_head in zip(self.layers, self.score, self.box, strict=True):
            x = layer(
                x, self.place(self.place_code(box[..., :2], box[..., 2:]).to(x.dtype)), box, key, value, self.axes
            )
            logit = logit.detach() + score_head(x).float()[..., 0]
            box = torch.sigmoid(inverse_sigmoid(box.detach()) + box_head(x).float())
            logits.append(logit)
            refined.append(box)
        return logits, refined, index


class PersonDetr(nn.Module):
    """The whole detector. `forward` gives everything that training needs, `detect` what is shipped."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.input_scale = 1.0 / 255.0  # export folds it into the first convolution and sets it to 1
        self.score_shift = 0.0  # export sets it, so that the score to act on is 0.5
        self.backbone = Backbone(config)
        self.neck = Neck(config)
        self.head = DenseHead(config)
        self.decoder = Decoder(config)
        self.register_buffer("points", torch.empty(0), persistent=False)
        self.register_buffer("strides", torch.empty(0), persistent=False)
        self.set_size(config.size)

    def set_size(self, size: int) -> None:
        """Take pictures of `size` x `size` pixels, a multiple of 32; the weights fit every size."""
        points, strides = anchors(size)
        self.points, self.strides = points.to(self.points.device), strides.to(self.points.device)
        self.decoder.set_size(size)

    def proposals(self, distances: Tensor) -> Tensor:
        """Distances in strides [B, N, 4] -> boxes x1 y1 x2 y2 in 0..1, clipped to the picture."""
        d = distances * self.strides[None, :, None]
        return torch.cat([self.points - d[..., :2], self.points + d[..., 2:]], -1)

    def forward(self, image: Tensor) -> dict[str, Tensor | list[Tensor]]:
        x = image.permute(0, 3, 1, 2).float()
        if self.input_scale != 1.0:
            x = x * self.input_scale
        features = self.neck(self.backbone(x))
        distances, many, one = self.head(features)
        corners = self.proposals(distances)
        logits, boxes, index = self.decoder(features, one, to_centre(corners.clamp(0, 1)))
        return {
            "features": features,
            "corners": corners,
            "many": many,
            "one": one,
            "logits": logits,
            "boxes": boxes,
            "index": index,
        }

    def detect(self, image: Tensor) -> Tensor:
        """uint8 [B, H, W, 3] -> [B, Q, 6]: x1 y1 x2 y2 in 0..1, score, class id (1 = person)."""
        out = self.forward(image)
        # The proposal's own score suppresses duplicates, the decoder's knows the rest of the picture: their mean ranks best.
        logit = (out["logits"][-1] + torch.gather(out["one"], 1, out["index"])) * 0.5
        box, score = out["boxes"][-1], torch.sigmoid(logit + self.score_shift)[..., None]
        half = box[..., 2:] * 0.5
        corners = torch.cat([box[..., :2] - half, box[..., :2] + half], -1).clamp(0, 1)
        return torch.cat([corners, score, torch.ones_like(score)], -1)


def to_centre(corners: Tensor) -> Tensor:
    """x1 y1 x2 y2 -> cx cy w h."""
    low, high = corners[..., :2], corners[..., 2:]
    return torch.cat([(low + high) * 0.5, high - low], -1)


def to_corners(boxes: Tensor) -> Tensor:
    """cx cy w h -> x1 y1 x2 y2."""
    half = boxes[..., 2:] * 0.5
    return torch.cat([boxes[..., :2] - half, boxes[..., :2] + half], -1)
