"""A tiny detector whose answer depends on the picture, and the rings around the service."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import simplejpeg
from onnx import TensorProto, helper, numpy_helper

from detr_sentry.ipc.bells import Bell
from detr_sentry.ipc.layout import Layout
from detr_sentry.ipc.messages import DetectionsView, FrameWriter, Mode, PixelFormat, SentryWriter, State
from detr_sentry.ipc.ring import RingReader
from detr_sentry.models import contract
from detr_sentry.models.bake import write_whole
from detr_sentry.models.classes import COCO, ModelClass
from detr_sentry.settings import CameraSettings, ModelSettings, Settings

SIDE = 32
TRACE = bytes(range(1, 26))
SERVICES = ("inference", "controller", "gateway")


def make_bright_detector(path: Path, *, nan_above: float | None = None) -> Path:
    """A baked model that sees a person in the left half with the mean brightness of the picture as its score.

    Above `nan_above` it answers with not a number.
    """
    box = np.array([[[0.0, 0.25, 0.5, 1.0]], [[0.5, 0.0, 1.0, 0.5]]], np.float32).reshape(1, 2, 4)
    nodes = [
        helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Div", ["mean", "white"], ["share"]),
        helper.make_node("Reshape", ["share", "cube"], ["bright"]),
        helper.make_node("Mul", ["bright", "weights"], ["score"]),
        helper.make_node("Concat", ["boxes", "score", "classes"], ["rows"], axis=2),
    ]
    constants = [
        numpy_helper.from_array(box, "boxes"),
        numpy_helper.from_array(np.array(255.0, np.float32), "white"),
        numpy_helper.from_array(np.array([1, 1, 1], np.int64), "cube"),
        numpy_helper.from_array(np.array([[[1.0], [0.5]]], np.float32), "weights"),
        numpy_helper.from_array(np.array([[[1.0], [18.0]]], np.float32), "classes"),
    ]
    if nan_above is None:
        nodes.append(helper.make_node("Identity", ["rows"], ["detections"]))
    else:
        constants.append(numpy_helper.from_array(np.array(nan_above, np.float32), "limit"))
        constants.append(numpy_helper.from_array(np.array(-1.0, np.float32), "minus_one"))
        nodes += [
            helper.make_node("Sqrt", ["minus_one"], ["nan"]),
            helper.make_node("Greater", ["bright", "limit"], ["beyond"]),
            helper.make_node("Where", ["beyond", "nan", "rows"], ["detections"]),
        ]
    graph = helper.make_graph(
        nodes,
        "main",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("detections", TensorProto.FLOAT, [1, 2, 6])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    props = contract.metadata(
        name="bright",
        layout=COCO,
        classes=[ModelClass(1, 1, "person"), ModelClass(18, 18, "dog")],
        threshold=0.5,
        adapter="native",
        source_sha256="00" * 32,
    )
    helper.set_model_props(model, props)
    write_whole(path, model.SerializeToString())
    return path


@pytest.fixture
def bright_detector(tmp_path: Path) -> Callable[..., Path]:
    def make(**options: Any) -> Path:
        return make_bright_detector(tmp_path / "bright.onnx", **options)

    return make


@pytest.fixture
def layout() -> Iterator[Layout]:
    """Shared memory of one test, gone afterwards, queues included."""
    root = Path(tempfile.mkdtemp(prefix="ds-test-", dir="/dev/shm"))
    made = Layout(root, f"t{time.time_ns() % 10**9}")
    made.create()
    yield made
    for service in SERVICES:
        Bell.unlink(made.bell(service))
    shutil.rmtree(root)


class CameraRig:
    """The neighbours of the inference service for one camera: capture, controller and a reader of detections."""

    def __init__(self, layout: Layout, camera_id: str) -> None:
        self.id = camera_id
        self.frames = FrameWriter(layout.stream(camera_id, "frames"), camera_id=camera_id, capacity=1 << 18, slots=5)
        self.sentry = SentryWriter(layout.stream(camera_id, "sentry"), camera_id=camera_id, slots=6)
        self.detections = RingReader(layout.stream(camera_id, "detections"))
        self.number = 0
        self.epoch = 9
        self._last: tuple[int, int] | None = None

    def send(self, picture: npt.NDArray[np.uint8] | bytes, *, width: int = 96, height: int = 64) -> int:
        """Publishes a picture (or raw bytes as JPEG); returns its frame number."""
        data = picture if isinstance(picture, bytes) else simplejpeg.encode_jpeg(picture, quality=95)
        self.number += 1
        room = self.frames.begin()
        assert room is not None
        room[: len(data)] = data
        room = None
        self.frames.publish(
            length=len(data),
            frame_number=self.number,
            capture_epoch=self.epoch,
            timestamp_ns=time.time_ns(),
            captured_monotonic_ns=time.monotonic_ns(),
            pts_ns=self.number * 1000,
            width=width,
            height=height,
            channels=3,
            pixel_format=PixelFormat.MJPEG,
            trace=TRACE,
        )
        return self.number

    def gray(self, level: int) -> int:
        """Publishes an even picture."""
        return self.send(np.full((64, 96, 3), level, np.uint8))

    def believe(self, state: State, mode: Mode = Mode.AUTO) -> None:
        """Publishes a sentry state."""
        self.sentry.publish(
            state=state,
            mode=mode,
            blind=False,
            capture_fps=30.0,
            since_ns=0,
            count=0,
            event_id="",
            timestamp_ns=time.time_ns(),
        )

    def receive(self) -> DetectionsView | None:
        """The newest message that was not received yet."""
        lease = self.detections.acquire(newer_than=self._last)
        if lease is None:
            return None
        with lease:
            self._last = lease.key
            return DetectionsView(lease)

    def close(self) -> None:
        self.detections.close()
        self.frames.close()
        self.sentry.close()


@pytest.fixture
def rig(layout: Layout) -> Iterator[Callable[[str], CameraRig]]:
    made: list[CameraRig] = []

    def make(camera_id: str) -> CameraRig:
        made.append(CameraRig(layout, camera_id))
        return made[-1]

    yield make
    for entry in made:
        entry.close()


@pytest.fixture
def settings_for(layout: Layout, bright_detector: Callable[..., Path], tmp_path: Path) -> Callable[..., Settings]:
    def make(*cameras: CameraSettings, model: Path | None = None) -> Settings:
        return Settings(
            instance=layout.instance,
            shm_root=layout.shm_root,
            state_dir=tmp_path / "state",
            model=ModelSettings(name=str(model or bright_detector()), backend="onnxruntime", threads=1),
            cameras={camera.id: camera for camera in cameras},
        )

    return make
