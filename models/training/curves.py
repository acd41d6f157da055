"""Draws the curves of a run: losses and person AP over the minutes of training."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 - the backend comes first

LOSSES = ("many", "one", "box", "score", "l1", "giou", "imitate")


def draw(rows: list[dict[str, object]], path: Path) -> None:
    """Write a PNG of the rows of the training log."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    for name in LOSSES:
        points = [(row["minutes"], row[name]) for row in rows if name in row]
        left.plot(*zip(*points, strict=True), label=name)
    left.set(xlabel="minutes of training", ylabel="loss", yscale="log", title="Training losses (unweighted)")
    left.legend(ncols=2, fontsize=8)
    judged = [row for row in rows if "ap50" in row]
    for name, label in (("ap50", "AP50"), ("ap", "AP 50:95")):
        right.plot([row["minutes"] for row in judged], [row[name] for row in judged], marker=".", label=label)
    right.set(xlabel="minutes of training", ylabel="person AP on val", title="Averaged weights on the val split")
    right.grid(alpha=0.3)
    right.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
