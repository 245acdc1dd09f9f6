"""How many of torchvision's 86 models come out smaller, valid and verified; the peers on the same models.

    python -m benchmarks.reach [--models 'resnet*'] [--jobs 2]

Every model is halved (`channels=0.5`, L2) by four tools, each in a process of its own: graphprune from the module,
graphprune from an ONNX export, Torch-Pruning from the module, onnxsim from the same export. "Valid" means that the
result runs with outputs of the original's shapes (and, for graphprune's ONNX, that it passes the checker with full
shape inference); "verified" that it agrees with the masked original on random inputs.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import common, peers, zoo

GRAPHPRUNE = ("graphprune-torch", "graphprune-onnx")
TOOLS = (*GRAPHPRUNE, *peers.TOOLS)
GOAL = 0.42
NOTE = """Valid: the result runs with outputs of the original's shapes (graphprune's ONNX also passes the checker with
full shape inference). Verified: it agrees with the masked original on random inputs; the peers offer no such check, so
their numbers are not looked at. Slowest: from the model in to the model out, capture included, verifying and exporting
to ONNX not. Times here are taken with other cases running beside."""
Results = dict[str, dict[str, Any]]


def timed(label: str, action: Callable[[], Any]) -> Any:
    """Do it, tell how long it took, return what it made."""
    seconds, made = common.clock(action)
    common.tell(**{f"{label}_s": round(seconds, 3)})
    return made


def compile_graph(graph: Any) -> tuple[Any, Any]:
    """Plan and rewrite a graph; tell sizes and operators without a rule."""
    import graphprune as gp

    unknown = Counter(node.op or node.kind for node in graph.nodes if node.kind == "unknown")
    common.tell(unknown=dict(unknown), nodes=len(graph.nodes))
    timed("couple", lambda: gp.couple(graph))
    plan = timed("plan", lambda: gp.plan(graph, target=gp.channels(0.5), criterion="l2"))
    pruned = timed("apply", lambda: gp.apply(graph, plan))
    ratio = pruned.parameter_count() / graph.parameter_count()
    common.tell(params_ratio=round(ratio, 4))
    if ratio > GOAL:
        common.tell(frozen=frozen(graph))
    return plan, pruned


def frozen(graph: Any) -> str:
    """What froze most, in a sentence."""
    import graphprune as gp

    rows = gp.inspect(graph).frozen
    reasons: Counter[str] = Counter()
    for row in rows:
        reasons[f"{row.reason} ({row.node})"] += row.indices
    return "; ".join(f"{reason}: {count} indices" for reason, count in reasons.most_common(3))


def prove(graph: Any, pruned: Any, plan: Any) -> None:
    """Tell whether the pruned graph agrees with the masked original."""
    import graphprune as gp

    proof = timed("verify", lambda: gp.verify(graph, pruned, plan))
    common.tell(verified=bool(proof.passed), max_error=float(proof.max_error), note=proof.detail)


def torch_route(name: str) -> None:
    """Module in, module out."""
    import graphprune as gp

    model, example = zoo.build(name, auxiliary=True), zoo.example(name)
    graph = timed("load", lambda: gp.capture(model, (example,)))
    plan, pruned = compile_graph(graph)
    made = timed("emit", lambda: gp.emit(pruned))
    common.tell(form="graph" if isinstance(made, torch.fx.GraphModule) else "module")
    with torch.no_grad():
        common.tell(valid=zoo.shapes(made(example)) == zoo.shapes(model(example)))
    prove(graph, made, plan)


def onnx_route(name: str, cache: Path) -> None:
    """File in, file out."""
    import onnx

    import graphprune as gp

    source = zoo.exported(name, cache)
    graph = timed("load", lambda: gp.load(source))
    plan, pruned = compile_graph(graph)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pruned.onnx")
        timed("emit", lambda: gp.save(pruned, path))
        onnx.checker.check_model(path, full_check=True)
        common.tell(valid=peers.onnx_shapes(path) == peers.onnx_shapes(source))
    prove(graph, pruned, plan)


def run(case: str, cache: Path) -> None:
    """One tool on one model."""
    tool, name = case.split("/")
    torch.set_num_threads(1)
    if tool == "graphprune-torch":
        torch_route(name)
    elif tool == "graphprune-onnx":
        onnx_route(name, cache)
    elif tool == "export":
        zoo.exported(name, cache)
    else:
        peers.run(tool, name, cache)


def counts(results: Results, models: list[str]) -> str:
    """One line a tool."""
    rows = []
    for tool in TOOLS:
        found = [results.get(f"{tool}/{name}", {}) for name in models]
        own = tool in GRAPHPRUNE
        valid = [r for r in found if r.get("valid")]
        proven = [r for r in valid if r.get("verified")] if own else valid
        small = sum(r["params_ratio"] <= GOAL for r in proven)
        slowest = max((whole(r) for r in valid), default=0.0)
        rows.append(
            [tool, sum(map(bool, found)), len(valid), len(proven) if own else None, small, common.number(slowest, 1)]
        )
    head = ["tool", f"tried of {len(models)}", "valid", "verified", f"of these at <= {GOAL} of parameters", "slowest s"]
    return common.table(head, rows)


def whole(result: dict[str, Any]) -> float:
    """Seconds from the model in to the model out: load or capture, compile, emit (a peer: build and prune)."""
    steps = ("load_s", "plan_s", "apply_s", "emit_s", "build_s", "prune_s")
    return float(sum(result.get(step, 0.0) for step in steps))


def cell(result: dict[str, Any]) -> str:
    """A result in a word or two."""
    if not result:
        return "not run"
    if result.get("error") or not result.get("valid"):
        return result.get("error", "invalid")[:60]
    note = "" if result.get("verified", True) else " NOT VERIFIED"
    form = " (graph)" if result.get("form") == "graph" else ""
    return f"{result['params_ratio']:.3f}{form}{note}"


def phases(result: dict[str, Any]) -> list[str | None]:
    """Seconds to load, to compile (plan and rewrite), to emit and to verify."""
    compiled = result["plan_s"] + result["apply_s"] if "apply_s" in result else None
    return [common.number(s) for s in (result.get("load_s"), compiled, result.get("emit_s"), result.get("verify_s"))]


def tables(results: Results, models: list[str]) -> list[str]:
    """The counts, every model's outcome, graphprune's times, and what stayed too large and why."""
    outcome = [[name, *(cell(results.get(f"{tool}/{name}", {})) for tool in TOOLS)] for name in models]
    times = [
        [name, *(p for tool in GRAPHPRUNE for p in phases(results.get(f"{tool}/{name}", {})))] for name in models
    ]  # fmt: skip
    left = [
        [case, r.get("frozen") or r.get("error"), r.get("unknown")] for case, r in results.items() if missed(case, r)
    ]
    steps = [f"{route} {step} s" for route in ("torch", "onnx") for step in ("load", "compile", "emit", "verify")]
    return [
        counts(results, models),
        NOTE,
        "## Parameters kept, or what went wrong",
        common.table(["model", *TOOLS], outcome),
        "## Seconds a phase",
        "Load is `torch.export` for the torch route. Compile is coupling, scores, plan and rewrite.",
        common.table(["model", *steps], times),
        "## What graphprune did not bring to the goal",
        common.table(["case", "why", "unknown operators"], left) if left else "Nothing.",
    ]


def missed(case: str, result: dict[str, Any]) -> bool:
    """Whether one of graphprune's results is not valid, not verified, or too large."""
    good = result.get("valid") and result.get("verified") and result["params_ratio"] <= GOAL
    return case.split("/", maxsplit=1)[0] in GRAPHPRUNE and not good


def main() -> None:
    """All tools over the chosen models; two at a time unless told otherwise."""
    made = common.parser("reach", "Which of torchvision's models can be halved.", limit=900)
    made.set_defaults(jobs=2, memory_gb=11)
    made.add_argument("--tools", default="*", help="comma-separated globs of the tools to run")
    options = made.parse_args()
    if options.case:
        common.child(options, lambda case: run(case, options.cache))
        return
    models, tools = common.chosen(zoo.names(), options.models), common.chosen(TOOLS, options.tools)
    missing = [name for name in models if not (options.cache / f"{name}.onnx").exists()]
    common.run_cases(options, [f"export/{name}" for name in missing])
    results = common.run_cases(options, [f"{tool}/{name}" for name in models for tool in tools])
    common.publish(options, "Reach: torchvision's models at channels=0.5", tables(results, models))


if __name__ == "__main__":
    main()
