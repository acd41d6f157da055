"""Export a checkpoint's averaged weights as the sentry model `person_detr.onnx`.

The file takes `image` uint8 [1, H, W, 3] RGB and gives `detections` float32 [1, Q, 6]: x1 y1 x2 y2 (0..1), score, class id.
Batch norms and the division by 255 are folded into the convolutions, large weights are stored as float16 behind a Cast (every
runtime folds it at load; the arithmetic stays float32), and the contract stands in the metadata. The score logits are
shifted so that the score to act on is 0.5 whatever the training left it at; order and AP do not change.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from model import ConvBN, ModelConfig, PersonDetr


class Shipped(nn.Module):
    """The detector behind its public tensors."""

    def __init__(self, model: PersonDetr) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.model.detect(image)


def load_average(checkpoint: Path) -> PersonDetr:
    """The averaged model of a checkpoint, ready for inference."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    model = PersonDetr(ModelConfig(**state["config"]))
    model.load_state_dict(state["average"])
    return model.eval()


def fold(model: PersonDetr) -> PersonDetr:
    """A copy with batch norms and the input's division folded into the convolutions."""
    folded = copy.deepcopy(model)
    for module in folded.modules():
        if isinstance(module, ConvBN):
            module[0] = fuse_conv_bn_eval(module[0], module[1])
            module[1] = nn.Identity()
    with torch.no_grad():
        folded.backbone.stem[0].weight *= folded.input_scale
    folded.input_scale = 1.0
    return folded


def halve(model: onnx.ModelProto, *, above: int = 2048) -> None:
    """Store large float32 initializers as float16, each followed by a Cast back to float32."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and int(np.prod(tensor.dims)) > above:
            name = tensor.name
            half = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), f"{name}.half")
            tensor.CopyFrom(half)
            casts.append(helper.make_node("Cast", [half.name], [name], f"{name}.cast", to=TensorProto.FLOAT))
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)


def export(checkpoint: Path, destination: Path, *, raw_threshold: float) -> dict[str, float]:
    """Write the sentry model and return how far it is from the PyTorch model on noise."""
    model = load_average(checkpoint)
    model.score_shift = math.log((1 - raw_threshold) / raw_threshold)
    size = model.config.size
    image = torch.randint(0, 256, (1, size, size, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    program = torch.onnx.export(
        Shipped(fold(model)).eval(),
        (image,),
        dynamo=True,
        opset_version=18,
        input_names=["image"],
        output_names=["detections"],
        verbose=False,
    )
    proto = program.model_proto
    halve(proto)
    metadata = {
        "detr_sentry.contract": "1",
        "detr_sentry.name": "embedded-person",
        "detr_sentry.labels": json.dumps({"1": "person"}),
        "detr_sentry.source_sha256": hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
        "detr_sentry.resize": "stretch",
        "detr_sentry.adapter": "native",
        "detr_sentry.threshold": "0.5",
    }
    del proto.metadata_props[:]
    helper.set_model_props(proto, metadata)
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in [*proto.graph.value_info, *proto.graph.input, *proto.graph.output]:
        del value.metadata_props[:]
    proto.producer_name = "detr_sentry"
    onnx.checker.check_model(proto)
    destination.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(proto, destination)
    session = onnxruntime.InferenceSession(destination, providers=["CPUExecutionProvider"])
    got = session.run(["detections"], {"image": image.numpy()})[0]
    with torch.no_grad():
        wanted = model.detect(image).numpy()
    got, wanted = got[0][got[0, :, 4].argsort()[::-1]], wanted[0][wanted[0, :, 4].argsort()[::-1]]
    return {
        "bytes": destination.stat().st_size,
        "parameters": sum(p.numel() for p in model.parameters()),
        "largest_score_difference": float(np.abs(got[:, 4] - wanted[:, 4]).max()),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("destination", type=Path)
    parser.add_argument(
        "--raw-threshold", type=float, default=0.5, help="score of the training's scale that becomes 0.5"
    )
    args = parser.parse_args()
    print(json.dumps(export(args.checkpoint, args.destination, raw_threshold=args.raw_threshold)))


if __name__ == "__main__":
    main()
