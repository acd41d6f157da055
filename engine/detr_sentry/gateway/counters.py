"""What the gateway has done, for /metrics and its heartbeat."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """Monotonic counts, except `viewers` and `live`, which say how many are connected now."""

    encoded: int = 0
    bad_frames: int = 0
    corrupt_messages: int = 0
    frames_copied: int = 0
    frames_sent: int = 0
    frames_skipped: int = 0
    bytes_sent: int = 0
    stalled_clients: int = 0
    live_resyncs: int = 0
    viewers: int = 0
    live: int = 0
    requests: dict[int, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)

    def count_request(self, status: int) -> None:
        """One more answer of this HTTP status."""
        self.requests[status] = self.requests.get(status, 0) + 1

    def count_refused(self, code: str) -> None:
        """One more request refused before it reached a handler, by the problem's code."""
        self.refused[code] = self.refused.get(code, 0) + 1
