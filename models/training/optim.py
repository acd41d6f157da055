"""Muon for the matrices of the hidden layers, AdamW for everything else; the moving average of the weights.

Muon replaces a matrix's momentum by its nearest orthogonal matrix (five Newton-Schulz steps), which learns markedly more
from each sample on small convolutional networks, and samples are what a CPU is short of.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


@torch.no_grad()
def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """An approximation of the nearest semi-orthogonal matrices of a stack [n, rows, columns]."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    flip = x.shape[-2] > x.shape[-1]
    if flip:
        x = x.mT
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if flip else x).float()


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonal updates for weights of two or more dimensions (seen as [out, rest])."""

    def __init__(
        self, params: list[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = {}
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                state["momentum"].lerp_(p.grad, 1 - group["momentum"])
                push = p.grad.lerp(state["momentum"], group["momentum"]).reshape(p.shape[0], -1)
                alike.setdefault(tuple(push.shape), []).append((p, push))
            for shape, members in alike.items():
                updates = orthogonal(torch.stack([push for _, push in members]))
                # The same root-mean-square step as AdamW, so that one learning rate and decay fit both.
                size = group["lr"] * 0.2 * max(shape) ** 0.5
                for (p, _), update in zip(members, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(update.reshape(p.shape), alpha=-size)


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter], list[nn.Parameter]]:
    """Parameters for Muon, for AdamW with decay, and for AdamW without."""
    hidden, decayed, free = [], [], []
    for name, p in model.named_parameters():
        if p.ndim < 2:
            free.append(p)
        elif p.shape[0] <= 16 or name.startswith("backbone.stem") or "gauss" in name:
            decayed.append(p)
        else:
            hidden.append(p)
    return hidden, decayed, free


class Average:
    """An exponential moving average of weights and buffers; what is evaluated and shipped."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.steps = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move towards the model; quickly at first."""
        self.steps += 1
        keep = min(self.decay, self.steps / (self.steps + 20.0))
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))
        moving = [pair for pair in pairs if pair[0].dtype.is_floating_point]
        torch._foreach_lerp_([mine for mine, _ in moving], [theirs for _, theirs in moving], 1 - keep)
        for mine, theirs in pairs:
            if not mine.dtype.is_floating_point:
                mine.copy_(theirs)
