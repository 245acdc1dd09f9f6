"""Ways to break a model: bytes anywhere, any field of any message, and mistakes of the kinds that tools make."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, helper, numpy_helper

from .originals import Files

INTEGERS = (0, 1, 2, 3, -1, -2, 7, 99, 255, 1 << 20, (1 << 31) - 1, -(1 << 31), 1 << 40, (1 << 62), -(1 << 63))
FLOATS = (0.0, -1.0, float("nan"), float("inf"), 1e-45, 3e38)
STRINGS = ("", "x", "\u540d\u524d \u0000 \U0001f9e0", "n" * 70_000, "../../x", "/etc/passwd", "a b\nc", "%s{}[0]", "*")
_INTEGRAL = {
    FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_INT64, FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_ENUM,
    FieldDescriptor.TYPE_UINT32,
}  # fmt: skip


def flip(dice: random.Random, data: bytes) -> bytes:
    made = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 5, 20))):
        made[dice.randrange(len(made))] = dice.randrange(256)
    return bytes(made)


def truncate(dice: random.Random, data: bytes) -> bytes:
    return data[: dice.randrange(len(data))]


def repeat(dice: random.Random, data: bytes) -> bytes:
    start = dice.randrange(len(data))
    stop = min(len(data), start + dice.randrange(1, 400))
    at = dice.randrange(len(data))
    return data[:at] + data[start:stop] * dice.choice((1, 1, 2)) + data[at:]


def drop(dice: random.Random, data: bytes) -> bytes:
    start = dice.randrange(len(data))
    return data[:start] + data[start + dice.randrange(1, 100) :]


def noise(dice: random.Random, data: bytes) -> bytes:
    start = dice.randrange(len(data))
    return data[:start] + dice.randbytes(dice.randrange(1, 60)) + data[start + dice.randrange(60) :]


BYTES = (flip, flip, truncate, repeat, drop, noise)


def messages(message: Message) -> Iterator[Message]:
    """A message and all within it."""
    yield message
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for inner in value if field.is_repeated else [value]:
                yield from messages(inner)


def _other(dice: random.Random, field: Any, now: Any, names: list[str]) -> Any:
    """Another value of a scalar field."""
    if field.type in _INTEGRAL:
        value = dice.choice((*INTEGERS, now + 1, now - 1, -now))
        if field.type in (FieldDescriptor.TYPE_INT32, FieldDescriptor.TYPE_ENUM):
            return max(-(1 << 31), min((1 << 31) - 1, value))
        return max(0, value) if field.type in (FieldDescriptor.TYPE_UINT64, FieldDescriptor.TYPE_UINT32) else value
    if field.type in (FieldDescriptor.TYPE_FLOAT, FieldDescriptor.TYPE_DOUBLE):
        return dice.choice(FLOATS)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return dice.choice((b"", b"\xff\xfe", now[: len(now) // 2], now + b"x", flip(dice, now or b"x")))
    return dice.choice((*STRINGS, *dice.sample(names, min(8, len(names)))))


def _mutate_list(dice: random.Random, field: Any, values: Any, names: list[str]) -> None:
    at = dice.randrange(len(values))
    how = dice.randrange(5)
    if how == 0:
        del values[at]
    elif how == 1:
        values.append(values[at])
    elif how == 2:
        everything = list(values)
        dice.shuffle(everything)
        copies = [type(v).FromString(v.SerializeToString()) if isinstance(v, Message) else v for v in everything]
        del values[:]
        values.extend(copies)
    elif how == 3 and field.type != FieldDescriptor.TYPE_MESSAGE:
        values[at] = _other(dice, field, values[at], names)
    elif how == 4 and dice.randrange(3) == 0:
        del values[:]


def any_field(dice: random.Random, model: ModelProto) -> None:
    """One field of one message becomes something else."""
    found = [m for m in messages(model) if m.ListFields()]
    names = [name for m in found if isinstance(m, GraphProto) for n in m.node for name in (*n.input, *n.output)]
    chosen = dice.choice(found)
    field, value = dice.choice(chosen.ListFields())
    if field.is_repeated:
        _mutate_list(dice, field, value, names)
    elif field.type == FieldDescriptor.TYPE_MESSAGE or dice.randrange(8) == 0:
        chosen.ClearField(field.name)
    else:
        with suppress(ValueError):  # a number that is no enumerator
            setattr(chosen, field.name, _other(dice, field, value, names))


def attribute(dice: random.Random, model: ModelProto) -> None:
    """An attribute of a node out of range, of another type, missing, or twice."""
    found = [a for m in messages(model) if isinstance(m, AttributeProto) for a in [m]]
    if not found:
        return
    chosen = dice.choice(found)
    if chosen.type == AttributeProto.INT:
        chosen.i = dice.choice(INTEGERS)
    elif chosen.type == AttributeProto.INTS and chosen.ints:
        chosen.ints[dice.randrange(len(chosen.ints))] = dice.choice(INTEGERS)
    elif chosen.type == AttributeProto.STRING:
        chosen.s = dice.choice((b"", b"\xff", b"ij,jk->ik", b"SAME_UPPER", b"bidirectional"))
    elif chosen.type == AttributeProto.FLOAT:
        chosen.f = dice.choice(FLOATS)
    else:
        chosen.type = dice.choice(range(15))


def integers(dice: random.Random, model: ModelProto) -> None:
    """A reshape target, slice bound, repeat count, pad or index out of range."""
    found = [t for t in model.graph.initializer if t.data_type == TensorProto.INT64 and t.dims and not t.data_location]
    if found:
        tensor = dice.choice(found)
        array = numpy_helper.to_array(tensor).copy().reshape(-1)
        if array.size:
            array[dice.randrange(array.size)] = dice.choice(INTEGERS)
            tensor.CopyFrom(numpy_helper.from_array(array.reshape(tuple(tensor.dims)), tensor.name))


def dims(dice: random.Random, model: ModelProto) -> None:
    """A tensor or an input whose declared sizes are others."""
    found = [t for m in messages(model) if isinstance(m, TensorProto) and m.dims for t in [m]]
    infos = [*model.graph.input, *model.graph.output]
    if infos and dice.randrange(3) == 0:
        info = dice.choice(infos)
        if info.type.tensor_type.shape.dim:
            dice.choice(info.type.tensor_type.shape.dim).dim_value = dice.choice(INTEGERS)
    elif found:
        chosen = dice.choice(found)
        chosen.dims[dice.randrange(len(chosen.dims))] = dice.choice(INTEGERS)


def wiring(dice: random.Random, model: ModelProto) -> None:
    """A node reads or makes something else: dangling, twice, in a circle, out of order."""
    nodes = model.graph.node
    if not nodes:
        return
    one, other = dice.choice(nodes), dice.choice(nodes)
    names = [*one.output, *other.output, *other.input, "nowhere", ""]
    how = dice.randrange(4)
    if how == 0 and one.input:
        one.input[dice.randrange(len(one.input))] = dice.choice(names)
    elif how == 1 and one.output:
        one.output[dice.randrange(len(one.output))] = dice.choice(names)
    elif how == 2:
        one.op_type = other.op_type
    else:
        model.graph.output[0].name = dice.choice([*names, "x"])


def versions(dice: random.Random, model: ModelProto) -> None:
    if dice.randrange(2) and model.opset_import:
        model.opset_import[0].version = dice.choice((0, 1, 6, 9, 11, 13, 24, 26, 99, -1, 1 << 40))
    else:
        model.ir_version = dice.choice((0, 1, 3, 99, -1, 1 << 40))


def element_type(dice: random.Random, model: ModelProto) -> None:
    """A tensor that says it is of another type."""
    tensors = [m for m in messages(model) if isinstance(m, TensorProto)]
    if tensors:
        dice.choice(tensors).data_type = dice.choice(range(25))


def odd_weights(dice: random.Random, model: ModelProto) -> None:
    """NaN, infinite, zero or no numbers at all."""
    floats = [t for t in model.graph.initializer if t.data_type == TensorProto.FLOAT and t.raw_data]
    if floats:
        tensor = dice.choice(floats)
        array = numpy_helper.to_array(tensor).copy()
        if dice.randrange(4) == 0:
            array = array[:0] if array.ndim else array
        else:
            array.reshape(-1)[:: dice.choice((1, 3, 10_000))] = dice.choice(FLOATS)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def strings(dice: random.Random, model: ModelProto) -> None:
    if model.graph.initializer:
        chosen = dice.choice(model.graph.initializer)
        chosen.CopyFrom(TensorProto(name=chosen.name, data_type=TensorProto.STRING, dims=[2], string_data=[b"a", b"b"]))


def enormous(dice: random.Random, model: ModelProto) -> None:
    """Terabytes asked for."""
    size = dice.choice((1 << 40, 1 << 31, 1 << 62, -5, 0))
    model.graph.initializer.append(numpy_helper.from_array(np.array([size, dice.choice((1, 8, 1 << 33))]), "huge"))
    op = dice.choice(("ConstantOfShape", "Expand", "Tile", "Reshape"))
    inputs = ["huge"] if op == "ConstantOfShape" else [model.graph.output[0].name, "huge"]
    model.graph.node.append(helper.make_node(op, inputs, ["immense"]))
    model.graph.node.append(helper.make_node("ReduceSum", ["immense"], ["little"], keepdims=0))
    model.graph.output.append(helper.make_tensor_value_info("little", TensorProto.FLOAT, []))


def nested(dice: random.Random, model: ModelProto) -> None:
    """Branches within branches."""
    depth = dice.choice((3, 8, 15, 22, 30))  # the parsers stop at a hundred messages within each other
    graph = helper.make_graph([], "leaf", [], [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)])
    for level in range(depth):
        name = f"out{level}"
        node = helper.make_node("If", ["truth"], [name], then_branch=graph, else_branch=graph if level < 2 else None)
        graph = GraphProto(name="g", node=[node], output=[helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "truth"))
    model.graph.node.extend(graph.node)


def emptied(dice: random.Random, model: ModelProto) -> None:
    """Without nodes, without outputs, without inputs, or handing the input on."""
    how = dice.randrange(4)
    if how == 0:
        del model.graph.node[:]
    elif how == 1:
        del model.graph.output[:]
    elif how == 2:
        del model.graph.input[:]
    else:
        model.graph.output[0].CopyFrom(model.graph.input[0])


def external(dice: random.Random, model: ModelProto) -> None:
    """Weights said to lie in another file, at odd places."""
    if not model.graph.initializer:
        return
    tensor = dice.choice(model.graph.initializer)
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    if dice.randrange(2):
        tensor.ClearField("raw_data")
    places = ("part0.bin", "in.onnx", "link.bin", "folder", "../in.onnx", "/etc/passwd", "", "no\u0000ne", "n" * 5000)
    values = {"location": dice.choice(places), "offset": str(dice.choice((*INTEGERS, "x", "")))}
    values["length"] = str(dice.choice((*INTEGERS, "x", "")))
    for key in dice.sample(sorted(values), dice.randrange(1, 4)):
        tensor.external_data.add(key=key, value=values[key])


Mutation = Callable[[random.Random, ModelProto], None]
PROTO: tuple[Mutation, ...] = (
    *(any_field,) * 6, *(attribute,) * 4, *(integers,) * 3, *(wiring,) * 3, dims, dims, versions, element_type,
    odd_weights, strings, enormous, nested, emptied, external,
)  # fmt: skip


def broken(dice: random.Random, files: Files) -> tuple[Files, list[str]]:
    """The files with something wrong in them, and the names of what was done."""
    made = dict(files)
    name = dice.choice(sorted(made)) if dice.randrange(3) == 0 else "in.onnx"
    if name != "in.onnx" or dice.randrange(10) < 3:
        how = dice.choice(BYTES)
        made[name] = how(dice, made[name])
        return made, [f"{how.__name__} {name}"]
    model = ModelProto.FromString(made["in.onnx"])
    done = [dice.choice(PROTO) for _ in range(dice.choice((1, 1, 1, 2, 3)))]
    for mutation in done:
        with suppress(IndexError, ValueError):  # an earlier one has left nothing to break, or nothing to read
            mutation(dice, model)
    made["in.onnx"] = model.SerializeToString()
    return made, [mutation.__name__ for mutation in done]
