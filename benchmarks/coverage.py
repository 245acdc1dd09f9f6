"""Which models of whole libraries come out half as wide, smaller, valid and verified; and what stopped the others.

    python -m benchmarks.coverage [--suite timm,transformers] [--routes torch,onnx] [--models 'res*'] [--limit-s 600]

Every model of a suite (`benchmarks/suites/`) is pruned with `channels=0.5` in a process of its own, from the module and
from its ONNX export (`torch.onnx.export`, dynamo, opset 18), or by other routes (`benchmarks/routes.py`), such as
`--routes torchscript-17,dynamo-23,torchscript-17+qdq`; Torch-Pruning goes over the same modules beside it. Results are
kept per suite in `.cache/bench/coverage-SUITE.jsonl`; at the end they go into `docs/measurements/coverage-SUITE.json`,
and the pages are written from all such files.
"""

from __future__ import annotations

import argparse
import importlib
import os
import pkgutil
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import common, coverage_page, peers, routes, suites, zoo
from benchmarks.random_weights import call

CHUNK = 8  # models of which all routes are run before the next


def run(case: str, cache: Path) -> None:
    """One route of one model, `suite/route/model`, or an export, which writes the file that the route reads."""
    suite, route, name = case.split("/", 2)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    zoo.torchvision()
    made = routes.exported(route)
    if made is not None:
        path = routes.make(cache, suite, made, name)
        common.tell(contrib=contrib(path))
    elif route in routes.MODULES:
        common.tell(step="building the model")
        if route == routes.AS_HELD:
            default_route(suites.defaults(suite), name)
        else:
            (torch_route if route == "torch" else peer_route)(*suites.suite(suite).build(name))
    else:
        path = routes.source(cache, suite, route, name)
        onnx_route(path if path.exists() else routes.make(cache, suite, route, name))


def contrib(path: Path) -> dict[str, int]:
    """How often each operator occurs that is not in ONNX's own domain: fused and quantised ones."""
    import onnx

    nodes = onnx.load(path, load_external_data=False).graph.node
    return dict(Counter(node.op_type for node in nodes if node.domain not in ("", "ai.onnx")))


def torch_route(module: nn.Module, inputs: Any) -> None:
    """Module in, module out."""
    import graphprune as gp

    graph = timed("capture", lambda: gp.capture(module, inputs))
    result = compile_graph(graph)
    common.tell(valid=zoo.shapes(call(result.model.eval(), inputs)) == zoo.shapes(call(module, inputs)))


def peer_route(module: nn.Module, inputs: Any) -> None:
    """Torch-Pruning, module in, module out."""
    common.tell(step="pruning", parameters=zoo.parameters(module))
    peers.torch_pruning(module, inputs)


def default_route(suite: suites.Defaults, name: str) -> None:
    """A module as a user holds it in, one of its class out, which generates where that does."""
    import graphprune as gp

    module, inputs = suite.build_default(name)
    graph = timed("capture", lambda: gp.capture(module, inputs))
    model = compile_graph(graph).model.eval()
    common.tell(step="running it", own_class=type(model) is type(module))
    made, original = (suite.main_result(call(m, inputs)) for m in (model, module))
    common.tell(step="generating", valid=zoo.shapes(made) == zoo.shapes(original))
    if hasattr(module, "generate") and getattr(module, "can_generate", bool)() and "input_ids" in inputs:
        ids = {key: inputs[key] for key in ("input_ids", "attention_mask") if key in inputs}
        options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
        lengths = [m.generate(**ids, **options).shape for m in (module, model) if hasattr(m, "generate")]
        common.tell(generates=lengths[1:] == lengths[:1])


def onnx_route(source: Path) -> None:
    """File in, file out."""
    import onnx

    import graphprune as gp
    from graphprune.calibration.random_inputs import random_inputs
    from graphprune.runtimes import get

    graph = timed("capture", lambda: gp.load(source))
    feed, runtime = random_inputs(graph, 0), get("onnxruntime")
    common.tell(step=coverage_page.AS_FOUND)
    original = runtime.compile(source).run(feed)
    result = compile_graph(graph)
    common.tell(step="checking the file")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pruned.onnx")
        result.save(path)
        if passes_checker(source):
            onnx.checker.check_model(path, full_check=True)
        made = runtime.compile(path).run(feed)
    common.tell(valid=[a.shape for a in made] == [a.shape for a in original])


def passes_checker(path: Path) -> bool:
    """Whether the onnx package accepts a file; some that onnxruntime writes have operators in the wrong domain."""
    import onnx

    try:
        onnx.checker.check_model(path, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def timed(step: str, action: Callable[[], Any]) -> Any:
    """Do it; tell its name before and its seconds after."""
    common.tell(step=step)
    seconds, made = common.clock(action)
    common.tell(**{f"{step}_s": round(seconds, 2)})
    return made


def compile_graph(graph: Any) -> Any:
    """Prune a graph as a user would, and tell what came out."""
    unknown = Counter(node.op or node.kind for node in graph.nodes if node.kind == "unknown")
    common.tell(nodes=len(graph.nodes), unknown=dict(unknown), parameters=graph.parameter_count())
    result = prove(graph)
    report = result.report
    seconds = {stage: taken for stage, taken in report.seconds.items() if stage != "verifying"}
    touched = [row for row in report.groups if row.kept < row.size]
    common.tell(
        ratio=round(report.after.parameters / report.before.parameters, 4),
        macs=round(report.after.macs / max(1, report.before.macs), 4),
        exact=sum(row.exact for row in touched),
        renormalising=sum(not row.exact for row in touched),
        form=report.output_form,
        form_reason=" ".join(report.output_reason.split())[:200],
        compile_s=round(sum(seconds.values()), 2),
        verify_s=round(report.seconds.get("verifying", 0.0), 2),
        stops=stops(graph, report.frozen),
    )
    return result


def prove(graph: Any) -> Any:
    """The result with its verdict; where the proof fails it tells so, and the result comes without."""
    import graphprune as gp
    from graphprune.errors import VerificationError

    def step(stage: str) -> None:
        common.tell(step=stage)

    try:
        result = gp.prune(graph, target=gp.channels(0.5), progress=step)
    except VerificationError as error:
        common.tell(verified=False, verdict="FAILED", note=" ".join(str(error).split())[:300])
        return gp.prune(graph, target=gp.channels(0.5), verify=False, progress=step)
    proof = result.report.proof
    common.tell(verified=proof.passed, verdict=proof.verdict, max_error=float(proof.max_error), note=proof.detail)
    return result


def stops(graph: Any, frozen: list[Any], most: int = 3) -> list[str]:
    """What froze most parameters: the node, the reason, and their share of the model."""
    sizes = {value.shown: value.sizes for value in graph.weights().values()}
    total = max(1, graph.parameter_count())
    kinds = {node.name: node.op or node.kind for node in graph.all_nodes}
    found: Counter[str] = Counter()
    for row in frozen:
        shape = sizes[row.weight]
        where = f"{kinds[row.node]} `{row.node}`: " if row.node in kinds else ""
        found[f"{where}{row.reason}"] += prod(shape) // shape[row.axis] * row.indices
    return [f"{why} ({count / total:.0%})" for why, count in found.most_common(most)]


def warm_up(suite: str) -> None:
    """Import once, before the forks, what every case needs: its suite's library, and what compiles and runs models."""
    zoo.torchvision()
    packages = [importlib.import_module(name) for name in ("graphprune", "graphprune.passes", "graphprune.runtimes")]
    own = [m.name for p in packages for m in pkgutil.walk_packages(p.__path__, f"{p.__name__}.")]
    for name in (*own, "onnxruntime", "onnxscript", "torch_pruning"):
        with suppress(ImportError):
            importlib.import_module(name)
    library = getattr(suites.suite(suite), "library", None)
    if library is not None:
        library()


def run_part(options: argparse.Namespace, suite: str, names: list[str], wanted: list[str]) -> None:
    """Every route of a few models; the exports first, without which there is no ONNX route."""

    def one(case: str) -> None:
        run(case, options.cache)

    short = coverage_page.fell_short
    for route, builder in routes.MODULES.items():
        if route in wanted and hasattr(suites.suite(suite), builder):
            again = {} if route == routes.PEER else {"failed": short}
            common.run_cases(options, [f"{suite}/{route}/{name}" for name in names], run=one, **again)
    for route in wanted:
        if route not in routes.MODULES:
            ready = names
            for export in routes.exports(route):
                made = common.run_cases(options, [f"{suite}/{export}/{name}" for name in ready], run=one)
                ready = [name for name in ready if "error" not in made[f"{suite}/{export}/{name}"]]
            common.run_cases(options, [f"{suite}/{route}/{name}" for name in ready], short, one)
    routes.discard(options.cache, suite, wanted, names)


def run_suite(options: argparse.Namespace, suite: str, wanted: list[str]) -> None:
    """Every chosen model and route of a suite that has no result yet; then write what is known of the suite."""
    options.results = common.ROOT / ".cache" / "bench" / f"coverage-{suite}.jsonl"
    if options.fresh:
        options.results.unlink(missing_ok=True)
    options.fresh = False
    warm_up(suite)
    every = suites.suite(suite).names()
    names = common.chosen(every, options.models)
    for part in (names[i : i + CHUNK] for i in range(0, len(names), CHUNK)):
        run_part(options, suite, part, wanted)
    coverage_page.record(suite, common.load_results(options.results), every)


def main() -> None:
    """All suites that were asked for, then the page from everything recorded."""
    made = common.parser("coverage", "Which models of whole libraries can be halved, and what stops the others.", 600)
    made.set_defaults(memory_gb=15, out=common.ROOT / "docs" / "coverage.md")
    made.add_argument("--suite", default=",".join(suites.suites()), help="comma-separated suites; empty: only the page")
    made.add_argument(
        "--routes", default=",".join((*routes.DEFAULT, routes.PEER)), help="comma-separated; see benchmarks/routes.py"
    )
    options = made.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    for suite in filter(None, options.suite.split(",")):
        run_suite(argparse.Namespace(**vars(options)), suite, options.routes.split(","))
    coverage_page.publish(options.out)


if __name__ == "__main__":
    main()
