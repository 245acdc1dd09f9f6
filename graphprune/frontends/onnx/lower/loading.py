"""ONNX model -> Graph: constants, facts, and one canonical node per operator."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from onnx import ModelProto, TensorProto

from graphprune.ir.graph import Graph, uncollected

from ..origin import Origin, copy_notes
from ..protos import without_weights
from ..read.binding import Binding, InputShapes, Sizes, told
from ..read.choices import cases
from ..read.constants import dense_weight, weight_of
from ..read.facts import Propagation
from ..read.functions import inlined, written_otherwise
from ..read.reading import check_model, check_structure, external_tensors, read_model
from ..read.scopes import Taken, share_names
from ..read.sizing import Attempt
from ..read.sizing import settle as settle_sizes
from ..tensors import external_file
from .loader import Loader

#: Bytes around a tensor in a message.
_FRAME = 4


def load(path: str | Path, input_shapes: InputShapes | None = None) -> Graph:
    """Read an ONNX file. `input_shapes` binds dynamic inputs to representative sizes. Raises InputError."""
    path = Path(path)
    return _graph(read_model(path), input_shapes, path.parent, str(path), path)


def from_model(model: ModelProto, input_shapes: InputShapes | None = None, base_dir: str | Path | None = None) -> Graph:
    """The graph of a model in memory, which stays untouched; external data is looked for in `base_dir`."""
    folder = None if base_dir is None else Path(base_dir)
    check_structure(model, "the model", folder)
    return _graph(check_model(model, "the model"), input_shapes, folder, model.graph.name or "the model")


@uncollected()
def _graph(
    model: ModelProto, input_shapes: InputShapes | None, folder: Path | None, file: str, path: Path | None = None
) -> Graph:
    weights = {t.name: weight_of(t, folder, file) for t in model.graph.initializer}
    weights.update({s.values.name: dense_weight(s) for s in model.graph.sparse_initializer})
    skeleton, inner = _skeleton(model)
    weights.update({t.name: weight_of(t, folder, file) for t in inner.weights})
    weights.update({s.values.name: dense_weight(s) for s in inner.sparse})
    data_files = frozenset(external_file(t, folder, file)[0] for t in external_tensors(model))
    size = _bytes(model, path, data_files)
    sparse = {s.values.name: s for s in (*model.graph.sparse_initializer, *inner.sparse)}
    headers = {t.name: t for t in (*skeleton.graph.initializer, *map(_header, inner.weights))}
    binding = Binding(skeleton, input_shapes, [w.shape for w in weights.values()])

    def build(sizes: Sizes, others: Sizes, *, careful: bool = False) -> Attempt[Graph]:
        origin = Origin(skeleton, file, data_files, weights=dict(weights), headers=headers, bytes=size)
        origin.sparse, origin.binding = sparse, binding
        propagation = Propagation(skeleton, binding.bounds(sizes, others), origin.weights)
        origin.facts = propagation.facts
        loader = Loader(origin, propagation, folder, binding, sizes)
        loader.careful = careful
        graph = loader.run(list(skeleton.graph.node))
        graph.cases = cases(skeleton, origin.weights, loader.worlds)
        refused, moved = propagation.refused
        unknown = sum(value.shape is None for node in graph.flat_nodes for value in node.outputs)
        return Attempt(graph, sizes, others, frozenset(refused), frozenset(moved - refused), unknown)

    settled = settle_sizes(binding, build, len(skeleton.graph.node))
    if settled.refused:  # what was computed from sizes that do not fit decides nothing
        settled = build(settled.sizes, settled.others, careful=True)
    graph = settled.found
    graph.assumed = binding.assumed(settled.sizes)
    if graph.cases:  # branches at sizes of their own: those of the first are told, a note tells of all
        graph.assumed = told(graph.assumed, graph.cases[0].shapes)
    graph.notes = tuple(written_otherwise(model, skeleton))
    return graph


def _bytes(model: ModelProto, path: Path | None, data_files: Iterable[Path]) -> int:
    """What a model takes as it is: on the disk where it came from there, else as a message, tensor by tensor, for
    protobuf measures none that is too large.
    """
    beside = sum(file.stat().st_size for file in data_files)
    if path is not None:
        return path.stat().st_size + beside
    tensors = [*model.graph.initializer, *model.graph.sparse_initializer]
    return int(without_weights(model).ByteSize()) + sum(t.ByteSize() + _FRAME for t in tensors) + beside


def _skeleton(model: ModelProto) -> tuple[ModelProto, Taken]:
    """A copy of the model whose initializers have lost their data, local functions inlined; and the weights that lay
    in its subgraphs.
    """
    copy = without_weights(model)
    copy.graph.initializer.extend(_header(tensor) for tensor in model.graph.initializer)
    copy = inlined(copy)
    return copy, share_names(copy.graph)


def _header(tensor: TensorProto) -> TensorProto:
    header = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    copy_notes(tensor, header)
    return header
