"""Write the model card of `models/embedded/` from its metrics, and copy the run's log and curves there.

Every number of the card comes from `metrics.json` or the run's log.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

CARD = """# Embedded person detector

`person_detr.onnx`: finds people when nothing better is installed. {values:,} parameters, {megabytes:.1f} MB, input 320x320 RGB
(stretched), 100 queries, one class. Trained from random weights by `models/training/`; the command is in `COMMAND`, the curve in
`curves.png` (of the decoder's own score; the shipped mean of two scores ranks better), every round in `training_log.csv`, every
measured number below in `metrics.json`.

It is a small stand-in, about {share:.0%} of the person AP50 of the published DEIMv2 Femto on the same photos ({teacher_ap50:.3f}, at 416x416).
Install RF-DETR for a real watch: `detr-sentry models pull`.

| what | AP | AP50 | photos | people |
|---|---|---|---|---|
| val split | {val[ap]:.3f} | {val[ap50]:.3f} | {val[photos]} | {val[people]} |
| night street (never trained on) | {night[ap]:.3f} | {night[ap50]:.3f} | {night[photos]} | {night[people]} |

By size on val: AP small {val[ap_small]:.3f}, medium {val[ap_medium]:.3f}, large {val[ap_large]:.3f}. All at full recall depth (no
threshold), pycocotools, crowds ignored. The threshold (best F1) and the mean of the two scores were chosen on val, nothing on the
night photos, the clips or the demo.

## At the suggested threshold {threshold}

| where | result |
|---|---|
| val split | precision {at[precision]:.3f}, recall {at[recall]:.3f} at IoU 0.5 |
| {windows} person-free windows of val photos | {window_alarm:.2%} with a false alarm (some hold far people nobody marked) |
{clips}
| demo scene, six seeds | recall {demo_at[recall_at_iou50]:.3f} of {demo[frames_with_person]} frames, false alarms in {demo_at[false_alarm_frames]} of {demo[frames_empty]} empty frames (highest score {demo[highest_empty_score]:.2f}) |

Clips are judged frame by frame, without the sentry's own confirmation over several frames; frames within 0.5 s of an edge of
an interval are left out of the empty ones. Other thresholds are in `metrics.json`.

## Speed

ONNX Runtime, model alone, while the machine had a load average of {latency[load_average]} on 2 cores: one thread
{latency[threads_1][cpu_ms_min]} ms of CPU ({latency[threads_1][wall_ms_min]} ms wall, minimum of 100), two threads {latency[threads_2][wall_ms_min]} ms wall minimum,
{latency[threads_2][wall_ms_p50]} ms median.

## Data and terms

| used for | what | terms |
|---|---|---|
| training | 3,141 photos with people: COCO (val2017 and train2017 parts), Penn-Fudan (170) | COCO annotations CC BY 4.0, photos under their own Flickr licences; Penn-Fudan published for research |
| training | frames of the project's own demo scene, drawn textures | this project |
| teaching | answers of DEIMv2 Femto (COCO) for those views: boxes, scores, feature maps; its weights are not used | Apache-2.0 |
| evaluation only | 332 photos (val), 1,092 night street photos, two clips, other demo seeds | see `metrics.json` |

Most photos with people of COCO val2017 were trained on: **val2017 is no benchmark for this model.** The weights are published under this project's
licence; who needs weights free of photo terms trains their own by the same programs.

## Limits

- Small people (below about a tenth of the picture's height), crowds, seen from straight above, lying down, mostly hidden: often missed.
- Swaying leaves, above all blurred ones, raise false alarms in nearly every frame (the waving-trees clip): mask trees with a zone.
- Darkness costs much: see the night row.
- One person is sometimes found twice, with boxes that overlap much: `count` can be too high. The alarm itself is not affected.
- One class only. Dolls, posters and screens that show people count as people.
- Trained for {minutes:.0f} minutes on two shared CPU cores ({samples:,} views shown, {rounds} rounds); {trend}
"""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("embedded", type=Path, help="folder with metrics.json; the card goes there")
    parser.add_argument("run", type=Path, help="folder of the training run")
    parser.add_argument("--teacher-ap50", type=float, default=0.689, help="the teacher's person AP50 on val")
    args = parser.parse_args()
    metrics = json.loads((args.embedded / "metrics.json").read_text())
    for name in ("training_log.csv", "curves.png"):
        shutil.copyfile(args.run / name, args.embedded / name)
    rows = json.loads((args.run / "rows.json").read_text())
    judged = [row["ap50"] for row in rows if "ap50" in row]
    key = str(metrics["threshold"])
    clips = "\n".join(_clip(name, clip, key) for name, clip in metrics["clips"].items())
    rising = len(judged) > 1 and judged[-1] > max(judged[:-1])
    text = CARD.format(
        values=metrics["model_values"],
        megabytes=metrics["model_bytes"] / 1e6,
        share=metrics["val"]["ap50"] / args.teacher_ap50,
        teacher_ap50=args.teacher_ap50,
        val=metrics["val"],
        night=metrics["night"],
        threshold=metrics["threshold"],
        at=metrics["val_by_threshold"][key],
        windows=metrics["empty_windows"]["windows"],
        window_alarm=metrics["empty_windows"]["share_with_alarm"][key],
        clips=clips,
        demo=metrics["demo"],
        demo_at=metrics["demo"]["by_threshold"][key],
        latency=metrics["latency"],
        minutes=rows[-1]["minutes"],
        samples=rows[-1]["samples"],
        rounds=rows[-1]["round"],
        trend="AP was still rising at the end: a longer run helps." if rising else "AP had stopped rising.",
    )
    (args.embedded / "MODEL_CARD.md").write_text(text)


def _clip(name: str, clip: dict, key: str) -> str:
    at = clip["by_threshold"][key]
    recalls = ", ".join(f"{value:.2f}" for value in at["interval_recall"])
    delays = ", ".join("never" if value is None else f"{value:.1f}" for value in at["first_seen_after_s"])
    return (
        f"| {name} | false alarms in {at['false_alarm_frames']} of {clip['empty_frames']} empty frames "
        f"(longest run {at['longest_false_run']}, highest score {clip['highest_empty_score']:.2f}); "
        f"recall within each visible interval {recalls}; first seen after {delays} s |"
    )


if __name__ == "__main__":
    main()
