"""The service's side of `backend: auto`: runs the self-check beside it, and changes over to what it chose.

There is never a model in two runtimes: the one is closed before the other opens; only the other's library is loaded
ahead, while detection goes on. The change happens between two frames of a quiet moment, when no camera validates or is
alarmed; frames wait in the ring meanwhile, and the newest is taken first. A change that kills the process is a choice
that never got to run: the supervisor starts it again, and it is given up after a few times (see `choice`).
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from enum import StrEnum
from os import getpid
from threading import Thread
from typing import TYPE_CHECKING

from detr_sentry.inference.backends import preload
from detr_sentry.inference.choice import REFERENCE, Choice, Choices, key_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DELAY_S = 5.0
"""After the start: the first detections and the page come first."""
PATIENCE_S = 600.0
"""A self-check that takes longer is ended; the next start tries again."""
_CRASHES = frozenset({signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGBUS, signal.SIGFPE})
"""A crash would come again and is kept; a kill, for want of memory or by hand, would not."""
_log = logging.getLogger("detr_sentry.inference")


class Step(StrEnum):
    """Where the choice of the backend stands, as the heartbeat shows it."""

    FIXED = "fixed"  # the settings name a backend
    VERIFIED = "verified"  # runs the choice of an earlier self-check
    WAITING = "waiting"  # for a quiet moment to check
    CHECKING = "checking"
    READY = "ready"  # waits for a quiet moment to change over
    REFUSED = "refused"  # the choice did not run in the service
    FAILED = "failed"  # the self-check gave no answer; it runs again at the next start


class Upgrade:
    """Call `poll` from the service's loop.

    `auto`: whether the settings leave the backend open. `change` opens what was chosen, and says whether it runs.
    """

    def __init__(
        self,
        *,
        change: Callable[[], bool],
        auto: bool,
        model: Path,
        sha256: str,
        threads: int | None,
        cache: Path,
        delay_s: float = DELAY_S,
    ) -> None:
        self._change = change
        self._choices = Choices(cache)
        self._key = key_of(sha256, threads) if auto else ""
        self._command = [sys.executable, "-m", "detr_sentry.inference.selfcheck", "--model", str(model)]
        self._command += ["--sha256", sha256, "--cache", str(cache), "--parent", str(getpid())]
        self._command += ["--threads", str(threads)] if threads else []
        self._loading: Thread | None = None
        self._process: subprocess.Popen[str] | None = None
        self._due_s = time.monotonic() + delay_s
        self.step = Step.FIXED
        if auto:
            self.step = Step.VERIFIED if self._choices.get(self._key) else Step.WAITING

    def poll(self, now_s: float, *, quiet: bool) -> bool:
        """Goes on with the self-check; True when it is time to `change`. `quiet`: nobody is there."""
        if self.step is Step.WAITING and quiet and now_s >= self._due_s:
            self._start(now_s)
        elif self.step is Step.CHECKING:
            self._watch(now_s)
        return self.step is Step.READY and quiet and not (self._loading and self._loading.is_alive())

    def change(self) -> None:
        """Changes over. Detection stands still meanwhile. Raises ModelError's kinds if not even ONNX Runtime opens."""
        self.step = Step.VERIFIED if self._change() else Step.REFUSED

    def close(self) -> None:
        """Ends the self-check."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _start(self, now_s: float) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own module
            self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        self._due_s = now_s + PATIENCE_S
        self.step = Step.CHECKING

    def _watch(self, now_s: float) -> None:
        assert self._process is not None
        status = self._process.poll()
        if status is None:
            if now_s >= self._due_s:
                self.close()
                self._fail(f"took longer than {PATIENCE_S:.0f} s")
            return
        found, _ = self._process.communicate()
        self._process = None
        _log.debug("self-check: %s", found.strip())
        if -status in _CRASHES:
            reason = f"a backend crashed its self-check ({signal.Signals(-status).name})"
            self._choices.put(self._key, Choice(backend=REFERENCE, provider="", reason=reason))
        choice = self._choices.get(self._key)
        if (status and -status not in _CRASHES) or choice is None:
            self._fail(f"ended with status {status}")
        elif choice.backend == REFERENCE:
            self.step = Step.VERIFIED
            _log.info("ONNX Runtime stays: %s", choice.reason)
        else:
            self.step = Step.READY
            self._loading = Thread(target=preload, args=(choice.backend,), name="preload", daemon=True)
            self._loading.start()
            _log.info(
                "%s finds the same and is %.1f times as fast as ONNX Runtime; changing over in a quiet moment",
                choice.provider,
                choice.speedup,
            )

    def _fail(self, reason: str) -> None:
        self.step = Step.FAILED
        _log.warning("ONNX Runtime stays: the self-check of the backends %s", reason)
