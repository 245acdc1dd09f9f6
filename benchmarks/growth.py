"""How compile time grows: with depth (ResNets and DenseNets of 10 to 1,000 layers) and with nodes (100 to 50,000).

    python -m benchmarks.growth [--models 'long-*']

The networks are written as ONNX directly. Two DenseNets: in `densenet` depth adds dense blocks of twelve layers, so
that size grows with depth; in `densenet-classic` four blocks share all the layers, so that every layer reads all
earlier ones of its block and the number of weights itself grows with the square of the depth. The exponent is the
slope of a least-squares line through log(time) over log(size), over all points and over the deeper half.

The `long-*` families (`benchmarks.long_graphs`) have a given number of nodes. Each stage is timed by itself, in CPU
time of the process, so that other work beside it counts as little as it can.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks import common, long_graphs

DEPTHS = (10, 20, 50, 100, 200, 500, 1000)
FAMILIES = ("resnet", "densenet", "densenet-classic")
LONG = tuple(f"long-{family}" for family in long_graphs.FAMILIES)
NODES = (100, 500, 2000, 5000, 10000, 50000)
STAGES = ("load", "couple", "plan", "apply", "emit")
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


def run_long(family: str, nodes: int, folder: Path) -> None:
    """CPU time of each stage on one long network; the least of a few rounds."""
    import graphprune as gp
    from graphprune import frontends

    path = folder / f"{family}-{nodes}.onnx"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        onnx.save(long_graphs.FAMILIES[family.removeprefix("long-")](nodes), path)
    frontends.frontend("onnx").from_model(long_graphs.mlp(20))  # what a process imports on first use is not counted
    taken: dict[str, list[float]] = {stage: [] for stage in STAGES}

    def timed(stage: str, action: Callable[[], Any]) -> Any:
        start = time.process_time()
        made = action()
        taken[stage].append(time.process_time() - start)
        return made

    for _ in range(ROUNDS if nodes <= 2000 else 2):
        graph = timed("load", lambda: gp.load(path))
        coupling = timed("couple", lambda graph=graph: gp.couple(graph))
        plan = timed("plan", lambda coupling=coupling: gp.plan(coupling, gp.channels(0.5)))
        small = timed("apply", lambda coupling=coupling, plan=plan: gp.apply(coupling, plan))
        timed("emit", lambda small=small: frontends.emit(small))
    common.tell(nodes=len(graph.nodes), parameters=graph.parameter_count())
    common.tell(**{f"{stage}_s": min(seconds) for stage, seconds in taken.items()})


def run(case: str, folder: Path) -> None:
    """Time couple, plan (which couples and scores) and apply on one network; medians."""
    import graphprune as gp

    family, depth = case.split("/")
    if family in LONG:
        run_long(family, int(depth), folder)
        return
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


def long_fits(results: dict[str, dict[str, Any]], family: str) -> list[Any]:
    """A long family's exponents over nodes, stage by stage: all sizes, and those from 1,000 nodes on."""
    done = [r for case, r in results.items() if case.startswith(f"{family}/") and "emit_s" in r]
    cells = []
    for stage in STAGES:
        parts = [[r for r in done if r["nodes"] >= least] for least in (0, 1000)]
        slopes = [exponent([r["nodes"] for r in part], [r[f"{stage}_s"] for r in part]) for part in parts]
        cells.append(" / ".join(common.number(slope) for slope in slopes))
    return [family, *cells]


def long_row(case: str, r: dict[str, Any]) -> list[Any]:
    """A line of the table of long families."""
    times = [common.number(r.get(f"{stage}_s"), 3) for stage in STAGES]
    return [case.partition("/")[0], r.get("nodes"), r.get("parameters"), *times, r.get("error")]


def row(case: str, r: dict[str, Any]) -> list[Any]:
    """A line of the table."""
    family, depth = case.split("/")
    times = [common.number(r.get(key), 3) for key in ("couple_s", "plan_s", "apply_s", "compile_s")]
    return [family, depth, r.get("nodes"), r.get("indices"), r.get("parameters"), *times, r.get("error")]


def _by_depth(results: dict[str, dict[str, Any]], families: list[str]) -> list[str]:
    slopes = ["family", "over depth", "over depth, deeper half", "over weight indices", "over parameters"]
    times = ["couple s", "plan s", "apply s", "total s"]
    return [
        "Exponents of the total (plan, which includes coupling and scores, and apply):",
        common.table(slopes, [fits(results, family) for family in families]),
        common.table(
            ["family", "depth", "nodes", "weight indices", "parameters", *times, "error"],
            [row(case, r) for case, r in results.items() if case.split("/")[0] in families],
        ),
    ]


def _by_nodes(results: dict[str, dict[str, Any]], families: list[str]) -> list[str]:
    return [
        "By number of nodes, in CPU seconds. Exponents over all sizes / from 1,000 nodes on:",
        common.table(["family", *STAGES], [long_fits(results, family) for family in families]),
        common.table(
            ["family", "nodes", "parameters", *(f"{stage} s" for stage in STAGES), "error"],
            [long_row(case, r) for case, r in results.items() if case.split("/")[0] in families],
        ),
    ]


def main() -> None:
    """One case a network."""
    made = common.parser("growth", "Growth of compile time with depth.")
    made.set_defaults(cache=common.ROOT / ".cache" / "growth")
    options = made.parse_args()
    if options.case:
        common.child(options, lambda case: run(case, options.cache))
        return
    families = common.chosen((*FAMILIES, *LONG), options.models)
    cases = [f"{family}/{size}" for family in families for size in (NODES if family in LONG else DEPTHS)]
    results = common.run_cases(options, cases)
    deep, long = [family for family in families if family in FAMILIES], [f for f in families if f in LONG]
    parts = _by_depth(results, deep) if deep else []
    parts += _by_nodes(results, long) if long else []
    common.publish(options, "Growth of compile time", parts)


if __name__ == "__main__":
    main()
