"""Which weights NVIDIA's sparse kernels can run, and why the others cannot (`rules.py` has the rules and sources)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from graphprune.ir.graph import Graph, Node, Value
from graphprune.ops.base import Array

from .layers import Layer, Read, find_layers
from .measured import Measured
from .rules import ALIGNMENT, CHANNELS, RULES, semi_structured

#: Group lengths that are looked for; 2:4 is what hardware reads.
_GROUPS = (4, 8, 16, 32)
#: Patterns with a larger share of entries are those of weights that happen to have a few zeros.
_DENSE = 0.75
_SPARSE_TYPES = frozenset({"float16", "bfloat16"})
#: What may lie between a product and the operator that quantises what it makes.
_FUSED = frozenset({"relu", "clip", "add", "identity", "cast", "leaky_relu", "sigmoid", "silu", "gelu"})


@dataclass(frozen=True)
class Finding:
    """A rule of `RULES` that applies to a weight, and what was found."""

    rule: str
    text: str

    @property
    def level(self) -> str:
        """See `Rule`."""
        return RULES[self.rule].level


@dataclass(frozen=True, eq=False)
class Verdict:
    """What is known of one weight. `met` are the N:M patterns that it has, densest groups first, `zeros` the share of
    zeros, `torch` why `torch.sparse.to_sparse_semi_structured` cannot store it, `rows` the rows of data that it meets.
    """

    layer: Layer
    dtype: str
    met: tuple[str, ...]
    zeros: float
    findings: tuple[Finding, ...]
    torch: str
    rows: int
    measured: str

    def at(self, level: str) -> list[Finding]:
        """The findings of a level."""
        return [finding for finding in self.findings if finding.level == level]

    @property
    def can(self) -> bool:
        """Whether it could run sparse, once it has the pattern and the type."""
        return not self.at("never")

    @property
    def now(self) -> bool:
        """Whether it can run sparse as it is."""
        return self.can and not self.at("missing")


def judge(graph: Graph, measured: Measured | None = None) -> list[Verdict]:
    """A verdict on each contracted weight, in order of first use; weights are read one at a time."""
    layers, _ = find_layers(graph)
    around = _Around(graph)
    return [_judged(layer, around, measured) for layer in layers]


def patterns_met(layer: Layer, array: Array) -> tuple[str, ...]:
    """The N:M patterns along the contracted axis, each sparser than those of shorter groups: `("2:4",)`, say."""
    nonzero = (layer.matrices(array) != 0).reshape(-1, layer.length)
    found, least = [], 1.0
    for m in _GROUPS:
        if layer.length % m:
            break
        n = max(1, int(nonzero.reshape(len(nonzero), -1, m).sum(-1, dtype=np.uint8).max(initial=0)))
        if n / m <= _DENSE and n / m < least:
            found.append(f"{n}:{m}")
            least = n / m
    return tuple(found)


def _judged(layer: Layer, around: _Around, measured: Measured | None) -> Verdict:
    assert layer.value.weight is not None
    array = layer.value.weight.array()
    met, dtype = patterns_met(layer, array), _type(layer)
    zeros = 1.0 - np.count_nonzero(array) / max(1, array.size)
    found = [finding for check in (_operator, _groups, _length) for finding in check(layer)]
    found += [*_pattern(met), *_precision(layer, dtype, around), *_doubts(layer, dtype)]
    rows = round(layer.macs / max(1, array.size))
    line, slow = _compared(layer, dtype, rows, measured)
    found += [Finding("rows", slow)] if slow else []
    unlike = layer.positions > 1 or layer.value.rank != 2 or layer.reads[0].step.kind != "matmul"
    torch = (
        "torch stores matrices of linear layers only" if unlike else semi_structured(dtype, layer.rows, layer.length)
    )
    return Verdict(layer, dtype, met, float(zeros), tuple(found), torch, rows, line)


def _groups_of(layer: Layer) -> int:
    return max(read.how.groups for read in layer.reads)


def _type(layer: Layer) -> str:
    """The type that the product computes in; "int8" and the like where the weight is stored in so many bits."""
    weight, read = layer.value.weight, layer.reads[0]
    assert weight is not None
    if not weight.plain:
        return f"int{_bits(layer)}"
    operand = read.step.inputs[read.how.weight]
    return (operand or layer.value).dtype.name


def _bits(layer: Layer) -> int:
    """Bits an entry takes, scales and the like aside."""
    weight = layer.value.weight
    assert weight is not None
    share = 8 * weight.stored_bytes / max(1, weight.size)
    return max((bits for bits in (2, 4, 8, 16) if bits <= share), default=2)


def _operator(layer: Layer) -> Iterator[Finding]:
    for read in layer.reads:
        kind = read.step.kind
        if read.node.kind == "fused":
            yield Finding("operator", f"it is inside {read.node.op}, one operator that does more than the product")
        elif kind == "conv" and read.step.attrs.get("transposed"):
            yield Finding("operator", "it is a transposed convolution")
        elif kind not in ("conv", "matmul"):
            yield Finding("operator", f"it is a {kind}, no convolution or matrix product")
        else:
            continue
        return


def _groups(layer: Layer) -> Iterator[Finding]:
    groups = _groups_of(layer)
    if groups > 1:
        yield Finding("groups", f"it is a convolution in {groups} groups")


def _length(layer: Layer) -> Iterator[Finding]:
    if layer.length % 4:
        yield Finding("length", f"sums of {layer.length} products do not divide into groups of 4")


def _pattern(met: tuple[str, ...]) -> Iterator[Finding]:
    if not any(text in ("1:4", "2:4") for text in met):
        yield Finding("pattern", "its weights are not 2:4")


def _precision(layer: Layer, dtype: str, around: _Around) -> Iterator[Finding]:
    weight = layer.value.weight
    assert weight is not None
    if weight.plain:
        if dtype not in _SPARSE_TYPES:
            yield Finding("precision", f"it computes in {dtype}")
    elif dtype != "int8":
        yield Finding("stored bits", f"its weights have {_bits(layer)} bits")
    elif not all(around.quantised_before(read) for read in layer.reads):
        yield Finding("precision", "its weights are int8, its data are not")
    elif not all(around.quantised_after(read.node) for read in layer.reads):
        yield Finding("quantised output", "its output is not quantised")


def _doubts(layer: Layer, dtype: str) -> Iterator[Finding]:
    inputs, outputs = layer.length * layer.positions, layer.rows
    if layer.length % ALIGNMENT or outputs % ALIGNMENT:
        yield Finding("alignment", f"{layer.length} inputs and {outputs} outputs are not multiples of {ALIGNMENT}")
    if min(inputs, outputs) < CHANNELS:
        kernel = f" at {layer.positions} kernel positions" if layer.positions > 1 else ""
        yield Finding("channels", f"{layer.length} inputs{kernel} and {outputs} outputs are few")
    if dtype == "int8":
        yield Finding("quantised", "Q/DQ around it")
    if prod(layer.value.sizes) > inputs * outputs:
        yield Finding("batch", "its matrices are a batch")
    if any(read.step.kind == "matmul" and read.how.weight == 0 for read in layer.reads):
        yield Finding("left", "it is the left operand")


def _compared(layer: Layer, dtype: str, rows: int, measured: Measured | None) -> tuple[str, str]:
    """What was measured for the shape, and where that speaks against it the reason."""
    inputs = layer.length * layer.positions
    product = measured.nearest(layer.rows, inputs, dtype) if measured is not None else None
    if product is None:
        return "not measured", ""
    where = f"measured: {product.length} to {product.outputs} in {product.dtype}"
    if product.from_rows is None:
        line = f"not reliably faster, at most {product.best:.2f} times ({where})"
        return line, f"sparse is {line}"
    line = f"faster from {product.from_rows} rows, at most {product.best:.2f} times ({where})"
    return line, "" if rows >= product.from_rows else f"{rows} rows of data; sparse is {line}"


class _Around:
    """Looks at what comes before and after a product."""

    def __init__(self, graph: Graph) -> None:
        nodes = graph.flat_nodes
        self._producers = {value: node for node in nodes for value in node.outputs}
        self._consumers: dict[Value, list[Node]] = {}
        for node in nodes:
            for value in node.reads():
                self._consumers.setdefault(value, []).append(node)

    def quantised_before(self, read: Read) -> bool:
        """Whether the data are integers of 8 bits, dequantised at the most."""
        if read.node.kind == "fused":
            return any(_is_int8(value) for value in read.node.inputs if value is not None)
        data = read.data
        maker = self._producers.get(data) if data is not None else None
        return data is not None and (_is_int8(data) or (maker is not None and any(map(_is_int8, maker.reads()))))

    def quantised_after(self, node: Node) -> bool:
        """Whether all that reads the result, through what is fused with it, makes integers of 8 bits."""
        return self._all(node, lambda reader: any(map(_is_int8, reader.outputs)), 4)

    def _all(self, node: Node, ends: Callable[[Node], bool], steps: int) -> bool:
        if ends(node):
            return True
        readers = self._consumers.get(node.outputs[0], [])
        passing = [n for n in readers if not ends(n)]
        if not readers or (passing and not steps):
            return False
        return all(n.attrs.get("fn") in _FUSED and self._all(n, ends, steps - 1) for n in passing)


def _is_int8(value: Value) -> bool:
    return value.dtype.name in ("int8", "uint8")


def shares(verdicts: list[Verdict], total: int) -> Mapping[str, float]:
    """Shares of all multiply-accumulates: `can` run sparse, `now` as it is, `likely` where no doubt was found."""
    chosen = {
        "can": [v for v in verdicts if v.can],
        "now": [v for v in verdicts if v.now],
        "likely": [v for v in verdicts if v.can and not v.at("doubt")],
    }
    return {name: sum(v.layer.macs for v in found) / total if total else 0.0 for name, found in chosen.items()}
