"""How long compiling takes: graphprune's couple + score + plan + rewrite (and, for PyTorch, building the caller's own
class) beside Torch-Pruning's build + prune.

    python -m benchmarks.compile_speed [--models resnet50,densenet201]

Both do the same job on the same model (halve every group by L2), one thread, in turns within one process; medians of
three (Torch-Pruning once where it needs over 20 s). Loading, capturing and verifying, which also decides whether the
own class will do, are not in graphprune's time; capture is printed beside it. onnxsim, which prunes less (see reach),
is timed once on the same file.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from benchmarks import common, peers, zoo

MODELS = (
    "alexnet,convnext_tiny,deeplabv3_resnet50,densenet121,densenet201,efficientnet_b0,efficientnet_v2_s,fcn_resnet50,"
    "googlenet,inception_v3,lraspp_mobilenet_v3_large,maxvit_t,mnasnet1_0,mobilenet_v2,mobilenet_v3_large,regnet_y_3_2gf,"
    "resnet18,resnet50,resnet152,resnext50_32x4d,shufflenet_v2_x1_0,squeezenet1_0,swin_t,vgg16_bn,vit_b_16"
)
ROUNDS = 3
SLOW = 20.0


def compile_once(graph: Any) -> tuple[float, Any]:
    """Seconds from a loaded graph to the rewritten one, which is returned as well."""
    import graphprune as gp

    def work() -> Any:
        return gp.apply(graph, gp.plan(graph, target=gp.channels(peers.RATIO), criterion="l2"))

    return common.clock(work)


def build_own_class(pruned: Any) -> float:
    """Seconds from the rewritten graph to the module that the proof would then try."""
    from graphprune import frontends

    return common.clock(lambda: frontends.emit(pruned, lambda _: ""))[0]


def run(name: str, cache: Path) -> None:
    """Both routes and the peers on one model, in turns; tells medians after every round."""
    import graphprune as gp

    torch.set_num_threads(1)
    source = zoo.exported(name, cache)
    model, example = zoo.build(name), zoo.example(name)
    capture_s, captured = common.clock(lambda: gp.capture(model, (example,)))
    common.tell(capture_s=round(capture_s, 3))
    time_onnxsim(source)
    seconds: dict[str, list[float]] = {"onnx_s": [], "torch_s": [], "build_s": [], "peer_s": []}
    compile_once(gp.load(source))  # imports and caches, as a peer's first call would pay for them too
    peer_works = True
    for _ in range(ROUNDS):
        seconds["onnx_s"].append(compile_once(gp.load(source))[0])
        spent, pruned = compile_once(captured.copy())  # a copy, as a graph remembers its coupling
        build_s = build_own_class(pruned)
        seconds["torch_s"].append(spent + build_s)
        seconds["build_s"].append(build_s)
        common.tell(**{key: statistics.median(found) for key, found in seconds.items() if found})
        if peer_works and sum(seconds["peer_s"]) < SLOW:
            peer_works = time_peer(name, seconds["peer_s"])
    common.tell(**{key: statistics.median(found) for key, found in seconds.items() if found})


def time_peer(name: str, seconds: list[float]) -> bool:
    """Time Torch-Pruning once on a fresh model; False where it cannot do it."""
    model, example = zoo.build(name), zoo.example(name)
    try:
        build_s, prune_s, _ = peers.time_torch_pruning(model, example)
        with torch.no_grad():
            model(example)
    except Exception as error:
        common.tell(peer_error=f"{type(error).__name__}: {error}"[:120])
        return False
    seconds.append(build_s + prune_s)
    return True


def time_onnxsim(source: Path) -> None:
    """Time onnxsim's pruning once."""
    import onnx

    model = onnx.load(source)
    try:
        common.tell(onnxsim_s=common.clock(lambda: peers.onnxsim_prune(model))[0])
    except Exception as error:
        common.tell(onnxsim_error=f"{type(error).__name__}: {error}"[:120])


def ratios(results: Iterable[dict[str, Any]], key: str) -> list[float]:
    """How many times faster than Torch-Pruning, on the models that both can do."""
    return [r["peer_s"] / r[key] for r in results if r.get("peer_s") and r.get(key)]


def faster(result: dict[str, Any], key: str) -> str | None:
    """How many times faster one result is."""
    found = ratios([result], key)
    return f"{found[0]:.1f}x" if found else None


def row(name: str, r: dict[str, Any]) -> list[Any]:
    """A line of the table."""
    peer = common.number(r.get("peer_s")) or r.get("peer_error") or r.get("error")
    return [
        name,
        common.number(r.get("onnx_s"), 3),
        common.number(r.get("torch_s"), 3),
        common.number(r.get("build_s"), 3),
        common.number(r.get("capture_s")),
        peer[:50] if peer else None,
        faster(r, "onnx_s"),
        faster(r, "torch_s"),
        common.number(r.get("onnxsim_s")),
    ]


def summary(results: dict[str, dict[str, Any]]) -> str:
    """The figures that the goals are about."""
    lines = []
    for key, route in (("onnx_s", "ONNX"), ("torch_s", "PyTorch, after capture")):
        found = ratios(results.values(), key)
        if found:
            mean = statistics.geometric_mean(found)
            lines.append(
                f"- {route}: {mean:.1f} times faster in the geometric mean of {len(found)} models both can do."
            )
    dense = results.get("densenet201", {})
    if dense.get("onnx_s"):
        peer = dense.get("peer_s")
        than = (
            f"Torch-Pruning {peer:.1f} s, {peer / dense['onnx_s']:.0f} times"
            if peer
            else "Torch-Pruning did not finish"
        )
        lines.append(f"- DenseNet-201: {dense['onnx_s']:.3f} s from its ONNX graph; {than}.")
    return "\n".join(lines)


def main() -> None:
    """One case a model."""
    made = common.parser("compile_speed", "Time of compiling beside Torch-Pruning.", limit=600)
    made.set_defaults(models=MODELS)
    options = made.parse_args()
    if options.case:
        common.child(options, lambda name: run(name, options.cache))
        return
    results = common.run_cases(options, common.chosen(zoo.names(), options.models))
    seconds = ["graphprune ONNX s", "graphprune torch s", "of which own class s", "capture s", "Torch-Pruning s"]
    head = ["model", *seconds, "ONNX faster", "torch faster", "onnxsim s"]
    body = common.table(head, [row(name, r) for name, r in results.items()])
    common.publish(options, "Speed of compiling", [summary(results), body])


if __name__ == "__main__":
    main()
