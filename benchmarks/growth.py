"""How compile time grows with depth: ResNets and DenseNets of 10 to 1,000 layers.

    python -m benchmarks.growth

The networks are written as ONNX directly. Two DenseNets: in `densenet` depth adds dense blocks of twelve layers, so
that size grows with depth; in `densenet-classic` four blocks share all the layers, so that every layer reads all
earlier ones of its block and the number of weights itself grows with the square of the depth. The exponent is the
slope of a least-squares line through log(time) over log(size), over all points and over the deeper half.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks import common

DEPTHS = (10, 20, 50, 100, 200, 500, 1000)
FAMILIES = ("resnet", "densenet", "densenet-classic")
ROUNDS = 5
WIDTH = 32
GROWTH = 8
BLOCK = 12


@dataclass
class Network:
    """An ONNX graph under construction; `channels` knows the width of every tensor made so far."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    channels: dict[str, int] = field(default_factory=lambda: {"x": 3})
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def node(self, operator: str, inputs: list[str], channels: int, **attributes: Any) -> str:
        """Add a node with one output; returns the output's name."""
        name = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        self.channels[name] = channels
        return name

    def weight(self, *shape: int) -> str:
        """Add a random weight; returns its name."""
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(self.random.standard_normal(shape, np.float32), name))
        return name

    def conv(self, x: str, outputs: int, kernel: int = 3) -> str:
        """Convolution, batch norm and ReLU."""
        weight = self.weight(outputs, self.channels[x], kernel, kernel)
        y = self.node("Conv", [x, weight], outputs, kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4)
        y = self.node("BatchNormalization", [y, *(self.weight(outputs) for _ in range(4))], outputs)
        return self.node("Relu", [y], outputs)

    def finish(self, x: str) -> onnx.ModelProto:
        """Pool, classify and close the graph."""
        x = self.node("Flatten", [self.node("GlobalAveragePool", [x], self.channels[x])], self.channels[x])
        y = self.node("Gemm", [x, self.weight(self.channels[x], 10), self.weight(10)], 10)
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])]
        outputs = [helper.make_tensor_value_info(y, TensorProto.FLOAT, [1, 10])]
        graph = helper.make_graph(self.nodes, "growth", inputs, outputs, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def resnet(depth: int) -> onnx.ModelProto:
    """`depth` layers in basic blocks; a new stage (a projection shortcut) every sixteen blocks."""
    net = Network()
    x = net.conv("x", WIDTH)
    for block in range((depth - 2) // 2):
        y = net.conv(net.conv(x, WIDTH), WIDTH)
        shortcut = net.conv(x, WIDTH, 1) if block % 16 == 15 else x
        x = net.node("Add", [y, shortcut], WIDTH)
    return net.finish(x)


def densenet(depth: int, block: int = BLOCK) -> onnx.ModelProto:
    """`depth` layers in dense blocks of `block`, each followed by a transition back to the starting width."""
    net = Network()
    x = net.conv("x", WIDTH)
    for first in range(0, depth - 2, block):
        for _ in range(min(block, depth - 2 - first)):
            x = net.node("Concat", [x, net.conv(x, GROWTH)], net.channels[x] + GROWTH, axis=1)
        x = net.conv(x, WIDTH, 1)
    return net.finish(x)


def build(family: str, depth: int) -> onnx.ModelProto:
    """A network of a family."""
    if family == "resnet":
        return resnet(depth)
    return densenet(depth, BLOCK if family == "densenet" else -(-(depth - 2) // 4))


def run(case: str, folder: Path) -> None:
    """Time couple, plan (which couples and scores) and apply on one network; medians."""
    import graphprune as gp

    family, depth = case.split("/")
    path = folder / f"{family}-{depth}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        onnx.save(build(family, int(depth)), path)
    load_s, graph = common.clock(lambda: gp.load(path))
    common.tell(load_s=load_s, nodes=len(graph.nodes), indices=indices(graph), parameters=graph.parameter_count())
    times: dict[str, list[float]] = {"couple_s": [], "plan_s": [], "apply_s": []}
    for _ in range(ROUNDS):
        graph = gp.load(path)
        times["couple_s"].append(common.clock(lambda graph=graph: gp.couple(graph))[0])
        seconds, plan = common.clock(lambda graph=graph: gp.plan(graph, target=gp.channels(0.5), criterion="l2"))
        times["plan_s"].append(seconds)
        times["apply_s"].append(common.clock(lambda graph=graph, plan=plan: gp.apply(graph, plan))[0])
    found = {key: statistics.median(values) for key, values in times.items()}
    common.tell(**found, compile_s=found["plan_s"] + found["apply_s"])


def indices(graph: Any) -> int:
    """How many indices the axes of all weights have together: what coupling labels."""
    return sum(sum(value.sizes) for value in graph.weights().values())


def exponent(sizes: list[float], seconds: list[float]) -> float | None:
    """Slope of the line through log(seconds) over log(sizes)."""
    if len(sizes) < 2:
        return None
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def fits(results: dict[str, dict[str, Any]], family: str) -> list[Any]:
    """A family's exponents: over depth (all, deeper half), over indices and over parameters (deeper half)."""
    done = [(int(case.split("/")[1]), r) for case, r in results.items() if case.startswith(f"{family}/")]
    done = [(depth, r) for depth, r in done if "compile_s" in r]
    upper = done[len(done) // 2 :]
    seconds = [r["compile_s"] for _, r in upper]
    found = [
        exponent([d for d, _ in done], [r["compile_s"] for _, r in done]),
        exponent([d for d, _ in upper], seconds),
        exponent([r["indices"] for _, r in upper], seconds),
        exponent([r["parameters"] for _, r in upper], seconds),
    ]
    return [family, *(common.number(value) for value in found)]


def row(case: str, r: dict[str, Any]) -> list[Any]:
    """A line of the table."""
    family, depth = case.split("/")
    times = [common.number(r.get(key), 3) for key in ("couple_s", "plan_s", "apply_s", "compile_s")]
    return [family, depth, r.get("nodes"), r.get("indices"), r.get("parameters"), *times, r.get("error")]


def main() -> None:
    """One case a network."""
    made = common.parser("growth", "Growth of compile time with depth.")
    made.set_defaults(cache=common.ROOT / ".cache" / "growth")
    options = made.parse_args()
    if options.case:
        common.child(options, lambda case: run(case, options.cache))
        return
    families = common.chosen(FAMILIES, options.models)
    results = common.run_cases(options, [f"{family}/{depth}" for family in families for depth in DEPTHS])
    slopes = ["family", "over depth", "over depth, deeper half", "over weight indices", "over parameters"]
    head = [
        "family",
        "depth",
        "nodes",
        "weight indices",
        "parameters",
        "couple s",
        "plan s",
        "apply s",
        "total s",
        "error",
    ]
    parts = [
        "Exponents of the total (plan, which includes coupling and scores, and apply):",
        common.table(slopes, [fits(results, family) for family in families]),
        common.table(head, [row(case, r) for case, r in results.items()]),
    ]
    common.publish(options, "Growth of compile time with depth", parts)


if __name__ == "__main__":
    main()
