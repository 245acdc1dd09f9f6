"""What a number of channels costs: small networks of equal convolutions on onnxruntime, at many widths."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

import numpy as np
import onnxruntime as ort
from onnx import NodeProto, TensorProto, helper, numpy_helper

from . import common

WIDTHS = (64, 63, 60, 56, 52, 51, 50, 48, 40, 36, 33, 32)
SIZE, LAYERS = 28, 4
KINDS = {
    "plain": "3x3",
    "depthwise": "3x3 by channel, 1x1",
    "residual": "two 3x3 and a sum",
    "concat": "3x3 and 1x1, 1x1",
}


class Network:
    """An ONNX model under construction; `x` is the name of its last value."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.x = "x"

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def conv(self, x: str, inside: int, outside: int, kernel: int, groups: int = 1) -> str:
        random = np.random.default_rng(len(self.weights))
        array = 0.05 * random.standard_normal((outside, inside // groups, kernel, kernel))
        weight = numpy_helper.from_array(array.astype(np.float32), f"w{len(self.weights)}")
        self.weights.append(weight)
        return self.node("Relu", self.node("Conv", x, weight.name, pads=[kernel // 2] * 4, group=groups))

    def layer(self, kind: str, width: int) -> None:
        first = self.conv(self.x, width, width, 3, width if kind == "depthwise" else 1)
        if kind == "depthwise":
            first = self.conv(first, width, width, 1)
        elif kind == "residual":
            first = self.node("Add", self.x, self.conv(first, width, width, 3))
        elif kind == "concat":
            both = self.node("Concat", first, self.conv(self.x, width, width, 1), axis=1)
            first = self.conv(both, 2 * width, width, 1)
        self.x = first

    def bytes(self, width: int) -> bytes:
        pooled = self.node("GlobalAveragePool", self.x)
        values = (("x", [1, 3, SIZE, SIZE]), (pooled, [1, width, 1, 1]))
        x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values)
        graph = helper.make_graph(self.nodes, "g", [x], [y], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        return model.SerializeToString()


def network(kind: str, width: int) -> bytes:
    made = Network()
    made.x = made.conv(made.x, 3, width, 3)
    for _ in range(LAYERS):
        made.layer(kind, width)
    return made.bytes(width)


def measured(kind: str, widths: Sequence[int], rounds: int) -> dict[int, float]:
    """Milliseconds of CPU time by width."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {w: ort.InferenceSession(network(kind, w), options, ["CPUExecutionProvider"]) for w in widths}
    x = np.random.default_rng(0).standard_normal((1, 3, SIZE, SIZE)).astype(np.float32)
    times: dict[int, list[float]] = {width: [] for width in widths}
    for _ in range(rounds):
        for width, session in sessions.items():
            start = time.process_time()
            session.run(None, {"x": x})
            times[width].append(time.process_time() - start)
    return {width: 1e3 * median(found) for width, found in times.items()}


def run(kind: str, rounds: int) -> None:
    """Time relative to the widest, by number of channels."""
    found = measured(kind, WIDTHS, rounds)
    common.tell(ratios=[found[width] / found[WIDTHS[0]] for width in WIDTHS])


def main() -> None:
    """One case a kind of layer."""
    made = common.parser("alignment", "Time of convolutions by number of channels on onnxruntime.")
    made.add_argument("--rounds", type=int, default=41)
    options = made.parse_args()
    if options.case:
        common.child(options, lambda kind: run(kind, options.rounds))
        return
    results = common.run_cases(options, common.chosen(KINDS, options.models))
    columns = [[common.number(ratio) for ratio in record["ratios"]] for record in results.values()]
    head = ["channels", *(f"{kind}: {KINDS[kind]}" for kind in results)]
    note = (
        f"CPU time of networks of {LAYERS} such layers at 1x3x{SIZE}x{SIZE} on onnxruntime, one thread, relative to "
        f"{WIDTHS[0]} channels; medians of {options.rounds} runs in turns."
    )
    body = common.table(head, zip(WIDTHS, *columns, strict=True))
    common.publish(options, "Time by number of channels", [note, body])


if __name__ == "__main__":
    main()
