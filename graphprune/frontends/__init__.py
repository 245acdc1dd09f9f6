"""Frontends: a foreign model in, a `Graph`; a `Graph` in, a foreign model. Each is imported on first use."""

from __future__ import annotations

import sys
from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from graphprune.errors import InputError
from graphprune.ir.graph import Graph

#: Suffixes of files that hold pickled objects, which are never loaded.
PICKLES = frozenset({".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt", ".t7"})

#: What is loaded where there is a model of transformers.
_TRANSFORMERS = "transformers.modeling_utils"

#: Where no configuration of transformers says what a result is.
_UNDESCRIBED = "its configuration does not say so, and from_pretrained cannot load what save_pretrained writes"


def frontend(name: str) -> ModuleType:
    """The frontend package called "onnx", "torch" or "checkpoint"."""
    return import_module(f".{name}", __name__)


def of(graph: Graph) -> ModuleType:
    """The frontend that made a graph."""
    return frontend(graph.frontend)


def read(model: Any, example_inputs: Any, input_shapes: Any, submodule: str = "") -> Graph:
    """The graph of an `nn.Module` (with `example_inputs`), a `Graph`, or anything `load` takes; of a part of a module,
    where its path is given.
    """
    if isinstance(model, Graph) and submodule:
        raise InputError("name the sub-module where the model is captured: this is a graph already")
    if isinstance(model, Graph):
        return model
    if not callable(model):
        return load(model, input_shapes, submodule)
    if example_inputs is None:
        raise InputError("a PyTorch module needs example_inputs")
    return capture(model, example_inputs, submodule)


def load(model: Any, input_shapes: Any = None, submodule: str = "") -> Graph:
    """Read `.onnx`, `.pt2`, `package.module:factory`, a transformers folder (config.json and safetensors), or an
    `onnx.ModelProto`.

    `input_shapes` binds dynamic sizes (ONNX: name to sizes, or sizes in order) or gives the shapes of a factory's
    inputs (in order). `submodule` is the path of a part of a factory's module. Raises InputError for anything that
    cannot be read.
    """
    factory = isinstance(model, str) and ":" in model and not Path(model).exists()
    if submodule and not (factory or str(model).lower().endswith(".pt2")):
        raise InputError("only modules of PyTorch have sub-modules: give package.module:factory")
    if hasattr(model, "SerializeToString"):
        return frontend("onnx").from_model(model, input_shapes)
    if not isinstance(model, str | Path):
        raise InputError(f"cannot read a {type(model).__name__}; give a file, an nn.Module or an onnx.ModelProto")
    text = str(model)
    if Path(text).is_dir():
        return frontend("checkpoint").load(text, input_shapes)
    suffix = Path(text).suffix.lower()
    if suffix in PICKLES:
        raise InputError(
            f"'{text}' is a pickle by its suffix, and graphprune loads no pickles; use .onnx, .pt2 or module:factory"
        )
    factory = ":" in text and not Path(text).exists() and suffix != ".onnx"
    if suffix == ".pt2" or factory:
        return _with_training(frontend("torch").load(text, input_shapes, submodule=submodule))
    if suffix in (".onnx", ".ort", "") or Path(text).exists():
        return frontend("onnx").load(text, input_shapes)
    raise InputError(f"'{text}' is no model file (.onnx, .pt2), no package.module:factory and no transformers folder")


def capture(module: Any, example_inputs: Any, submodule: str = "") -> Graph:
    """Capture a `torch.nn.Module`, or a part of it; also as it runs in training, where that reads more weights."""
    graph = _with_training(frontend("torch").capture(module, example_inputs, submodule))
    if not submodule and _configured(graph):
        frontend("checkpoint").let_states_follow(graph)
    return graph


def shared_outside(graph: Graph) -> tuple[str, ...]:
    """The weights of a captured part of a model that the rest of the model reads as well: they must stay."""
    return tuple(frontend("torch").shared_outside(graph)) if graph.frontend == "torch" else ()


def placed(graph: Graph, emitted: Any) -> Any:
    """What was emitted, with the `whole` model around it where only a part was captured."""
    return frontend("torch").placed(graph, emitted) if graph.frontend == "torch" else emitted


def _with_training(graph: Graph) -> Graph:
    graph.training = frontend("torch").capture_training(graph)
    graph.notes = (*graph.notes, *frontend("torch").unused_parameters(graph))
    return graph


def rulers(graph: Graph) -> Mapping[str, Hashable]:
    """What rules the size of a weight's axis ("name[axis]"), where there is a configuration; equal for axes that can
    only change together.
    """
    return of(graph).rulers(graph) if graph.frontend == "checkpoint" else {}


def custom_operators(graph: Graph) -> list[str]:
    """Operators of an ONNX model that only its owner's runtime knows."""
    return list(of(graph).custom_operators(graph)) if graph.frontend == "onnx" else []


def original_bytes(graph: Graph) -> int | None:
    """What the user's file takes; None where the model came from no file of weights."""
    return of(graph).original_bytes(graph) if graph.frontend == "onnx" else None


def written_bytes(graph: Graph) -> int | None:
    """What the file of a graph takes when it is saved; None for models that are no file before."""
    return of(graph).written_bytes(graph) if graph.frontend == "onnx" else None


def emit(graph: Graph, trial: Callable[[Any], str] | None = None) -> Any:
    """The foreign model: an `onnx.ModelProto`, or an `Emitted` whose `module` it is.

    `trial` says what is wrong with a module, where the torch frontend has several to choose from.
    """
    if graph.frontend == "onnx":
        return of(graph).emit(graph)
    if not _configured(graph):
        return _with_word_of_parts(graph, of(graph).emit(graph, trial=trial))
    emitted, why = frontend("checkpoint").emit_configured(graph, trial)
    if emitted is not None:
        return emitted
    emitted = of(graph).emit(graph, trial=trial)
    return replace(emitted, reason="; ".join(filter(None, (emitted.reason, f"{_UNDESCRIBED} ({why})"))))


def _with_word_of_parts(graph: Graph, emitted: Any) -> Any:
    """What was emitted; where a model of transformers is a part of it, with a word on that one's configuration."""
    if graph.frontend != "torch" or emitted.form != "module" or _TRANSFORMERS not in sys.modules:
        return emitted
    told = (emitted.reason, frontend("checkpoint").outdated(graph))
    return replace(emitted, reason="; ".join(filter(None, told)))


def _configured(graph: Graph) -> bool:
    """Whether a graph was captured from a model of transformers that its caller holds."""
    if graph.frontend != "torch" or _TRANSFORMERS not in sys.modules:
        return False
    return bool(frontend("checkpoint").is_configured(graph.origin.module))


def rehearsed(graph: Graph, emitted: Any, trial: Callable[[Any], str]) -> Any:
    """What was emitted, after a step of training where that is a class of the caller's."""
    return frontend("torch").rehearsed(graph, emitted, trial) if graph.frontend == "torch" else emitted


def save(
    graph: Graph,
    path: str | Path,
    emitted: Any = None,
    plan: str = "",
    check: Callable[[Path], None] | None = None,
) -> None:
    """Write the model of a graph, or what `emit` made of it; the file appears whole or not at all.

    A folder that no configuration describes gets the text of the plan beside the tensors. `check` looks at an ONNX file
    before it appears, and raises where it will not do.
    """
    model = emitted if emitted is not None and graph.frontend != "onnx" else graph
    if graph.frontend == "checkpoint":
        of(graph).save(model, path, plan)
    else:
        of(graph).save(model, path, check)
