"""Train the embedded person detector. `python models/training/train.py --help`; the README beside this file has the commands.

The schedule follows the clock: `--minutes` of training are spread over one warm-up and one cosine, however busy the machine
is, and a run that was stopped goes on where its checkpoint left it (`--run` is its folder).
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import math
import os
import time
from pathlib import Path

# Threads that wait must sleep: on a shared machine a spinning thread keeps its own partner from running.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import cv2
import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from curves import draw
from data import Composer, load_coco, load_demo
from losses import WEIGHTS, dense_losses, imitation, set_losses, total
from model import ModelConfig, PersonDetr
from optim import Average, Muon, split_parameters
from pool import Batch, Feed, Pool
from score import person_ap
from teacher import Teacher

SHARED = Path(__file__).resolve().parents[3] / "shared"
COLUMNS = ("round", "minutes", "samples", "rate", *WEIGHTS, "ap", "ap50")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder of the run: checkpoint, log, curves")
    parser.add_argument("--data", type=Path, default=SHARED / "persondata" / "train_val")
    parser.add_argument("--teacher", type=Path, default=SHARED / "models" / "deimv2_hgnetv2_femto_coco.onnx")
    parser.add_argument("--minutes", type=float, default=100.0, help="length of the schedule in minutes of training")
    parser.add_argument("--until", help="HH:MM: end the schedule by that time of day instead")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--decay", type=float, default=0.05, help="weight decay")
    parser.add_argument("--pool", type=int, default=2048, help="views held; each is seen pool / fresh times")
    parser.add_argument("--fresh", type=int, default=1024, help="new views a round")
    parser.add_argument("--evaluate-every", type=int, default=3, help="rounds between evaluations on the val split")
    parser.add_argument("--plain", type=float, default=0.15, help="last part of the schedule without mosaics")
    parser.add_argument("--size", type=int, help="train on smaller pictures first: cheaper; judged at the full size")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


class Run:
    """One training run: state, schedule, checkpoints."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        args.run.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(args.seed)
        torch.set_num_threads(args.threads)
        cv2.setNumThreads(1)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.config = ModelConfig()
        self.model = PersonDetr(self.config).to(self.device, memory_format=torch.channels_last)
        self.project = nn.ModuleList([nn.Conv2d(self.config.dim, self.config.teacher_dim, 1) for _ in range(2)]).to(
            self.device
        )
        hidden, decayed, free = split_parameters(self.model)
        self.optimizers: list[torch.optim.Optimizer] = [
            Muon(hidden, args.rate, weight_decay=args.decay),
            torch.optim.AdamW(
                [
                    {"params": decayed, "weight_decay": args.decay},
                    {"params": [*free, *self.project.parameters()], "weight_decay": 0.0},
                ],
                lr=args.rate,
                betas=(0.9, 0.99),
            ),
        ]
        self.average = Average(self.model, 0.999)
        self.round, self.samples, self.spent = 0, 0, 0.0
        self.rows: list[dict[str, object]] = []
        self.statistics: list[tuple[torch.Tensor, torch.Tensor]] | None = None
        self.resume()
        self.started = time.monotonic()
        self.size = args.size or self.config.size
        self.model.set_size(self.size)
        self.length = args.minutes * 60.0
        if args.until:
            hour, minute = map(int, args.until.split(":"))
            now = datetime.datetime.now()
            left = (now.replace(hour=hour, minute=minute, second=0) - now).total_seconds()
            self.length = self.spent + max(left, 60.0)

    @property
    def elapsed(self) -> float:
        """Seconds of training so far, over all starts."""
        return self.spent + time.monotonic() - self.started

    @property
    def progress(self) -> float:
        """Share of the schedule that is over, 0..1."""
        return min(self.elapsed / self.length, 1.0)

    def learning_rate(self) -> float:
        """Warm-up, then a cosine to one hundredth."""
        warm = min(1.0, (self.samples / 16 + 1) / 150)
        return self.args.rate * warm * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * self.progress)))

    def resume(self) -> None:
        """Go on from the folder's checkpoint, if it has one."""
        path = self.args.run / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.project.load_state_dict(state["project"])
        self.average.model.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.average.steps, self.statistics = state["steps"], [tuple(pair) for pair in state["statistics"]]
        self.round, self.samples, self.spent = state["round"], state["samples"], state["spent"]
        self.rows = json.loads((self.args.run / "rows.json").read_text())[: self.round]

    def save(self) -> None:
        """Write the checkpoint and the log; never leaves a half-written checkpoint."""
        state = {
            "config": self.config.to_dict(),
            "model": self.model.state_dict(),
            "project": self.project.state_dict(),
            "average": self.average.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "steps": self.average.steps,
            "statistics": [list(pair) for pair in self.statistics or []],
            "round": self.round,
            "samples": self.samples,
            "spent": self.elapsed,
        }
        torch.save(state, self.args.run / "checkpoint.tmp")
        os.replace(self.args.run / "checkpoint.tmp", self.args.run / "checkpoint.pt")
        (self.args.run / "rows.json").write_text(json.dumps(self.rows))
        with (self.args.run / "training_log.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)
        draw(self.rows, self.args.run / "curves.png")

    def step(self, batch: Batch) -> dict[str, float]:
        """One optimisation step."""
        rate = self.learning_rate()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
        self.model.train()
        with torch.autocast(self.device.type, torch.bfloat16):
            out = self.model(batch.image.to(self.device))
            seen = [p(f) for p, f in zip(self.project, out["features"][1:], strict=True)]
        wanted = [
            (m.to(self.device, torch.float32) - mean) / deviation
            for m, (mean, deviation) in zip(batch.maps, self.statistics or [], strict=True)
        ]
        losses = dense_losses(out, self.model.points, 0.6 * 8 / self.size, batch.truth)
        losses["imitate"] = imitation(seen, wanted)
        for logits, boxes in zip(out["logits"], out["boxes"], strict=True):
            for name, value in set_losses(logits, boxes, batch.truth).items():
                losses[name] = losses.get(name, 0.0) + value
        loss = total(losses)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 20.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self.average.update(self.model)
        self.samples += len(batch.image)
        return {name: float(value.detach()) for name, value in losses.items()}


def main() -> None:
    """Train until the schedule is over."""
    args = arguments()
    run = Run(args)
    photos, _ = load_coco(args.data, "train")
    judged, records = load_coco(args.data, "val")
    demo = load_demo(range(2000, 2060), 6)
    teacher = Teacher(args.teacher, threads=args.threads)
    parameters = sum(p.numel() for p in run.model.parameters())
    print(
        f"{len(photos)} photos, {len(demo)} demo frames, teacher on {teacher.runtime}, {parameters:,} parameters",
        flush=True,
    )
    pool = Pool(Composer(photos, demo, args.seed), teacher, size=run.size, capacity=args.pool)
    run.started = time.monotonic()
    feed = Feed(
        pool,
        fresh=args.fresh,
        batch=args.batch,
        seed=args.seed,
        first_round=run.round,
        plain=lambda: run.progress > 1 - args.plain,
    )

    def detect(image: np.ndarray) -> np.ndarray:
        small = cv2.resize(image, (run.config.size, run.config.size), interpolation=cv2.INTER_LINEAR)
        with torch.no_grad(), torch.autocast(run.device.type, torch.bfloat16):
            return run.average.model.detect(torch.from_numpy(small)[None].to(run.device))[0].float().cpu().numpy()

    while run.progress < 1.0:
        sums: dict[str, float] = {}
        steps = 0
        with tqdm(total=args.pool, desc=f"round {run.round + 1}", mininterval=5) as bar:
            for batch in feed.round():
                run.statistics = run.statistics or pool.statistics()
                for name, value in run.step(batch).items():
                    sums[name] = sums.get(name, 0.0) + value
                steps += 1
                bar.update(len(batch.image))
                bar.set_postfix_str(f"loss {sum(WEIGHTS[n] * v for n, v in sums.items()) / steps:.3f}", refresh=False)
                if run.progress >= 1.0:
                    break
        run.round += 1
        row: dict[str, object] = {
            "round": run.round,
            "minutes": round(run.elapsed / 60, 2),
            "samples": run.samples,
            "rate": round(run.learning_rate(), 7),
            **{name: round(value / steps, 5) for name, value in sums.items()},
        }
        if run.round % args.evaluate_every == 0 or run.progress >= 1.0:
            scores = person_ap(args.data, "val", judged, records, detect)
            row |= {"ap": scores["ap"], "ap50": scores["ap50"]}
            print(json.dumps(row), flush=True)
        run.rows.append(row)
        run.save()


if __name__ == "__main__":
    main()
