"""Processor time of one 1080p camera frame through the engine, from the camera's JPEG to a viewer, without the model.

The engine's own parts run one after the other in this process, on real rings and bells: the capture's check and copy,
the inference's decoding, resize, selection and message, the sentry's step, and the gateway's copy, packet and send.
They are compared in the same run, round by round, with the flow that most programs have: decode the JPEG at full size,
copy the pixels into shared memory, copy them out, encode them anew for the viewer; on the same rings, bells and socket.
That flow is charged neither with a resize nor with detections.
"""

from __future__ import annotations

import shutil
import socket
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import simplejpeg

from detr_sentry.capture.publisher import Publisher
from detr_sentry.capture.source import RawFrame, SourceInfo
from detr_sentry.gateway.packets import encode_packet
from detr_sentry.inference.camera import Camera
from detr_sentry.inference.model import Detector
from detr_sentry.ipc.bells import Bell
from detr_sentry.ipc.layout import Layout
from detr_sentry.ipc.messages import (
    DetectionsView,
    FrameView,
    FrameWriter,
    Mode,
    Outcome,
    PixelFormat,
    SentryWriter,
    State,
)
from detr_sentry.ipc.ring import RingReader
from detr_sentry.models.contract import ModelContract
from detr_sentry.sentry.fsm import Observation, Sentry
from detr_sentry.sentry.rules import Box
from detr_sentry.settings import DEFAULT_SHM_ROOT, CameraSettings, TelemetrySettings

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

WIDTH, HEIGHT = 1920, 1080
MODEL_SIDE = 384
"""RF-DETR Nano's input."""
FRAME_BYTES = 400_000
"""A 1080p webcam's MJPEG at 30 fps."""
QUALITY = 80
"""Of the reference flow's encoding; what the pictures themselves have or less, so it is not charged for more."""
ROUND = 30
"""Frames of a round: a second of the camera."""
MIXED_LIMIT, EVERY_LIMIT = 1 / 3, 0.6
_PEOPLE = 3


def measure(*, quick: bool = False) -> dict[str, Any]:
    """The JSON of `bench pipeline`. Takes about 20 s, `quick` about 3."""
    frames = make_frames(2 if quick else 8)
    rounds = 3 if quick else 20
    cv2.setNumThreads(1)
    mixed: list[tuple[float, float]] = []
    every: list[tuple[float, float]] = []
    passing: list[float] = []
    with ExitStack() as cleanup:
        root = Path(tempfile.mkdtemp(prefix="bench-", dir=_shared_memory()))
        cleanup.callback(shutil.rmtree, root)
        viewer = _Viewer(cleanup)
        engine = _Engine(Layout(root, "bench"), viewer, cleanup)
        reference = _Reference(Layout(root, "reference"), viewer, cleanup)
        for flow in (engine, reference):
            _round(flow, frames, infer_every=1)  # buffers, caches and lazily opened slots
        for _ in range(rounds):
            against = _round(reference, frames, infer_every=1)
            mixed.append((_round(engine, frames, infer_every=2), against))
            every.append((_round(engine, frames, infer_every=1), against))
            passing.append(_round(engine, frames, infer_every=ROUND + 1))
        assert engine.inferred == (rounds + 1) * ROUND + rounds * ROUND // 2
    results = {"mixed": _summary(mixed), "every_frame": _summary(every)}
    return {
        **results,
        "pass_through_cpu_ms_per_frame": round(median(passing), 4),
        "frame_bytes": round(median(len(frame) for frame in frames)),
        "frames_per_round": ROUND,
        "rounds": rounds,
        "model_input": [MODEL_SIDE, MODEL_SIDE],
        "compared_with": "decode + copy in + copy out + re-encode at quality 80 on the same rings, bells and socket",
        "measured_as": "CPU time of the thread; ms are medians of rounds, ratios medians of the rounds' ratios",
        "budgets": {
            "mixed": _budget(results["mixed"]["ratio"], MIXED_LIMIT),
            "every_frame": _budget(results["every_frame"]["ratio"], EVERY_LIMIT),
        },
    }


def make_frames(count: int) -> list[bytes]:
    """Distinct 1080p JPEGs (4:2:2) of about FRAME_BYTES each: soft shapes, textures and sensor noise."""
    random = np.random.default_rng(1)
    coarse = random.integers(0, 256, (18, 32, 3), dtype=np.uint8)
    base = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    fine = random.normal(0, 18, (HEIGHT // 3, WIDTH // 3, 3)).astype(np.float32)
    base += cv2.resize(fine, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    frames = []
    for _ in range(count):
        noisy = base + random.normal(0, 4, base.shape)
        picture = np.clip(np.roll(noisy, int(random.integers(WIDTH)), axis=1), 0, 255).astype(np.uint8)
        encodings = (
            simplejpeg.encode_jpeg(picture, quality=quality, colorsubsampling="422") for quality in range(95, 40, -5)
        )
        frames.append(next(jpeg for jpeg in encodings if len(jpeg) <= FRAME_BYTES * 1.1))
    return frames


class _Viewer:
    """One viewer: a socket whose other end is read by another thread, which nobody is charged for."""

    def __init__(self, cleanup: ExitStack) -> None:
        self.socket, other = socket.socketpair()
        self._thread = threading.Thread(target=self._read, args=(other,), daemon=True)
        self._thread.start()
        cleanup.callback(self._thread.join)
        cleanup.callback(self.socket.close)

    @staticmethod
    def _read(other: socket.socket) -> None:
        room = bytearray(1 << 20)
        with other:
            while other.recv_into(room):
                pass


class _NoModel:
    """Stands where the model is, which this benchmark leaves out: the answer is there already."""

    name = "none"
    provider = "none"
    threads = 1

    def __init__(self) -> None:
        self._rows = np.zeros((300, 6), np.float32)
        self._rows[:, 4] = 0.01
        self._rows[:_PEOPLE] = [[0.1 * n, 0.2, 0.1 * n + 0.1, 0.8, 0.9 - 0.1 * n, 1.0] for n in range(_PEOPLE)]

    def run(self, _image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        return self._rows

    def interrupt(self) -> None:
        return

    def close(self) -> None:
        return


class _Engine:
    """The engine's flow of one camera."""

    def __init__(self, layout: Layout, viewer: _Viewer, cleanup: ExitStack) -> None:
        layout.create()
        contract = ModelContract(
            name="none",
            labels={1: "person"},
            width=MODEL_SIDE,
            height=MODEL_SIDE,
            queries=300,
            threshold=0.5,
            resize="stretch",
            adapter="none",
            source_sha256="0" * 64,
            sha256="0" * 64,
        )
        settings = CameraSettings(id="door", source="bench:")
        detector = Detector(contract, _NoModel(), class_ids=frozenset({1}), floor=0.2)
        self._publisher = Publisher(layout, "door", TelemetrySettings())
        self._publisher.adopt(
            SourceInfo(
                width=WIDTH,
                height=HEIGHT,
                pixel_format=PixelFormat.MJPEG,
                fps=30.0,
                max_frame_bytes=WIDTH * HEIGHT,
                identity="bench",
            )
        )
        self._camera = Camera(settings, layout, detector)
        now_ns = time.monotonic_ns()
        self._sentry = Sentry(settings.sentry, standby_fps=3.0, now_ns=now_ns, wall_ns=time.time_ns())
        state = SentryWriter(layout.stream("door", "sentry"), camera_id="door", slots=6)
        state.publish(
            state=State.ALARMED,
            mode=Mode.AUTO,
            blind=False,
            capture_fps=-1.0,
            since_ns=0,
            count=1,
            event_id="",
            timestamp_ns=time.time_ns(),
        )
        self._socket = viewer.socket
        self._frames = RingReader(layout.stream("door", "frames"))
        self._found = [RingReader(layout.stream("door", "detections")) for _ in range(2)]
        self._bells = {name: Bell(layout.bell(name)) for name in ("inference", "controller", "gateway")}
        self._header: dict[str, Any] = {"camera": "door", "state": "alarmed"}
        self.inferred = 0
        for close in (self._publisher.close, self._camera.close, state.close, self._frames.close):
            cleanup.callback(close)
        for reader in self._found:
            cleanup.callback(reader.close)
        _close_bells(self._bells, cleanup)

    def frame(self, jpeg: bytes, *, infer: bool) -> None:
        now_ns = time.monotonic_ns()
        self._publisher.publish(
            RawFrame(data=memoryview(jpeg), captured_monotonic_ns=now_ns, pts_ns=now_ns, width=WIDTH, height=HEIGHT)
        )
        if infer:
            self._infer(now_ns)
        self._bells["gateway"].drain()
        lease = self._frames.acquire()
        assert lease is not None
        with lease:
            view = FrameView(lease)
            copied = bytes(view.data)
        self._header.update(frame_number=view.frame_number, timestamp_ns=view.timestamp_ns, width=WIDTH, height=HEIGHT)
        self._socket.sendall(encode_packet(self._header, copied))

    def _infer(self, now_ns: int) -> None:
        self._bells["inference"].drain()
        self._camera.poll(now_ns / 1e9)
        self.inferred += self._camera.infer()
        for name in ("controller", "gateway"):
            self._bells[name].ring()
        self._bells["controller"].drain()
        for reader in self._found:
            lease = reader.acquire()
            assert lease is not None
            with lease:
                found = DetectionsView(lease)
            rows = found.detections[["x1", "y1", "x2", "y2", "confidence", "class_id"]].tolist()
            if reader is self._found[0]:
                self._sentry.step(
                    Observation(
                        capture_epoch=found.capture_epoch,
                        frame_number=found.frame_number,
                        captured_ns=found.captured_monotonic_ns,
                        timestamp_ns=found.timestamp_ns,
                        inferred=found.outcome is Outcome.INFERRED,
                        width=found.width,
                        height=found.height,
                        boxes=[Box(*row) for row in rows],
                    ),
                    now_ns=time.monotonic_ns(),
                )
            else:
                self._header["detections"] = [[round(value, 1) for value in row] for row in rows]


class _Reference:
    """Decode, copy in, copy out, encode anew."""

    def __init__(self, layout: Layout, viewer: _Viewer, cleanup: ExitStack) -> None:
        layout.create()
        self._pixels = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        self._writer = FrameWriter(
            layout.stream("door", "frames"), camera_id="door", capacity=self._pixels.nbytes, slots=5
        )
        self._reader = RingReader(layout.stream("door", "frames"))
        self._bells = {name: Bell(layout.bell(name)) for name in ("inference", "gateway")}
        self._socket = viewer.socket
        self._copied = np.empty_like(self._pixels)
        self._number = 0
        self._header: dict[str, Any] = {"camera": "door", "state": "alarmed"}
        cleanup.callback(self._writer.close)
        cleanup.callback(self._reader.close)
        _close_bells(self._bells, cleanup)

    def frame(self, jpeg: bytes, *, infer: bool) -> None:  # noqa: ARG002 - this flow is not charged for inference
        simplejpeg.decode_jpeg(jpeg, buffer=self._pixels)
        self._publish()
        for bell in self._bells.values():
            bell.ring()
            bell.drain()
        lease = self._reader.acquire()
        assert lease is not None
        with lease:
            view = FrameView(lease)
            self._copied.reshape(-1)[:] = np.frombuffer(view.data, np.uint8)
        encoded = simplejpeg.encode_jpeg(self._copied, quality=QUALITY, colorsubsampling="420")
        self._header.update(frame_number=view.frame_number, timestamp_ns=view.timestamp_ns, width=WIDTH, height=HEIGHT)
        self._socket.sendall(encode_packet(self._header, encoded))

    def _publish(self) -> None:
        room = self._writer.begin()
        assert room is not None
        np.frombuffer(room, np.uint8)[:] = self._pixels.reshape(-1)
        self._number += 1
        self._writer.publish(
            length=self._pixels.nbytes,
            frame_number=self._number,
            capture_epoch=1,
            timestamp_ns=time.time_ns(),
            captured_monotonic_ns=time.monotonic_ns(),
            pts_ns=0,
            width=WIDTH,
            height=HEIGHT,
            channels=3,
            pixel_format=PixelFormat.RGB24,
        )


def _round(flow: _Engine | _Reference, frames: Sequence[bytes], *, infer_every: int) -> float:
    """CPU milliseconds of this thread per frame, over one round."""
    begun_ns = time.thread_time_ns()
    for number in range(ROUND):
        flow.frame(frames[number % len(frames)], infer=number % infer_every == infer_every - 1)
    return (time.thread_time_ns() - begun_ns) / 1e6 / ROUND


def _summary(pairs: Sequence[tuple[float, float]]) -> dict[str, float]:
    return {
        "cpu_ms_per_frame": round(median(own for own, _ in pairs), 4),
        "reference_flow_cpu_ms_per_frame": round(median(other for _, other in pairs), 4),
        "ratio": round(median(own / other for own, other in pairs), 4),
    }


def _budget(value: float, limit: float) -> dict[str, Any]:
    return {"value": value, "limit": round(limit, 4), "met": value <= limit}


def _close_bells(bells: dict[str, Bell], cleanup: ExitStack) -> None:
    for bell in bells.values():
        cleanup.callback(Bell.unlink, bell.name)
        cleanup.callback(bell.close)


def _shared_memory() -> Path:
    """Where rings lie on this machine; tests and benchmarks never use an engine's own folder."""
    return DEFAULT_SHM_ROOT.parent
