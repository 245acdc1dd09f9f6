"""From a transformers folder to a graph: captured without weights, which then come from the shards."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from graphprune.errors import InputError
from graphprune.ir.graph import Graph, Weight
from graphprune.ir.weights import RowReader

from ..torch.arrays import torch_dtype
from ..torch.capture.refusals import first_line
from ..torch.capture.tracing import capture
from ..torch.capture.unloadable import notes
from ..torch.files import Shapes
from ..torch.origin import Origin, fill, origin_of
from ..torch.run.modes import quiet
from .conversion import Converted, Spelling, spelling
from .inputs import example_inputs
from .origin import CheckpointOrigin
from .renumber import must_stay
from .shards import Stored, read_shards
from .skeleton import class_of, read_config, skeleton
from .tokenizer import needed_ids, read_tokenizer


def load(folder: str | Path, input_shapes: Shapes | None = None) -> Graph:
    """The graph of a folder with config.json and safetensors.

    Raises InputError for a folder without either, a class that transformers does not have, a shard that is missing or
    broken, or weights that are not those of the class.
    """
    folder = Path(folder)
    config = read_config(folder)
    cls = class_of(config, str(folder))
    stored = read_shards(folder)
    dtype = _common_dtype(stored, config)
    model = skeleton(config, cls, dtype)
    spelled = spelling(model, stored)
    named, missing = _match(model, spelled.tensors, folder)
    if missing:  # its tables do not say where it comes from: perhaps transformers itself knows, with all in memory
        model, named, spelled = _whole(folder, cls, dtype), {}, Spelling({})
    graph = _graph(model, config, dtype, input_shapes)
    graph.name = folder.resolve().name
    graph.notes = (*graph.notes, *notes())
    _attach(graph, named)
    _extend(graph, folder, config, named, spelled.transforms)
    graph.pinned = must_stay(config.to_dict()) | must_stay(_generation(folder)) | needed_ids(read_tokenizer(folder))
    return graph


def _generation(folder: Path) -> Any:
    """The settings of generation, where the folder has any."""
    try:
        return json.loads((folder / "generation_config.json").read_text())
    except (OSError, ValueError):
        return {}


def _whole(folder: Path, cls: Any, dtype: torch.dtype) -> nn.Module:
    """The model as `from_pretrained` builds it; raises InputError where it lacks weights."""
    try:
        with quiet():
            model, told = cls.from_pretrained(
                folder, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
    except Exception as error:
        raise InputError(f"'{folder}': {cls.__name__}.from_pretrained fails: {first_line(error)}") from error
    lacking = sorted(told["missing_keys"])
    if lacking:
        raise InputError(f"'{folder}' has no weight '{lacking[0]}', which {cls.__name__} needs")
    found: nn.Module = model.eval()
    return found


def from_config(config: Any, name: str = "") -> Graph:
    """The graph of a configuration alone; its weights read as zeros and take no memory."""
    model = skeleton(config, class_of(config, name or config.model_type))
    graph = _graph(model, config, config.dtype or torch.float32, None)
    for value in graph.weights().values():
        if value.weight is not None and value.weight.trainable:
            value.weight = _replaced(value.weight, _zeros(value.weight))
    _extend(graph, None, config, {}, [])
    return graph


def _zeros(weight: Weight) -> Callable[[], np.ndarray]:
    zero = np.zeros((), weight.dtype)
    return lambda: np.broadcast_to(zero, weight.shape)


def _replaced(weight: Weight, read: Callable[[], np.ndarray], read_rows: RowReader | None = None) -> Weight:
    """The weight as read from elsewhere."""
    kept = {"trainable": weight.trainable, "tied": weight.tied}
    return Weight(weight.shape, weight.dtype, read, lazy=True, read_rows=read_rows, **kept)


def _graph(model: nn.Module, config: Any, dtype: torch.dtype, input_shapes: Shapes | None) -> Graph:
    inputs = example_inputs(model, config, dtype, input_shapes)
    graph = capture(model, inputs)
    graph.frontend = "checkpoint"
    let_states_follow(graph)
    return graph


def let_states_follow(graph: Graph) -> None:
    """Where a model answers with logits, the hidden states that it hands out beside them (an encoder's, for the next
    step of the decoder) may become as narrow as the model.
    """
    origin = origin_of(graph)
    numbered = fill(origin.result, list(range(len(graph.outputs))))
    result = origin.exported.graph._codegen.process_outputs(numbered)
    named = result.items() if isinstance(result, dict) else ()
    if any("logits" in name for name, _ in named):
        for name, at in named:
            if name.endswith("hidden_state") and isinstance(at, int):
                value = graph.outputs[at]
                value.follows = frozenset(range(1, value.rank))


def _extend(
    graph: Graph, folder: Path | None, config: Any, stored: dict[str, Stored | Converted], transforms: list[Any]
) -> None:
    known = {f.name: getattr(origin_of(graph), f.name) for f in fields(Origin)}
    graph.origin = CheckpointOrigin(**known, folder=folder, config=config, stored=stored, transforms=transforms)


def _common_dtype(stored: dict[str, Stored], config: Any) -> torch.dtype:
    """The type of most floating-point elements, which is what the model is built in."""
    counts: dict[Any, int] = {}
    for entry in stored.values():
        if entry.dtype.kind not in "iub":
            size = 1
            for n in entry.shape:
                size *= n
            counts[entry.dtype] = counts.get(entry.dtype, 0) + size
    if not counts:
        return config.dtype or torch.float32
    return torch_dtype(max(counts, key=lambda dtype: counts[dtype]))


def _match(
    model: nn.Module, stored: dict[str, Stored | Converted], folder: Path
) -> tuple[dict[str, Stored | Converted], str]:
    """The stored tensor of each parameter and saved buffer by the model's own name; and one that has none."""
    state = model.state_dict(keep_vars=True)
    groups: dict[int, list[str]] = {}
    for name, tensor in state.items():
        groups.setdefault(id(tensor), []).append(name)
    prefix = f"{getattr(model, 'base_model_prefix', '')}."
    found: dict[str, Stored | Converted] = {}
    for names in groups.values():
        spelled = [s for n in names for s in (n, n.removeprefix(prefix), f"{prefix}{n}")]
        entry = next((stored[s] for s in spelled if s in stored), None)
        if entry is None:
            if isinstance(state[names[0]], nn.Parameter):
                return {}, names[0]
            continue  # a buffer: building the model has computed it
        if entry.shape != tuple(state[names[0]].shape):
            shapes = f"{list(entry.shape)}, where config.json says {list(state[names[0]].shape)}"
            raise InputError(f"'{entry.file}': the weight '{names[0]}' has the shape {shapes}")
        found.update(dict.fromkeys(names, entry))
    return found, ""


def _attach(graph: Graph, named: dict[str, Stored | Converted]) -> None:
    """Let the graph's weights come from the shards."""
    tensors = origin_of(graph).tensors
    aliases: dict[str, list[str]] = {}
    for alias, first in tensors.aliases.items():
        aliases.setdefault(first, []).append(alias)
    for name, value in graph.weights().items():
        entry = next((named[n] for n in (name, *aliases.get(name, ())) if n in named), None)
        if entry is not None and value.weight is not None:
            value.weight = _replaced(value.weight, *_readers(entry, value.weight.dtype))


def _readers(entry: Stored | Converted, dtype: np.dtype[Any]) -> tuple[Callable[[], np.ndarray], RowReader | None]:
    """What reads a stored tensor, and rows of it, in the type that the model computes in."""
    rows = entry.read_rows
    if entry.dtype == dtype:
        return entry.read, rows
    return (lambda: entry.read().astype(dtype)), None if rows is None else _cast(rows, dtype)


def _cast(rows: RowReader, dtype: np.dtype[Any]) -> RowReader:
    return lambda start, stop: rows(start, stop).astype(dtype)
