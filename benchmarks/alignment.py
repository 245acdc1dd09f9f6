"""What a number of channels costs: small networks of equal convolutions on onnxruntime, at many widths."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import NodeProto, TensorProto, helper, numpy_helper

from . import common, zoo

WIDTHS = (64, 63, 60, 56, 52, 51, 50, 48, 40, 36, 33, 32)
SIZE, LAYERS = 28, 4
KINDS = {
    "plain": "3x3",
    "depthwise": "3x3 by channel, 1x1",
    "residual": "two 3x3 and a sum",
    "concat": "3x3 and 1x1, 1x1",
}
MODELS = (
    "mobilenet_v2",
    "mobilenet_v3_small",
    "efficientnet_b0",
    "regnet_y_400mf",
    "shufflenet_v2_x1_0",
    "densenet121",
)
ALIGNED = (1, None)


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


def timed(models: Mapping[Any, bytes | str], rounds: int) -> dict[Any, float]:
    """Seconds of CPU time of each model on random numbers, run in turns."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = {key: ort.InferenceSession(model, options, ["CPUExecutionProvider"]) for key, model in models.items()}
    given = next(iter(sessions.values())).get_inputs()[0]
    feed = {given.name: np.random.default_rng(0).standard_normal(given.shape).astype(np.float32)}
    times: dict[Any, list[float]] = {key: [] for key in sessions}
    for _ in range(rounds):
        for key, session in sessions.items():
            start = time.process_time()
            session.run(None, feed)
            times[key].append(time.process_time() - start)
    return {key: median(found) for key, found in times.items()}


def run(case: str, cache: Path, rounds: int) -> None:
    """Time relative to the widest by number of channels, or, of a model, to the unpruned one."""
    if case in KINDS:
        found = timed({width: network(case, width) for width in WIDTHS}, rounds)
        common.tell(ratios=[found[width] / found[WIDTHS[0]] for width in WIDTHS])
        return
    import graphprune as gp

    source = zoo.exported(case, cache)
    models: dict[Any, Any] = {None: source}
    with TemporaryDirectory() as folder:
        for align in ALIGNED:
            made = gp.prune(source, target="channels=0.8", verify=False, align=align)
            models[align or "default"] = Path(folder, f"{align}.onnx")
            made.save(models[align or "default"])
            common.tell(**{f"macs {align or 'default'}": made.report.after.macs / made.report.before.macs})
        found = timed({key: str(path) for key, path in models.items()}, rounds)
    common.tell(ms=1e3 * found[None], **{f"time {key}": found[key] / found[None] for key in found if key is not None})


def main() -> None:
    """One case a kind of layer, and one a model."""
    made = common.parser("alignment", "Time of convolutions by number of channels on onnxruntime.")
    made.add_argument("--rounds", type=int, default=41)
    options = made.parse_args()
    if options.case:
        common.child(options, lambda case: run(case, options.cache, options.rounds))
        return
    results = common.run_cases(options, common.chosen([*KINDS, *MODELS], options.models))
    layers = {case: record for case, record in results.items() if "ratios" in record}
    columns = [[common.number(ratio) for ratio in record["ratios"]] for record in layers.values()]
    note = (
        f"CPU time of networks of {LAYERS} such layers at 1x3x{SIZE}x{SIZE} on onnxruntime, one thread, relative to "
        f"{WIDTHS[0]} channels; medians of {options.rounds} runs in turns."
    )
    head = ["channels", *(f"{kind}: {KINDS[kind]}" for kind in layers)]
    whole = ["Whole models at `channels=0.8`, with `--align 1` and as counts are chosen by default, in the same way:"]
    facts = ("macs 1", "time 1", "macs default", "time default")
    rows = [
        [name, common.number(r.get("ms"), 1), *(common.number(r.get(fact)) for fact in facts), r.get("error")]
        for name, r in results.items()
        if name in MODELS
    ]
    titles = ["model", "unpruned ms", "MACs, align 1", "time, align 1", "MACs, default", "time, default", "error"]
    body = [note, common.table(head, zip(WIDTHS, *columns, strict=True)), *whole, common.table(titles, rows)]
    common.publish(options, "Time by number of channels", body)


if __name__ == "__main__":
    main()
