"""Models from files and factories, modules to files."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.export import ExportedProgram

from graphprune.atomic import whole
from graphprune.errors import GraphPruneError, InputError
from graphprune.ir.graph import Graph

from .capture.archive import load_program
from .capture.refusals import first_line
from .capture.submodules import placed
from .capture.tracing import batch_shapes, capture, export, lower_program, twice
from .capture.unloadable import cause_of, notes, without_unloadable
from .module.emission import Emitted, emit
from .run.modes import quiet, split_inputs

aten = torch.ops.aten

Shapes = Sequence[Sequence[int]] | Mapping[str, Sequence[int]]
_PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt")


def load(spec: str | Path, input_shapes: Shapes | None = None, inputs: Any = None, submodule: str = "") -> Graph:
    """Capture a model given as a `.pt2` file or as `package.module:factory`.

    Args:
        spec: the file, or an importable callable that takes no arguments and returns a module, or a pair of a module
            and its example inputs.
        input_shapes: shapes of the module's positional inputs in order, or of its keyword inputs by name, batch
            included; they are filled with random floats.
        inputs: example inputs as for `capture`, instead of shapes.
        submodule: the path of a part of the module, as for `capture`.

    Raises:
        InputError: the file cannot be used, the factory fails, or the inputs do not fit.
    """
    text = str(spec)
    suffix = Path(text).suffix.lower()
    if inputs is None and input_shapes is not None:
        inputs = random_arguments(input_shapes)
    if suffix == ".pt2" and submodule:
        raise InputError(f"'{text}' holds no modules, so that no sub-module of it can be named")
    if suffix == ".pt2":
        return _load_archive(Path(text), inputs)
    if suffix in _PICKLES and ":" not in text:
        raise InputError(
            f"'{text}' is a pickle, which graphprune never loads; give a .pt2 file or 'package.module:factory'"
        )
    if ":" not in text:
        raise InputError(f"'{text}' is neither a .pt2 file nor of the form 'package.module:factory'")
    module, own_inputs = _make(text)
    inputs = own_inputs if inputs is None else inputs
    if inputs is None:
        raise InputError(f"'{text}' gives a module without example inputs: say --input-shape")
    graph = capture(module, inputs, submodule)
    graph.notes = (*graph.notes, *notes())
    return graph


def random_arguments(shapes: Shapes) -> Any:
    """Normal noise of the given shapes, as positional or keyword arguments."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(shapes, Mapping):
        return {name: torch.randn(tuple(shape), generator=generator) for name, shape in shapes.items()}
    return tuple(torch.randn(tuple(int(n) for n in shape), generator=generator) for shape in shapes)


def _load_archive(path: Path, inputs: Any) -> Graph:
    program = load_program(path)
    if inputs is None:
        if program.example_inputs is None:
            raise InputError(f"'{path}' holds no example inputs: say --input-shape")
        args, kwargs = program.example_inputs
    else:
        args, kwargs = split_inputs(inputs)
    if program.range_constraints:  # sizes that follow the input are bound to those of the example
        program = export(_training_module(program), tuple(args), dict(kwargs))
    return lower_program(program, None, tuple(args), dict(kwargs), path.stem)


def _training_module(program: ExportedProgram) -> nn.Module:
    with quiet():
        module = program.module(check_guards=False)
    assert isinstance(module, nn.Module)
    return module


def _make(spec: str) -> tuple[nn.Module, Any]:
    """Import and call a factory."""
    where, _, name = spec.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = without_unloadable(lambda: importlib.import_module(where))
    except Exception as error:
        raise InputError(f"'{spec}': the module '{where}' cannot be imported: {cause_of(error)}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise InputError(f"'{spec}': the module '{where}' has no '{name}'")
        found = getattr(found, part)
    try:
        made = without_unloadable(found) if callable(found) and not isinstance(found, nn.Module) else found
    except GraphPruneError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"'{spec}' raised {type(error).__name__}: {cause_of(error)}") from error
    module, inputs = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module):
        raise InputError(f"'{spec}' gives a {type(module).__name__}, not a torch.nn.Module")
    return module, inputs


def save(model: Graph | Emitted, path: str | Path, check: Callable[[Path], None] | None = None) -> None:
    """Write a model whole or not at all: `.pt2` and `.onnx` for all of it, `.safetensors` for its weights. Where a part
    was captured, the first two hold that part, weights are those of the whole model.

    `check` looks at an ONNX file before it appears.

    Raises:
        InputError: the suffix is none of these, the folder cannot be written, or the exporter fails.
    """
    path = Path(path)
    writer = _WRITERS.get(path.suffix.lower())
    if writer is None:
        raise InputError(f"'{path}' ends in none of {', '.join(_WRITERS)}")
    emitted = placed(model, emit(model)) if isinstance(model, Graph) else model
    with whole(path) as draft:
        try:
            with quiet():
                writer(emitted, draft)
        except Exception as error:
            raise InputError(f"'{path}' cannot be written: {first_line(error)}") from error
        if check is not None and path.suffix.lower() == ".onnx":
            check(draft)


def _save_archive(emitted: Emitted, path: Path) -> None:
    program, _ = _exported(emitted)
    program.example_inputs = split_inputs(emitted.inputs)
    torch.export.save(program, path)


def _save_onnx(emitted: Emitted, path: Path) -> None:
    program, shapes = _exported(emitted)
    try:
        _export_onnx(program, shapes, path)
    except Exception:
        if shapes is None:
            raise
        program, _ = _exported(replace(emitted, dynamic=False))
        _export_onnx(program, None, path)


def _export_onnx(program: ExportedProgram, shapes: Any, path: Path) -> None:
    """Write the file, its nodes in order; raises where the checker refuses it."""
    from ..onnx.read.reading import check_file

    _plain_pools(program)
    size = sum(t.numel() * t.element_size() for t in program.state_dict.values())
    large = size > 1.8e9
    torch.onnx.export(program, (), str(path), dynamo=True, verbose=False, external_data=large, dynamic_shapes=shapes)
    check_file(path)


def _plain_pools(program: ExportedProgram) -> None:
    """Write global average pools of permuted images as means: the exporter would mend their strides by a gather."""
    for node in program.graph.nodes:
        if node.target is not aten.adaptive_avg_pool2d.default or list(node.args[1]) != [1, 1]:
            continue
        if not node.args[0].meta["val"].is_contiguous():
            node.target, node.args = aten.mean.dim, (node.args[0], [-2, -1], True)
    program.graph_module.recompile()


def _exported(emitted: Emitted) -> tuple[ExportedProgram, Any]:
    """The exported module and which sizes are dynamic in it: the batch where the model lets it be, else nothing (None).

    Exporters take a size of one for a constant, so that they get the example twice.
    """
    args, kwargs = split_inputs(emitted.inputs)
    if emitted.dynamic:
        try:
            shapes = batch_shapes(emitted.module, args, kwargs)
            return export(emitted.module, *twice((args, kwargs)), shapes=shapes), shapes
        except InputError:
            pass
    return export(emitted.module, args, kwargs), None


def _save_weights(emitted: Emitted, path: Path) -> None:
    module = emitted.module if emitted.whole is None else emitted.whole
    state = {name: tensor.detach().clone().contiguous() for name, tensor in module.state_dict().items()}
    save_file(state, path)


_WRITERS: dict[str, Callable[[Emitted, Path], None]] = {
    ".pt2": _save_archive,
    ".onnx": _save_onnx,
    ".safetensors": _save_weights,
}
