"""The long trial of the ring: `python tests/engine/ipc/stress.py --reads 1000000`; status 1 if anything tore.

Prints one JSON object. `--control` drops the leases and must tear.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from detr_sentry.bench.ring_stress import stress


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reads", type=int, default=1_000_000)
    parser.add_argument("--most-seconds", type=float, default=3600.0)
    parser.add_argument("--slot-bytes", type=int, default=1 << 18)
    parser.add_argument("--control", action="store_true")
    arguments = parser.parse_args()
    result = stress(
        reads=arguments.reads,
        most_seconds=arguments.most_seconds,
        slot_bytes=arguments.slot_bytes,
        leases=not arguments.control,
        holds_s=(0.0, 0.002, 0.01) if arguments.control else (0.0, 0.0, 0.02),
    )
    print(json.dumps(asdict(result)))
    return int((result.torn > 0) is not arguments.control)


if __name__ == "__main__":
    raise SystemExit(main())
