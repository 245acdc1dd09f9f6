"""Proving what the commands made: a pruned model, one that the user holds already, a graph after a pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from graphprune import coupling, frontends
from graphprune.calibration.running import running_shapes
from graphprune.calibration.samples import Data
from graphprune.coupling import Coupling
from graphprune.errors import BackendError, InputError, OwnClassError, VerificationError
from graphprune.ir.graph import Graph
from graphprune.passes.base import Pass, Remark
from graphprune.passes.cast_precision import CastPrecision
from graphprune.passes.remove_blocks import RemoveBlocks
from graphprune.passes.remove_channels import RemoveChannels, remove_channels
from graphprune.passes.sparsify import Sparsify
from graphprune.verification import proof as proving
from graphprune.verification.inputs import BATCHES, shapes_of

from .stages import model_of, tried

Tell = Callable[[str], None]

#: What a caller may ask of the form of the result: the class where it will do, or nothing else.
OWN_CLASS = ("prefer", "require")


#: What a caller can do where no runtime here runs the model.
_UNPROVEN = (
    "--no-verify (verify=False) writes the result without the proof that it computes what the original does with the "
    "removed parts masked"
)


def few(data: Data | None) -> Data | None:
    """Data that can be read more than once: of a loader the first batches."""
    if data is None or isinstance(data, str | Path) or hasattr(data, "keys"):
        return data
    return list(islice(data, 2 * BATCHES))


def loaded(model: Any, example_inputs: Any, input_shapes: Any, data: Data | None, submodule: str = "") -> Graph:
    """The graph of a model, or of a part of it; sizes that nobody gave are those of the data, where there are some."""
    if submodule and data is not None:
        raise InputError("data are samples for a whole model: they do not go with a sub-module")
    graph = frontends.read(model, example_inputs, input_shapes, submodule)
    if data is None or input_shapes or isinstance(model, Graph):
        return graph
    shapes = shapes_of(graph, data)
    return frontends.read(model, example_inputs, shapes) if shapes else graph


def at_running_sizes(graph: Graph, model: Any) -> Graph:
    """The graph at sizes at which the model runs, where it refuses those that were assumed."""
    if graph.frontend != "onnx" or not graph.assumed or graph.cases or isinstance(model, Graph):
        return graph
    found = running_shapes(graph, model)
    if found is None:
        return graph
    other = frontends.read(model, None, found[0])
    other.assumed = found[1]
    return other


def settle(proof: proving.Proof, what: str, strict: bool) -> None:
    """Raise where the models differ; with `strict` also where nothing was proven."""
    if proof.failed:
        raise VerificationError(f"{what} {proof.sentence}")
    if strict and proof.undecided:
        raise VerificationError(f"{what} is {proof.sentence}")


def prove(
    coupled: Coupling, keep: np.ndarray, pruned: Graph, emitted: Any, seed: int, tell: Tell | None, data: Data | None
) -> tuple[Any, proving.Proof]:
    """The model and its proof, which also decides whether the caller's own class will do.

    Where outputs do not depend on inputs because a weight is all zero, it is the proof of a model without such weights.
    """
    try:
        reference = proving.Reference(coupled, keep, seed=seed, progress=tell, data=data)
    except BackendError as error:
        raise type(error)(
            f"the proof cannot run the original: {error}{_strange(coupled.graph)}; {_UNPROVEN}"
        ) from error
    emitted, proof = tried(reference, pruned, emitted)
    if not proof.undecided:
        return frontends.rehearsed(pruned, emitted, reference.problem), proof
    with proving.livened(coupled.graph) as changed:
        if not changed:
            return frontends.rehearsed(pruned, emitted, reference.problem), proof
        live = remove_channels(coupled, keep)
        again, proof = tried(proving.Reference(coupled, keep, seed=seed, data=data), live, frontends.emit(live))
    if getattr(again, "form", None) != getattr(emitted, "form", None):
        emitted = frontends.of(pruned).emit(pruned, own_class=False)
    return frontends.rehearsed(pruned, emitted, reference.problem), proof


def _strange(graph: Graph) -> str:
    """The operators that are in no set of ONNX's own: whoever made them has what runs them."""
    strange = [node for node in graph.flat_nodes if node.kind == "unknown" and "." in node.op]
    if graph.frontend != "onnx" or not strange:
        return ""
    more = f" and {len(strange) - 1} more" if len(strange) > 1 else ""
    return f" (the node '{strange[0].name}' is a {strange[0].op}{more})"


def require_class(graph: Graph, emitted: Any) -> None:
    """Raise where the result is not in the caller's own class, or is so at inference only."""
    if graph.frontend != "torch":
        return
    if emitted.form != "module":
        raise OwnClassError(f"the pruned '{graph.name}' cannot keep its own class: {emitted.reason}")
    if emitted.alerts:
        raise OwnClassError("; ".join(emitted.alerts))


def compared(
    coupled: Coupling, keep: np.ndarray, pruned: Any, *, inputs: int, seed: int, data: Data | None
) -> proving.Proof:
    """A pruned model (a `Graph` or a foreign model) against the masked original."""
    model = model_of(frontends.emit(pruned)) if isinstance(pruned, Graph) else pruned
    proof = proving.verify(coupled, keep, model, inputs=inputs, seed=seed, data=data)
    if proof.undecided and isinstance(pruned, Graph):
        with proving.livened(coupled.graph) as changed:
            if changed:
                model = model_of(frontends.emit(remove_channels(coupled, keep)))
                proof = proving.verify(coupled, keep, model, inputs=inputs, seed=seed, data=data)
    return proof


def verify_pass(before: Graph, after: Graph, step: Pass, data: Data | None, strict: bool) -> Sequence[Remark]:
    """Compare the models before and after a pass; raises VerificationError where they differ."""
    sparse = step.make(before) if isinstance(step, Sparsify) else None
    if isinstance(step, RemoveChannels):
        coupled, made = step.plan(before)
        keep = made.kept(coupled)
    else:
        before = sparse.graph if sparse is not None and sparse.updated else before
        coupled = coupling.couple(before)
        keep = np.ones(coupled.count, bool)
    without = step.choose(before) if isinstance(step, RemoveBlocks) else ()
    masks = sparse.masks if sparse is not None else None
    if isinstance(step, CastPrecision) and not step.keep_io:
        after = replace(step, keep_io=True).run(before)  # both take the same inputs then
    given = data if data is not None else getattr(step, "data", "") or None
    model = model_of(frontends.emit(after))
    precision = step.to if isinstance(step, CastPrecision) else ""
    proof = proving.verify(coupled, keep, model, without=without, masks=masks, data=given, precision=precision)
    if proof.failed:
        why = f": {proof.detail}" if proof.detail else ""
        raise VerificationError(f"the outputs differ by {proof.max_error:.2g} (allowed: {proof.tolerance:.2g}){why}")
    settle(proof, "what came out", strict)
    return [Remark("", proof.sentence)] if proof.undecided else []


def same_kind(graph: Graph, other: Graph, names: tuple[Any, Any]) -> None:
    """Raise where two graphs cannot be compared."""
    if other.frontend != graph.frontend:
        raise InputError(
            f"'{names[0]}' and '{names[1]}' are of different kinds; compare ONNX with ONNX or PyTorch with PyTorch"
        )
