"""Local functions: calls are replaced by what they compute; functions that the graph never calls stay in the file."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import FunctionProto, ModelProto, NodeProto, inliner

from ..protos import domain, subgraphs

#: What tells a function apart: domain, name, overload.
_Key = tuple[str, str, str]
#: Functions that a note names.
_NAMED = 5


def inlined(model: ModelProto) -> ModelProto:
    """The model with calls of local functions replaced by their bodies; as it was if that fails."""
    if not model.functions:
        return model
    functions = {_key(f): f for f in model.functions}
    called = _called(model.graph.node, functions)
    try:
        found: ModelProto = inliner.inline_local_functions(model)
    except Exception:  # calls of local functions stay, as unknown operators
        return model
    idle = [f for key, f in functions.items() if key not in called]
    kept = {_key(f) for f in idle} | _called((node for f in idle for node in f.node), functions)
    present = {_key(f) for f in found.functions}
    found.functions.extend(f for key, f in functions.items() if key in kept and key not in present)
    return found


def _key(function: FunctionProto) -> _Key:
    return ("" if function.domain == "ai.onnx" else function.domain, function.name, function.overload)


def _called(nodes: Iterable[NodeProto], functions: dict[_Key, FunctionProto]) -> set[_Key]:
    """The functions that these nodes call, those called by functions included."""
    found: set[_Key] = set()
    queue = list(nodes)
    while queue:
        node = queue.pop()
        key = (domain(node), node.op_type, node.overload)
        if key in functions and key not in found:
            found.add(key)
            queue += functions[key].node
        for inner in subgraphs(node):
            queue += inner.node
    return found


def written_otherwise(model: ModelProto, read: ModelProto) -> list[str]:
    """What to say of parts of a file that are written in another form than they came, or as they were."""
    gone = sorted({f.name for f in model.functions} - {f.name for f in read.functions})
    notes = []
    if gone:
        notes.append(f"functions of the file ({_some(gone)}) are written out where they were called")
    if model.training_info:
        notes.append("the file's training information is kept as it was: its sizes are those before")
    return notes


def _some(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
