"""The teacher: DEIMv2 Femto (COCO), read from its ONNX file; it labels views and shows its features.

Nothing of the teacher's weights enters the student: only what it answers for a picture (boxes with soft scores, and the
feature maps of its encoder that the student learns to predict). Runs on OpenVINO (BF16 where the CPU has it) when that is
installed, else on ONNX Runtime.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx

FEATURES = ("/model/encoder/fpn_block/cv4/act/Mul_output_0", "/model/encoder/pan_block/cv4/act/Mul_output_0")
PERSON = 0


@dataclass(frozen=True, slots=True)
class Lesson:
    """What the teacher says of one view: persons [n, 5] (x1 y1 x2 y2 in 0..1, score) and feature maps [h, w, c] float16."""

    persons: np.ndarray
    features: tuple[np.ndarray, ...]


class Teacher:
    """Answers batches of RGB views of any size; not thread safe."""

    def __init__(self, path: Path, *, threads: int = 2) -> None:
        model = onnx.load(path)
        self.size = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
        known = {output.name for output in model.graph.output}
        model.graph.output.extend(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in FEATURES
        )
        self.names = [*known, *FEATURES]
        payload = model.SerializeToString()
        try:
            self._run = self._openvino(payload, threads)
            self.runtime = "openvino"
        except ImportError:
            self._run = self._onnxruntime(payload, threads)
            self.runtime = "onnxruntime"

    def _openvino(self, payload: bytes, threads: int):  # noqa: ANN202 - a plain function type
        import openvino

        core = openvino.Core()
        hint: dict[str, object] = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        # Pinning would tie the calling thread, and with it PyTorch's, to one core for good.
        hint["ENABLE_CPU_PINNING"] = False
        if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            hint["INFERENCE_PRECISION_HINT"] = "bf16"
        compiled = core.compile_model(core.read_model(payload), "CPU", hint)
        return lambda feeds: {name: np.asarray(value) for name, value in _named(compiled(feeds)).items()}

    def _onnxruntime(self, payload: bytes, threads: int):  # noqa: ANN202
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        session = onnxruntime.InferenceSession(payload, options, providers=["CPUExecutionProvider"])
        return lambda feeds: dict(zip(self.names, session.run(self.names, feeds), strict=True))

    def teach(self, views: list[np.ndarray], grids: tuple[int, ...], *, floor: float = 0.15) -> list[Lesson]:
        """Label RGB uint8 views; the feature maps come back resized to the square `grids` (one for each map)."""
        batch = np.stack([cv2.resize(v, (self.size, self.size), interpolation=cv2.INTER_LINEAR) for v in views])
        images = np.ascontiguousarray(batch.transpose(0, 3, 1, 2)).astype(np.float32) / 255.0
        out = self._run({"images": images, "orig_target_sizes": np.ones((len(views), 2), np.int64)})
        lessons = []
        for i in range(len(views)):
            keep = (out["labels"][i] == PERSON) & (out["scores"][i] >= floor)
            persons = np.concatenate([out["boxes"][i][keep], out["scores"][i][keep, None]], 1).astype(np.float32)
            persons[:, :4] = persons[:, :4].clip(0, 1)
            maps = []
            for name, grid in zip(FEATURES, grids, strict=True):
                hwc = np.ascontiguousarray(out[name][i].transpose(1, 2, 0), np.float32)
                maps.append(cv2.resize(hwc, (grid, grid), interpolation=cv2.INTER_LINEAR).astype(np.float16))
            lessons.append(Lesson(persons, tuple(maps)))
        return lessons


def _named(result: object) -> dict[str, np.ndarray]:
    """An OpenVINO result by tensor name."""
    return {name: value for port, value in result.items() for name in port.get_names()}
