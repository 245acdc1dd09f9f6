"""How long a 2:4 ONNX file takes by graphprune and by `polygraphy surgeon prune`, in turns; and how much memory.

    python -m benchmarks.sparse_speed [--models resnet50,memory-64,order-*] [--data FOLDER]

Each tool reads the file, makes its weights 2:4 by magnitude and writes another, as a command and inside a process that
has imported it. A counter of its own (numpy on what the onnx package reads) looks at what both wrote. `memory-N` makes
a model of N equal layers with external data 2:4, and tells by how much the process grew. `order-...` are in
`sparse_orders.py`.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks import common, sparse_orders, zoo

ROUNDS = 3
LAYERS = (4, 16, 64)
WIDTH = 2048  # of the layers in the models for memory: 16 MiB each
_POLYGRAPHY = "import sys; from polygraphy.tools import main; sys.exit(main())"
_GRAPHPRUNE = "import sys; from graphprune.cli import run; sys.exit(run(sys.argv[1:]))"


def counted(source: Path, made: Path) -> dict[str, int]:
    """How many of the weights that Conv, Gemm and MatMul contract have at least two zeros in each four, and how many
    entries of them differ from the original without being zero.
    """
    before, after = (_weights(path) for path in (source, made))
    found = {"weights": 0, "sparse": 0, "changed": 0}
    for node in onnx.load(made).graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in after:
            continue
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        new, old = after[node.input[1]], before[node.input[1]]
        axis = 1 if node.op_type == "Conv" or transposed else 0
        lines = np.moveaxis(new, axis, -1)
        if lines.shape[-1] % 4:
            continue
        zeros = (lines.reshape(-1, 4) == 0).sum(1)
        found["weights"] += 1
        found["sparse"] += bool((zeros >= 2).all())
        found["changed"] += int(((new != old) & (new != 0)).sum())
    return found


def _weights(path: Path) -> dict[str, Any]:
    return {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def _command(main: str, *words: str) -> None:
    subprocess.run([sys.executable, "-c", main, *words], check=True, capture_output=True)


def _ours(source: Path, target: Path) -> None:
    import graphprune as gp

    gp.sparsify(source, pattern="2:4", verify=False).save(target)


def _theirs(source: Path, target: Path) -> None:
    from polygraphy.tools.sparse import SparsityPruner

    onnx.save(SparsityPruner(onnx.load(source)).prune(), target)


def speed(name: str, options: Any) -> None:
    """One model, by all four ways in turns."""
    source = zoo.exported(name, options.cache)
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder, "ours.onnx"), Path(folder, "theirs.onnx")
        ways: dict[str, Callable[[], Any]] = {
            "ours": lambda: _ours(source, ours),
            "ours_command": lambda: _command(
                _GRAPHPRUNE, "sparsify", str(source), "-o", str(ours), "--no-verify", "--pattern", "2:4"
            ),
            "masks": lambda: _masks(source),
            "theirs": lambda: _theirs(source, theirs),
            "theirs_command": lambda: _command(_POLYGRAPHY, "surgeon", "prune", str(source), "-o", str(theirs)),
        }
        _ours(source, ours)  # imports
        spent: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way, action in ways.items():
                spent[way].append(_timed(action))
                wall, busy = ([round(row[i], 4) for row in spent[way]] for i in (0, 1))
                common.tell(**{f"{way}_s": statistics.median(wall), f"{way}_cpu_s": statistics.median(busy)})
            common.tell(rounds=len(spent["ours"]))
        common.tell(ours_counted=counted(source, ours), theirs_counted=counted(source, theirs))


def _timed(action: Callable[[], Any]) -> tuple[float, float]:
    """Seconds by the clock, and of processor time with that of children; of masks alone what the action says."""
    before = os.times()
    seconds, made = common.clock(action)
    after = os.times()
    if isinstance(made, tuple):
        return made
    return seconds, sum(after[:4]) - sum(before[:4])


def _masks(source: Path) -> tuple[float, float]:
    """The masks alone, of a model that has been read."""
    import time

    import graphprune as gp
    from graphprune import sparsity

    pattern = sparsity.parse("2:4")
    layers = [layer for layer in sparsity.find_layers(gp.load(source))[0] if not pattern.unfit(layer)]
    arrays = [layer.value.weight.array() for layer in layers if layer.value.weight is not None]
    busy, clock = time.process_time(), time.perf_counter()
    for layer, array in zip(layers, arrays, strict=True):
        pattern.keep(np.abs(array), layer)
    return time.perf_counter() - clock, time.process_time() - busy


def equal_layers(count: int, width: int, folder: Path) -> Path:
    """A model of `count` products with external data, written without holding it."""
    infos = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, width]) for n in ("x0", f"x{count}")]
    names = [f"x{i}" for i in range(count + 1)]
    nodes = [onnx.helper.make_node("MatMul", [names[i], f"w{i}"], [names[i + 1]]) for i in range(count)]
    tensors, random = [], np.random.default_rng(0)
    with Path(folder, "m.data").open("wb") as file:
        for i in range(count):
            array = random.standard_normal((width, width), np.float32)
            tensor = onnx.TensorProto(name=f"w{i}", data_type=onnx.TensorProto.FLOAT, dims=array.shape)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", "m.data"), ("offset", file.tell()), ("length", array.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
            file.write(array.data)
            tensors.append(tensor)
    graph = onnx.helper.make_graph(nodes, "layers", infos[:1], infos[1:], tensors)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, Path(folder, "m.onnx"))
    return Path(folder, "m.onnx")


def memory(count: int) -> None:
    """By how much making a model of many layers 2:4 lets the process grow."""
    import graphprune as gp
    from graphprune import sparsity

    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as folder:
        _ours(equal_layers(1, 64, Path(first)), Path(first, "sparse.onnx"))  # imports
        source = equal_layers(count, WIDTH, Path(folder))
        before = _reset_peak()
        result = gp.sparsify(source, pattern="2:4", verify=False)
        result.save(Path(folder, "sparse.onnx"))
        written = _status("VmHWM")
        sparsity.save_compact(result, Path(folder, "small.safetensors"))
        compact = _status("VmHWM")
        del result
        start = _reset_peak()
        gp.sparsify(source, pattern="2:4").save(Path(folder, "proven.onnx"))
        proven = _status("VmHWM")
    layer = WIDTH * WIDTH * 4 / 2**20
    common.tell(layers=count, model_mb=round(count * layer), layer_mb=round(layer))
    common.tell(grown_mb=round(written - before), with_compact_mb=round(compact - before))
    common.tell(proven_mb=round(proven - start))


def _status(key: str) -> float:
    """Megabytes as the kernel counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def _reset_peak() -> float:
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def run(case: str, options: Any) -> None:
    """One case."""
    if case.startswith("order-"):
        sparse_orders.run(case, options)
    elif case.startswith("memory-"):
        memory(int(case.rpartition("-")[2]))
    else:
        speed(case, options)


def speed_row(name: str, r: dict[str, Any]) -> list[Any]:
    """A line of the table of times."""
    cells = [common.number(r.get(f"{way}_s"), 2) for way in ("ours", "theirs", "ours_command", "theirs_command")]
    ratios = []
    for kind in ("s", "cpu_s"):
        for way in ("", "_command"):
            mine, other = r.get(f"ours{way}_{kind}"), r.get(f"theirs{way}_{kind}")
            ratios.append(None if not mine or not other else f"{other / mine:.0f}x")
    counts = []
    for who in ("ours", "theirs"):
        found = r.get(f"{who}_counted") or {}
        counts.append(f"{found.get('sparse')}/{found.get('weights')}, {found.get('changed')}" if found else None)
    return [name, common.number(r.get("masks_s"), 3), *cells, *ratios, *counts, r.get("rounds"), r.get("error")]


def main() -> None:
    """One case a model."""
    made = common.parser("sparse_speed", "2:4 by graphprune and by polygraphy surgeon prune.", limit=3000)
    made.set_defaults(models="resnet50,memory-*,order-*")
    options = made.parse_args()
    if options.case:
        common.child(options, lambda case: run(case, options))
        return
    cases = common.chosen(
        [*zoo.names(), *(f"memory-{n}" for n in LAYERS), *sparse_orders.cases(options.data)], options.models
    )
    results = common.run_cases(options, cases)
    head = ["model", "masks alone s", "graphprune s", "polygraphy s", "graphprune command s", "polygraphy command s"]
    head += ["faster", "as commands", "faster by CPU time", "as commands, CPU", "graphprune: 2:4 of, other changes"]
    head += ["polygraphy: 2:4 of, other changes", "rounds", "error"]
    speeds = [speed_row(n, r) for n, r in results.items() if not n.startswith(("memory-", "order-"))]
    rows = [
        [n, *(r.get(k) for k in ("model_mb", "layer_mb", "grown_mb", "with_compact_mb", "proven_mb", "error"))]
        for n, r in results.items()
        if n.startswith("memory-")
    ]
    parts = [
        'Reading, masks by magnitude and writing; medians, all ways in turns. "Masks alone" are those of weights in '
        "memory. Neither is asked for a proof here.",
        common.table(head, speeds),
        f"External data, layers of {WIDTH}x{WIDTH} in float32; by how much the process grew at its peak, MB.",
        common.table(["model", "weights", "largest layer", "grown", "with --compact", "with the proof", "error"], rows),
        "Orders of channels: what they win back of the magnitude that 2:4 loses against the best half of each weight; "
        "by rows: against the best half of each row. NVIDIA publishes 35.5 % by rows (32.4 % of the weight) for the "
        "matrix `published`, in 60.7 s on a CPU (NVIDIA/apex, permutation_tests/README.md). Random: mean of "
        "25 of 128x64 (`published`: of 25 searches in the one), seconds of processor time. Models: searches of "
        f"{sparse_orders.SMALL_SECONDS:.0f} s; ResNet-50, whose weights are random, {sparse_orders.SECONDS:.0f} s; the "
        "others are trained. Max error: of the reordered model's outputs, relative to the largest.",
        sparse_orders.table({n: r for n, r in results.items() if n.startswith("order-")}),
    ]
    common.publish(options, "Speed and memory of making weights sparse", parts)


if __name__ == "__main__":
    main()
