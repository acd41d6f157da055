from __future__ import annotations

import pytest
from linuxpy.video import raw

from detr_sentry.capture.v4l2 import _stamp_ns

ARRIVED_NS = 5_000 * 10**9
MONOTONIC = raw.BufferFlag.TIMESTAMP_MONOTONIC


@pytest.mark.parametrize(
    ("flags", "stamp_s", "expected_ns"),
    [
        (MONOTONIC, 4_999, 4_999 * 10**9 + 250_000),
        (MONOTONIC | raw.BufferFlag.TSTAMP_SRC_SOE | raw.BufferFlag.DONE, 4_999, 4_999 * 10**9 + 250_000),
        (raw.BufferFlag.TIMESTAMP_UNKNOWN, 4_999, ARRIVED_NS),
        (raw.BufferFlag.TIMESTAMP_COPY, 4_999, ARRIVED_NS),
        (MONOTONIC, 5_000, ARRIVED_NS),
        (MONOTONIC, 4_000, ARRIVED_NS),
        (MONOTONIC, 1_700_000_000, ARRIVED_NS),
        (MONOTONIC, 0, ARRIVED_NS),
    ],
    ids=["monotonic", "with other flags", "unknown", "copied", "in the future", "long ago", "wall clock", "none"],
)
def test_only_plausible_monotonic_stamps_are_believed(flags: int, stamp_s: int, expected_ns: int) -> None:
    buffer = raw.v4l2_buffer()
    buffer.flags = flags
    buffer.timestamp.secs, buffer.timestamp.usecs = stamp_s, 250

    assert _stamp_ns(buffer, ARRIVED_NS) == expected_ns
