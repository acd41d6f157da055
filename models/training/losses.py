"""Matching and losses: dense one-to-many and one-to-one assignment, Hungarian set matching, feature imitation.

All boxes are in 0..1 of the picture. `Truth` is padded: boxes [B, M, 4] x1 y1 x2 y2, weights [B, M] (0 = padding, 1 = marked
by hand, else the teacher's score), ignore [B, K, 4] with zero-sized padding. Every loss is computed in float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from model import to_centre, to_corners


@dataclass(frozen=True, slots=True)
class Truth:
    """The padded truth of a batch."""

    boxes: Tensor
    weights: Tensor
    ignore: Tensor


def make_truth(boxes: list[np.ndarray], weights: list[np.ndarray], ignore: list[np.ndarray]) -> Truth:
    """Pad the per-picture truth to one tensor each."""
    most = max(1, *(len(b) for b in boxes))
    most_ignored = max(1, *(len(b) for b in ignore))
    truth = Truth(
        torch.zeros(len(boxes), most, 4), torch.zeros(len(boxes), most), torch.zeros(len(boxes), most_ignored, 4)
    )
    for i, (box, weight, ignored) in enumerate(zip(boxes, weights, ignore, strict=True)):
        truth.boxes[i, : len(box)] = torch.from_numpy(box)
        truth.weights[i, : len(box)] = torch.from_numpy(weight)
        truth.ignore[i, : len(ignored)] = torch.from_numpy(ignored)
    return truth


def _area(b: Tensor) -> Tensor:
    return (b[..., 2] - b[..., 0]).clamp(min=0) * (b[..., 3] - b[..., 1]).clamp(min=0)


def iou(a: Tensor, b: Tensor, *, general: bool = False) -> Tensor:
    """IoU (or GIoU) of boxes that broadcast against each other, [...]."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    common = (high - low).clamp(min=0).prod(-1)
    union = _area(a) + _area(b) - common
    value = common / union.clamp(min=1e-9)
    if not general:
        return value
    hull = (torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])).clamp(min=0).prod(-1)
    return value - (hull - union) / hull.clamp(min=1e-9)


@dataclass(frozen=True, slots=True)
class Assignment:
    """Dense targets: class target [B, N], person index [B, N], and which locations are positive [B, N]."""

    target: Tensor
    person: Tensor
    positive: Tensor


@torch.no_grad()
def candidates(points: Tensor, truth: Truth, reach: float) -> Tensor:
    """Which locations lie in which persons [B, M, N]; the smallest persons are grown to `reach` so that they own some."""
    centre = to_centre(truth.boxes)
    half = (centre[..., 2:] * 0.5).clamp(min=reach)
    near = (points - centre[:, :, None, :2]).abs() < half[:, :, None]
    return near.all(-1) & (truth.weights > 0)[:, :, None]


@torch.no_grad()
def assign(scores: Tensor, overlaps: Tensor, inside: Tensor, truth: Truth, top: int) -> Assignment:
    """Task-aligned assignment: each person takes the `top` locations by score x IoU^4; a location serves one person."""
    metric = scores[:, None].clamp(min=1e-4).sqrt() * overlaps.pow(4) * inside + 1e-9 * inside
    best, where = metric.topk(top, dim=2)
    chosen = torch.zeros_like(inside).scatter_(2, where, best > 0)
    rivals = torch.where(chosen, metric, -1.0)
    owner_metric, owner = rivals.max(1)
    positive = owner_metric >= 0
    mine = chosen & (owner[:, None] == torch.arange(metric.shape[1])[None, :, None])
    aligned = metric * mine
    peak = (overlaps * mine).amax(2, keepdim=True)
    quality = (aligned / aligned.amax(2, keepdim=True).clamp(min=1e-9)) * peak * truth.weights[:, :, None]
    return Assignment(quality.amax(1) * positive, owner, positive)


def dense_losses(out: dict[str, Tensor], points: Tensor, reach: float, truth: Truth) -> dict[str, Tensor]:
    """Losses of the dense head: both class scores and the box."""
    corners, many, one = out["corners"], out["many"], out["one"]
    inside = candidates(points, truth, reach)
    with torch.no_grad():
        overlaps = iou(truth.boxes[:, :, None], corners.detach().clamp(0, 1)[:, None])
        hidden = _inside_any(points, truth.ignore)
        wide = assign(many.sigmoid(), overlaps, inside, truth, 10)
        narrow = assign(one.sigmoid(), overlaps, inside, truth, 1)
    losses = {}
    for name, logits, plan in (("many", many, wide), ("one", one, narrow)):
        weight = 1.0 - (hidden & ~plan.positive).float()
        loss = F.binary_cross_entropy_with_logits(logits, plan.target, reduction="none") * weight
        losses[name] = loss.sum() / plan.target.sum().clamp(min=4.0)
    picked = wide.positive.nonzero(as_tuple=True)
    person = truth.boxes[picked[0], wide.person[picked]]
    weight = wide.target[picked].clamp(min=0.05)
    general = 1.0 - iou(corners[picked], person, general=True)
    losses["box"] = (general * weight).sum() / weight.sum().clamp(min=1.0)
    return losses


def _inside_any(points: Tensor, areas: Tensor) -> Tensor:
    """Which points lie in any of the areas: [B, N]."""
    p = points[None, :, None]
    return ((p > areas[:, None, :, :2]) & (p < areas[:, None, :, 2:])).all(-1).any(-1)


@torch.no_grad()
def match(logits: Tensor, boxes: Tensor, truth: Truth) -> tuple[Tensor, Tensor, Tensor]:
    """Hungarian matching of a batch: indexes (picture, query, person) of all pairs."""
    p = logits.sigmoid()
    cost_class = 0.25 * (1 - p).square() * -(p + 1e-8).log() - 0.75 * p.square() * -(1 - p + 1e-8).log()
    cost_box = torch.cdist(boxes, to_centre(truth.boxes), p=1)
    cost_iou = -iou(to_corners(boxes)[:, :, None], truth.boxes[:, None], general=True)
    cost = (2 * cost_class[..., None] + 5 * cost_box + 2 * cost_iou).numpy()
    pictures, queries, persons = [], [], []
    for i, number in enumerate((truth.weights > 0).sum(1).tolist()):
        rows, columns = linear_sum_assignment(cost[i, :, :number])
        pictures.append(np.full(len(rows), i))
        queries.append(rows)
        persons.append(columns)
    return tuple(torch.from_numpy(np.concatenate(part)).long() for part in (pictures, queries, persons))


def set_losses(logits: Tensor, boxes: Tensor, truth: Truth) -> dict[str, Tensor]:
    """Losses of one decoder layer after Hungarian matching; the class target is the pair's IoU (varifocal)."""
    picture, query, person = match(logits, boxes, truth)
    corners = to_corners(boxes)
    wanted = truth.boxes[picture, person]
    weight = truth.weights[picture, person]
    number = weight.sum().clamp(min=4.0)
    mine = boxes[picture, query]
    overlaps = iou(corners[picture, query].detach(), wanted)
    target = torch.zeros_like(logits)
    target[picture, query] = overlaps * weight
    matched = torch.zeros_like(logits, dtype=torch.bool)
    matched[picture, query] = True
    with torch.no_grad():
        low = torch.maximum(corners[:, :, None, :2], truth.ignore[:, None, :, :2])
        high = torch.minimum(corners[:, :, None, 2:], truth.ignore[:, None, :, 2:])
        share = ((high - low).clamp(min=0).prod(-1) / _area(corners)[:, :, None].clamp(min=1e-9)).amax(2)
        modulation = torch.where(matched, target.clamp(min=0.1), 0.75 * logits.sigmoid().square())
        modulation = modulation * ~((share > 0.5) & ~matched)
    score = F.binary_cross_entropy_with_logits(logits, target, reduction="none") * modulation
    general = 1.0 - iou(to_corners(mine), wanted, general=True)
    return {
        "score": score.sum() / number,
        "l1": ((mine - to_centre(wanted)).abs().sum(-1) * weight).sum() / number,
        "giou": (general * weight).sum() / number,
    }


def imitation(student: list[Tensor], teacher: list[Tensor]) -> Tensor:
    """Mean squared error of standardised feature maps (student maps already projected to the teacher's channels)."""
    return sum(F.mse_loss(s.float(), t.float()) for s, t in zip(student, teacher, strict=True)) / len(student)


WEIGHTS = {"many": 1.0, "one": 1.0, "box": 2.5, "score": 1.0, "l1": 2.5, "giou": 1.0, "imitate": 4.0}


def total(losses: dict[str, Tensor]) -> Tensor:
    """The weighted sum."""
    return sum(WEIGHTS[name] * value for name, value in losses.items())
