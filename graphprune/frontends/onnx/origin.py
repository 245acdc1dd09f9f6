"""What the ONNX frontend remembers of the model it read, for writing it back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from onnx import ModelProto, NodeProto, SparseTensorProto, TensorProto

from graphprune.ir.graph import Graph, Node, Weight

from .quantized import Encoded
from .read.binding import Binding
from .read.facts import Fact


def copy_notes(source: TensorProto, target: TensorProto) -> None:
    """Copy what a tensor carries besides its name, type and data."""
    if source.HasField("doc_string"):
        target.doc_string = source.doc_string
    target.metadata_props.extend(source.metadata_props)


@dataclass(frozen=True)
class Source:
    """Behind `Node.source`: the foreign node, and the foreign slot of each entry of `Node.inputs`.

    Slot -1 is a value that a subgraph captures (`captured` names them in order), slot `FILL` one that is not written.
    """

    proto: NodeProto
    slots: tuple[int, ...]
    captured: tuple[str, ...] = ()


@dataclass
class Origin:
    """Behind `Graph.origin`.

    `model` is the model without nodes and without the data of its initializers; `data_files` the files of its external
    data; `weights` all constants it had or that were folded while loading; `headers` the initializers' tensors without
    data; `constant_nodes` the nodes that held constants and `makers` those that computed some; `first` the graph as
    loaded and `producers` its nodes by the names they make, so that shape arithmetic that a pass took for dead can be
    written again where a computed parameter still needs it; `encoded` the constants that a DequantizeLinear (or
    QuantizeLinear) made; `bytes` what the file and its data took; `sparse` the sparse tensors among the weights;
    `binding` which axes of the inputs are free.
    """

    model: ModelProto
    file: str
    data_files: frozenset[Path]
    facts: dict[str, Fact] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    headers: dict[str, TensorProto] = field(default_factory=dict)
    constant_nodes: dict[str, NodeProto] = field(default_factory=dict)
    makers: dict[str, NodeProto] = field(default_factory=dict)
    producers: dict[str, Node] = field(default_factory=dict)
    encoded: dict[str, Encoded] = field(default_factory=dict)
    first: Graph | None = None
    sparse: dict[str, SparseTensorProto] = field(default_factory=dict)
    binding: Binding | None = None
    bytes: int = 0

    def remember(self, graph: Graph) -> None:
        """Keep the graph as it was loaded (a copy that nobody else has)."""
        self.first = graph
        self.producers = {value.name: node for node in graph.nodes for value in node.outputs}

    @property
    def external(self) -> bool:
        """Whether the model came with external data."""
        return bool(self.data_files)

    @property
    def opset(self) -> int:
        """The version of the default operator set."""
        return next((int(o.version) for o in self.model.opset_import if o.domain in ("", "ai.onnx")), 1)


#: Domains of operators that onnxruntime brings.
_KNOWN = frozenset({"", "ai.onnx", "ai.onnx.ml", "ai.onnx.preview.training", "com.microsoft", "com.microsoft.nchwc"})


def other_sizes(graph: Graph) -> Iterator[tuple[dict[str, tuple[int, ...]], dict[str, dict[str, int]]]]:
    """Input shapes that may be tried where the model does not run at those assumed, each with what is assumed then."""
    binding: Binding | None = graph.origin.binding
    if binding is not None:
        for sizes in binding.rounds():
            yield binding.shapes(sizes), binding.assumed(sizes)


def original(graph: Graph) -> Graph:
    """The graph as it was read."""
    return graph.origin.first or graph


def custom_operators(graph: Graph) -> list[str]:
    """Operators, with their domains, that neither onnxruntime brings nor the file defines."""
    own = {function.domain for function in graph.origin.model.functions} | _KNOWN
    protos = [node.source.proto for node in graph.flat_nodes if isinstance(node.source, Source)]
    return sorted({f"{p.domain}.{p.op_type}" for p in protos if p.domain not in own})


def original_bytes(graph: Graph) -> int:
    """What the model took when it was read: its file and the files of its data, or the message in memory."""
    origin: Origin = graph.origin
    return origin.bytes
