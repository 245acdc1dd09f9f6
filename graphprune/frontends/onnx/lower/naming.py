"""Words for people: the module a node stands in, and labels for weights whose names an exporter made up."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from onnx import NodeProto, defs

from graphprune.ir.graph import Node, Value

#: Words that exporters and optimizers build names from, besides the names of ONNX's operators: their own, and ATen's.
_GENERIC = frozenset(
    "const constant fold folded fused initializer node onnx opt output outputs quantized tensor tmp temp transposed val"
    " value add arange cat clone copy default detach div expand fresh full getitem index lift mul permute pow reshape"
    " scalar select slice squeeze stack sub to transpose unsqueeze view where".split()
)
#: What a weight is to the node that reads it, by kind and slot; in PyTorch's words, so that both routes agree.
_ROLES: dict[str, dict[int, str]] = {
    "conv": {1: "weight", 2: "bias"},
    "matmul": {0: "weight", 1: "weight", 2: "bias"},
    "einsum": {0: "weight", 1: "weight"},
    "gather": {0: "weight"},
    "prelu": {1: "weight"},
    "batch_norm": {1: "weight", 2: "bias", 3: "running_mean", 4: "running_var"},
    **{kind: {1: "weight", 2: "bias"} for kind in ("layer_norm", "group_norm", "instance_norm")},
}
_SCOPES = "pkg.torch.onnx.name_scopes"


def scope_of(proto: NodeProto) -> str:
    """The path of the module whose code made a node: `layer1.0.conv1`; empty where the file does not say.

    torch's dynamo exporter writes it into the node's metadata, its TorchScript exporter into the node's name
    (`/layer1/layer1.0/conv1/Conv`), as do TensorFlow's converters.
    """
    scopes = next((str(p.value) for p in proto.metadata_props if p.key == _SCOPES), "")
    if scopes:
        found = [name for _, name in re.findall(r"""(['"])(.*?)\1""", scopes)]
        return found[-2] if len(found) > 1 else ""
    path = ""
    for part in str(proto.name).strip("/").split("/")[:-1]:
        path = part if not path or part.startswith(f"{path}.") else _joined(path, part)
    return path


def _joined(path: str, part: str) -> str:
    """`layer1` and `layer1.0` are `layer1.0`; `layer1.0` and `conv1` are `layer1.0.conv1`."""
    above, _, last = path.rpartition(".")
    if part.startswith(f"{last}."):
        return f"{above}.{part}" if above else part
    return f"{path}.{part}"


def says_nothing(name: str) -> bool:
    """Whether no person chose any word of a name: `val_32`, `onnx::MatMul_512`, `/encoder/Constant_3_output_0`."""
    words = re.findall(r"[A-Za-z]+", name.rsplit("/", 1)[-1])
    return all(word.lower() in _GENERIC or defs.has(word) for word in words)


def label_weights(nodes: Sequence[Node]) -> None:
    """Give weights whose names say nothing a label after the first node that reads them.

    Labels are unlike each other and unlike every name, so that `--include` can take them.
    """
    reads = [(n, slot, v) for n in nodes for slot, v in enumerate(n.inputs) if v is not None and v.weight is not None]
    taken = {value.name for _, _, value in reads}
    consumers = {v: (n, slot) for n in reversed(nodes) for slot, v in enumerate(n.inputs) if v is not None}
    nameless = [(*_reader(node, slot, consumers), value) for node, slot, value in reads if says_nothing(value.name)]
    shared = Counter((node.scope, _role(node, slot)) for node, slot, _ in nameless)
    biases = _biases(nodes)
    for node, slot, value in nameless:
        if not value.label:
            alone = shared[node.scope, _role(node, slot)] == 1
            candidates = _candidates(node, slot, biases.get(node, ""), alone)
            value.label = next((label for label in candidates if label not in taken), "")
            taken.add(value.label)


def _reader(node: Node, slot: int, consumers: Mapping[Value, tuple[Node, int]]) -> tuple[Node, int]:
    """Where a weight is really read: beyond nodes that merely hand it on."""
    while node.attrs.get("fn") == "identity" and node.outputs[0] in consumers:
        node, slot = consumers[node.outputs[0]]
    return node, slot


def _role(node: Node, slot: int) -> str:
    """What a weight is to its reader, as far as a word is known for it."""
    value = node.inputs[slot]
    if node.kind in _ROLES or node.kind == "elementwise" or value is None or value.weight is None:
        return _ROLES.get(node.kind, {}).get(slot, "constant")
    if not value.weight.trainable:
        return "constant"
    return "weight" if len(value.sizes) > 1 else "bias"


def _candidates(node: Node, slot: int, bias: str, alone: bool) -> Iterator[str]:
    """From the most telling to one that is hardly ever taken."""
    role = _role(node, slot)
    if role == "weight" and bias and bias.startswith(node.scope):
        yield bias.removesuffix("bias") + "weight"
    if node.scope and alone and role != "constant":
        yield f"{node.scope}.{role}"
    name = node.name.rsplit("/", 1)[-1].removeprefix("node_")
    yield f"{node.scope}.{name}.{role}" if node.scope else f"{name}.{role}"
    yield f"{node.name}.{role}"
    yield f"{node.name}.{role}.{slot}"


def _biases(nodes: Sequence[Node]) -> dict[Node, str]:
    """The telling name of the bias that a node adds itself or that the next node adds to what it makes."""
    makers = {value: node for node in nodes for value in node.outputs}
    found: dict[Node, str] = {}
    for node in nodes:
        for value in node.inputs:
            if value is None or value.weight is None or not value.name.endswith("bias") or says_nothing(value.name):
                continue
            added = node.kind == "elementwise" and node.attrs.get("fn") == "add"
            for reader in [makers[v] for v in node.inputs if v in makers] if added else [node]:
                found.setdefault(reader, value.name)
    return found
