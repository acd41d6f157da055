"""Judge an exported sentry model: photos (AP), clips with known truth, the demo scene, empty windows, latency.

Nothing judged here was trained on: the val split, the night photos, the two clips, demo seeds 1 and 1000-1004. Writes one JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime

from data import Composer, load_coco, overlap
from score import person_ap

SHARED = Path(__file__).resolve().parents[3] / "shared"
THRESHOLDS = (0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8)
EDGE_S = 0.5  # the truth of the clips is good to about this much at both ends of an interval
DEMO_SEEDS = (1, 1000, 1001, 1002, 1003, 1004)


class Detector:
    """The ONNX file on ONNX Runtime."""

    def __init__(self, path: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        _, self.height, self.width, _ = self.session.get_inputs()[0].shape

    def __call__(self, image: np.ndarray) -> np.ndarray:
        small = cv2.resize(image, (self.width, self.height), interpolation=cv2.INTER_LINEAR)
        return self.session.run(["detections"], {"image": small[None]})[0][0]

    def latency(self, runs: int) -> dict[str, float]:
        """Milliseconds of the model alone; `cpu` is process time, which other load disturbs less."""
        image = np.random.default_rng(0).integers(0, 256, (1, self.height, self.width, 3)).astype(np.uint8)
        wall, cpu = [], []
        for _ in range(runs):
            w, c = time.perf_counter(), time.process_time()
            self.session.run(None, {"image": image})
            wall.append((time.perf_counter() - w) * 1e3)
            cpu.append((time.process_time() - c) * 1e3)
        return {
            "wall_ms_min": round(min(wall), 2),
            "wall_ms_p50": round(float(np.median(wall)), 2),
            "cpu_ms_min": round(min(cpu), 2),
            "cpu_ms_p50": round(float(np.median(cpu)), 2),
        }


def clip(path: Path, detect: Detector) -> dict[str, object]:
    """Recall within each visible interval and false alarms outside of them, for each threshold."""
    truth = json.loads(path.with_suffix(".json").read_text())
    video = cv2.VideoCapture(str(path))
    best = []
    while True:
        more, frame = video.read()
        if not more:
            break
        best.append(float(detect(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))[:, 4].max()))
    scores = np.asarray(best)
    times = np.arange(len(scores)) / truth["fps"]
    spans = [(part["start"], part["end"]) for part in truth["visible"]]
    empty = np.ones(len(scores), bool)
    for start, end in spans:
        empty &= (times < start - EDGE_S) | (times > end + EDGE_S)
    table = {}
    for threshold in THRESHOLDS:
        hit = scores >= threshold
        recalls, delays = [], []
        for start, end in spans:
            inside = (times >= start) & (times <= end)
            seen = times[inside & hit]
            recalls.append(round(float(hit[inside].mean()), 3))
            delays.append(round(float(seen[0] - start), 2) if len(seen) else None)
        table[str(threshold)] = {
            "false_alarm_frames": int((hit & empty).sum()),
            "longest_false_run": _longest(hit & empty),
            "interval_recall": recalls,
            "first_seen_after_s": delays,
        }
    return {
        "frames": len(scores),
        "empty_frames": int(empty.sum()),
        "highest_empty_score": round(float(scores[empty].max()), 3),
        "by_threshold": table,
    }


def _longest(flags: np.ndarray) -> int:
    longest = run = 0
    for flag in flags:
        run = run + 1 if flag else 0
        longest = max(longest, run)
    return longest


def demo(detect: Detector) -> dict[str, object] | str:
    """The drawn figure: recall at IoU 0.5 and false alarms in the empty stretches."""
    try:
        from detr_sentry.capture.demo import DemoScene
    except ImportError:
        return "the engine is not importable"
    found, empty = [], []
    for seed in DEMO_SEEDS:
        scene = DemoScene(seed=seed, period_s=40.0, width=1280, height=720)
        for at in np.arange(0.25, 40.0, 1.0):
            rows = detect(scene.frame(float(at)))
            truth = np.asarray(scene.truth(float(at)), np.float32).reshape(-1, 4) / (1280, 720, 1280, 720)
            if len(truth):
                near = overlap(rows[:, :4], truth).max(1) >= 0.5
                found.append(float(rows[near, 4].max(initial=0.0)))
            else:
                empty.append(float(rows[:, 4].max()))
    return {
        "frames_with_person": len(found),
        "frames_empty": len(empty),
        "highest_empty_score": round(max(empty), 3),
        "by_threshold": {
            str(t): {
                "recall_at_iou50": round(float(np.mean(np.asarray(found) >= t)), 3),
                "false_alarm_frames": int((np.asarray(empty) >= t).sum()),
            }
            for t in THRESHOLDS
        },
    }


def precision_recall(
    photos: list, detect: Detector, thresholds: tuple[float, ...] = THRESHOLDS
) -> dict[str, dict[str, float]]:  # noqa: ANN001 - list[Photo]
    """Precision and recall at IoU 0.5 over the photos (greedy by score, crowds ignored)."""
    scores, right, people = [], [], 0
    for photo in photos:
        h, w = photo.image.shape[:2]
        unit = np.array([w, h, w, h], np.float32)
        rows = detect(photo.image)
        rows = rows[rows[:, 4].argsort()[::-1]]
        free = np.ones(len(photo.boxes), bool)
        people += len(free)
        iou = overlap(rows[:, :4], photo.boxes / unit)
        crowd = overlap(rows[:, :4], photo.ignore / unit, of_first=True).max(1, initial=0) > 0.5
        for i in range(len(rows)):
            options = np.where(free, iou[i], 0.0)
            best = int(options.argmax()) if len(options) else -1
            if best >= 0 and options[best] >= 0.5:
                free[best] = False
            elif crowd[i]:
                continue
            scores.append(rows[i, 4])
            right.append(best >= 0 and options[best] >= 0.5)
    score, good = np.asarray(scores), np.asarray(right)
    return {
        str(t): {
            "precision": round(float(good[score >= t].mean()) if (score >= t).any() else 1.0, 3),
            "recall": round(float(good[score >= t].sum() / people), 3),
        }
        for t in thresholds
    }


def best_threshold(photos: list, detect: Detector) -> float:  # noqa: ANN001
    """The score with the highest F1 on the photos; `export.py --raw-threshold` takes it."""
    table = precision_recall(photos, detect, tuple(round(float(t), 2) for t in np.arange(0.05, 0.9, 0.01)))
    return max(
        ((2 * row["precision"] * row["recall"] / (row["precision"] + row["recall"] + 1e-9)), float(t))
        for t, row in table.items()
    )[1]


def empty_windows(photos: list, detect: Detector, number: int = 600) -> dict[str, object]:  # noqa: ANN001
    """False alarms in person-free windows of the val photos (some hold unmarked far people, so this is an upper bound)."""
    composer = Composer(photos, [], 4242)
    best = np.asarray(
        [float(detect(composer._negative(np.random.default_rng([4242, i])).image)[:, 4].max()) for i in range(number)]
    )
    return {"windows": number, "share_with_alarm": {str(t): round(float((best >= t).mean()), 4) for t in THRESHOLDS}}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--calibrate", action="store_true", help="only print the score of the highest F1 on val")
    parser.add_argument("--shared", type=Path, default=SHARED)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="leave out the night photos")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    detect = Detector(args.model, args.threads)
    photos, records = load_coco(args.shared / "persondata" / "train_val", "val")
    if args.calibrate:
        print(best_threshold(photos, detect))
        return
    sizes = [int(np.prod(t.dims)) for t in onnx.load(args.model).graph.initializer]
    report: dict[str, object] = {
        "model_sha256": hashlib.sha256(args.model.read_bytes()).hexdigest(),
        "model_bytes": args.model.stat().st_size,
        "model_values": sum(sizes),
        "input": [detect.height, detect.width],
        "threshold": float(onnx_metadata(args.model)["detr_sentry.threshold"]),
    }
    report["val"] = person_ap(args.shared / "persondata" / "train_val", "val", photos, records, detect)
    report["val_by_threshold"] = precision_recall(photos, detect)
    report["empty_windows"] = empty_windows(photos, detect)
    if not args.quick:
        night, night_records = load_coco(args.shared / "persondata" / "night_eval", None)
        report["night"] = person_ap(args.shared / "persondata" / "night_eval", None, night, night_records, detect)
    report["clips"] = {path.name: clip(path, detect) for path in sorted((args.shared / "media").glob("*.mp4"))}
    report["demo"] = demo(detect)
    report["latency"] = {
        "load_average": round(os.getloadavg()[0], 2),
        "threads_1": Detector(args.model, 1).latency(100),
        "threads_2": Detector(args.model, 2).latency(100),
    }
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report))


def onnx_metadata(path: Path) -> dict[str, str]:
    """The metadata of an ONNX file."""
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


if __name__ == "__main__":
    main()
