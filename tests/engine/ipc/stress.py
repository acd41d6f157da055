"""The long trial of the ring: `python tests/engine/ipc/stress.py --reads 1000000`; status 1 if anything tore."""

from __future__ import annotations

from detr_sentry.bench.ring_stress import main

if __name__ == "__main__":
    raise SystemExit(main())
