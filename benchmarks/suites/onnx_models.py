"""ONNX files as they are found: the onnx package's `light` models, and exports by both exporters at several opsets.

The names say how a file comes about: `light/NAME` as shipped (each weight one number repeated), `light-random/NAME`
with random weights, `EXPORTER-OPSET/NAME` from a small network of `onnx_networks`, `CHANGE/NAME` the TorchScript export
at opset 17 (where that fails: dynamo's at 18) after one of `onnx_tools.CHANGES`. The dynamo exporter writes no opset
below 18.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper
from torch.onnx.errors import UnsupportedOperatorError

from benchmarks.onnx_tools import CHANGES, change
from benchmarks.suites.onnx_networks import NETWORKS, dynamo, torchscript

EXPORTS = {
    **{f"torchscript-{opset}": (torchscript, opset) for opset in (13, 17, 20)},
    **{f"dynamo-{opset}": (dynamo, opset) for opset in (18, 21, 23)},
}


def _light() -> dict[str, Path]:
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    return {path.stem.removeprefix("light_"): path for path in sorted(folder.glob("*.onnx"))}


def names() -> list[str]:
    """Small networks first."""
    made = [f"{how}/{name}" for how in (*EXPORTS, *CHANGES) for name in NETWORKS]
    return [*made, *(f"{kind}/{name}" for kind in ("light", "light-random") for name in _light())]


def write(name: str, path: Path) -> None:
    """Make the file."""
    how, _, model = name.partition("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    if how in EXPORTS:
        export, opset = EXPORTS[how]
        export(model, opset, path)
    elif how in CHANGES:
        _plain(model, path)
        change(how, path)
    else:
        source = onnx.load(_light()[model])
        onnx.save(_randomised(source) if how == "light-random" else source, path)


def _plain(model: str, path: Path) -> None:
    """The export that tools are given."""
    try:
        torchscript(model, 17, path)
    except UnsupportedOperatorError:
        dynamo(model, 18, path)


def _randomised(model: ModelProto) -> ModelProto:
    """Nodes that fill a weight with one number become random weights."""
    random, graph = np.random.default_rng(0), model.graph
    shapes = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type != "ConstantOfShape" or node.input[0] not in shapes:
            kept.append(node)
            continue
        shape = tuple(int(n) for n in shapes[node.input[0]])
        spread = random.standard_normal(shape) / np.sqrt(max(1, int(np.prod(shape[1:]))))
        array = spread if len(shape) > 1 else random.uniform(0.5, 1.5, shape)
        graph.initializer.append(numpy_helper.from_array(np.asarray(array, np.float32), node.output[0]))
    model.ir_version = max(model.ir_version, 4)  # before, weights must be inputs, too
    del graph.node[:]
    graph.node.extend(kept)
    return model
