"""What becomes of the onnx package's node tests: each is loaded, pruned where it can be, written back and compared.

    python -m benchmarks.node_tests [--models 'Re*,Conv']

One process an operator; each of its cases in three forms (`benchmarks.node_cases`). Outcomes: *pruned* (and verified),
*whole* (nothing may be removed; what is written back computes the same), *refused* (a sentence says why), *not run*
(onnxruntime does not run the original), *wrong*, *crashed*.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from onnx import ModelProto

from benchmarks import common
from benchmarks.node_cases import FORMS, built, node_cases, operator

FINE = ("pruned", "whole", "refused", "not run")
BAD = ("wrong", "crashed")


def outcome(model: ModelProto) -> tuple[str, str]:
    """A word, and what to say about it."""
    from graphprune.errors import GraphPruneError, VerificationError

    try:
        return _outcome(model)
    except VerificationError as error:
        return "wrong", str(error)
    except GraphPruneError as error:
        return ("refused" if _runs(model) else "not run"), str(error)
    except Exception as error:  # that is what this is about
        return "crashed", f"{type(error).__name__}: {error}"


def _outcome(model: ModelProto) -> tuple[str, str]:
    import graphprune as gp
    from graphprune.errors import InputError
    from graphprune.frontends import frontend

    graph = frontend("onnx").from_model(model)
    graph.check()
    coupling = gp.couple(graph)
    if len(coupling):
        return "pruned", gp.prune(graph, target=gp.channels(0.5)).report.proof.detail
    written = frontend("onnx").emit(graph)
    if not _runs(model):
        return "not run", ""
    try:
        return (
            ("whole", "") if _same(graph, model, written) else ("wrong", "what is written back computes something else")
        )
    except InputError as error:
        return "not run", str(error)


def _runs(model: ModelProto) -> bool:
    from graphprune.runtimes import get

    try:
        get("onnxruntime").compile(model)
    except Exception:  # whatever the runtime says
        return False
    return True


def _same(graph: Any, model: ModelProto, written: ModelProto) -> bool:
    from graphprune.calibration.random_inputs import random_inputs
    from graphprune.runtimes import get

    runtime, feed = get("onnxruntime"), random_inputs(graph, 0)
    found, expected = (runtime.compile(made).run(feed) for made in (written, model))
    return all(
        np.shape(a) == np.shape(b) and (_random(model) or np.allclose(a, b, rtol=1e-4, atol=1e-5, equal_nan=True))
        for a, b in zip(found, expected, strict=True)
        if getattr(a, "dtype", np.dtype(object)).kind in "fiub"
    )


def _random(model: ModelProto) -> bool:
    return any(node.op_type.startswith(("Random", "Bernoulli", "Dropout", "Multinomial")) for node in model.graph.node)


def run(op: str) -> None:
    """All cases of an operator."""
    counts: Counter[str] = Counter()
    notes = []
    for name, case in node_cases().items():
        for form in FORMS if operator(case) == op else ():
            if form == "plain" and op == "STFT":
                continue  # onnxruntime divides by the step, a random input that may be zero
            model = built(case, form)
            if model is None:
                continue
            common.tell(step=f"{name}, {form}")
            word, text = outcome(model)
            counts[word] += 1
            if word in BAD:
                notes.append(f"{name} ({form}): {' '.join(text.split())[:160]}")
    common.tell(counts=dict(counts), notes=notes)


def main() -> None:
    """One case an operator."""
    options = common.parser("node_tests", "The onnx package's node tests.").parse_args()
    if options.case:
        common.child(options, run)
        return
    operators = sorted({operator(case) for case in node_cases().values()})
    import graphprune.runtimes  # noqa: F401  (what takes seconds to import or collect is there before processes fork)

    results = common.run_cases(options, common.chosen(operators, options.models), run=run)
    total: Counter[str] = Counter()
    for found in results.values():
        total.update(found.get("counts", {}))
    bad = [[op, note] for op, r in results.items() for note in [*r.get("notes", []), r.get("error")] if note]
    parts = [
        f"{sum(total.values())} models from {len(node_cases())} node tests of {len(results)} operators.",
        common.table([*FINE, *BAD], [[total[word] for word in (*FINE, *BAD)]]),
        common.table(["operator", "what went wrong"], bad) if bad else "Nothing was wrong, nothing crashed.",
        common.table(
            ["operator", *FINE, *BAD],
            [[op, *(r.get("counts", {}).get(word, 0) for word in (*FINE, *BAD))] for op, r in results.items()],
        ),
    ]
    common.publish(options, "The onnx package's node tests", parts)


if __name__ == "__main__":
    main()
