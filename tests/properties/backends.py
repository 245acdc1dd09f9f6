"""One small tensor language, spoken by PyTorch (`TorchOps`) and written down as ONNX at the same time (`OnnxOps`).

Random networks are programs in it, so that both frontends meet the same networks in their own operators.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F  # noqa: N812
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

OPSET = 18


class TorchOps:
    """Runs each operator. Weights come from `weights`, made on first use where `generator` is given."""

    def __init__(self, weights: Any, generator: torch.Generator | None = None) -> None:
        self.weights = weights
        self.generator = generator
        self._count = 0

    def weight(self, *shape: int, name: str | None = None, scale: float | None = None, offset: float = 0.0) -> Any:
        """A parameter; by default named by position and scaled by its fan-in."""
        if name is None:
            self._count += 1
            name = f"w{self._count}"
        if name not in self.weights:
            fan = max(1, int(np.prod(shape[1:])))
            values = torch.randn(shape, generator=self.generator) * (fan**-0.5 if scale is None else scale) + offset
            self.weights[name] = torch.nn.Parameter(values, requires_grad=False)
        return self._weight(name)

    def _weight(self, name: str) -> Any:
        return self.weights[name]

    def shape(self, x: Any) -> tuple[int, ...]:
        return tuple(x.shape)

    def conv(self, x: Any, w: Any, b: Any, groups: int, pad: int) -> Any:
        return F.conv2d(x, w, b, padding=pad, groups=groups)

    def conv_transpose(self, x: Any, w: Any, b: Any, groups: int) -> Any:
        return F.conv_transpose2d(x, w, b, padding=1, groups=groups)

    def linear(self, x: Any, w: Any, b: Any) -> Any:
        return F.linear(x, w, b)

    def matmul(self, a: Any, b: Any) -> Any:
        return a @ b

    def einsum(self, equation: str, a: Any, b: Any) -> Any:
        return torch.einsum(equation, a, b)

    def binary(self, fn: str, a: Any, b: Any) -> Any:
        return {"add": torch.add, "mul": torch.mul, "sub": torch.sub, "max": torch.maximum}[fn](a, b)

    def unary(self, fn: str, x: Any) -> Any:
        return {"relu": F.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "neg": torch.neg}[fn](x)

    def scale(self, x: Any, factor: float) -> Any:
        return x * factor

    def batch_norm(self, x: Any, s: Any, b: Any, m: Any, v: Any) -> Any:
        return F.batch_norm(x, m, v, s, b)

    def layer_norm(self, x: Any, s: Any, b: Any) -> Any:
        return F.layer_norm(x, tuple(s.shape), s, b)

    def instance_norm(self, x: Any, s: Any, b: Any) -> Any:
        return F.instance_norm(x, weight=s, bias=b)

    def group_norm(self, x: Any, groups: int, s: Any, b: Any) -> Any:
        return F.group_norm(x, groups, s, b)

    def prelu(self, x: Any, slope: Any) -> Any:
        return F.prelu(x, slope)

    def concat(self, xs: Sequence[Any], axis: int) -> Any:
        return torch.cat(list(xs), axis)

    def split(self, x: Any, sizes: Sequence[int], axis: int) -> list[Any]:
        return list(torch.split(x, list(sizes), axis))

    def stack(self, xs: Sequence[Any], axis: int) -> Any:
        return torch.stack(list(xs), axis)

    def select(self, x: Any, axis: int, index: int) -> Any:
        return x.select(axis, index)

    def slice(self, x: Any, axis: int, start: int, stop: int, step: int) -> Any:
        return x[(slice(None),) * axis + (slice(start, stop, step),)]

    def gather(self, x: Any, axis: int, indices: Sequence[int]) -> Any:
        return torch.index_select(x, axis, torch.tensor(list(indices)))

    def flip(self, x: Any, axis: int) -> Any:
        return torch.flip(x, [axis])

    def roll(self, x: Any, axis: int, shift: int) -> Any:
        return torch.roll(x, shift, axis)

    def pad(self, x: Any, axis: int, before: int, after: int) -> Any:
        return F.pad(x, [0, 0] * (x.ndim - 1 - axis) + [before, after])

    def reshape(self, x: Any, shape: Sequence[int]) -> Any:
        return x.reshape(tuple(shape))

    def transpose(self, x: Any, perm: Sequence[int]) -> Any:
        return x.permute(*perm)

    def expand(self, x: Any, shape: Sequence[int]) -> Any:
        return x.expand(*shape)

    def tile(self, x: Any, repeats: Sequence[int]) -> Any:
        return x.repeat(*repeats)

    def reduce(self, fn: str, x: Any, axes: Sequence[int], keepdims: bool) -> Any:
        return {"mean": torch.mean, "sum": torch.sum, "max": torch.amax}[fn](x, tuple(axes), keepdim=keepdims)

    def softmax(self, x: Any, axis: int) -> Any:
        return torch.softmax(x, axis)

    def max_pool(self, x: Any) -> Any:
        return F.max_pool2d(x, 3, 1, 1)

    def pixel_shuffle(self, x: Any, block: int) -> Any:
        return F.pixel_shuffle(x, block)

    def pixel_unshuffle(self, x: Any, block: int) -> Any:
        return F.pixel_unshuffle(x, block)

    def attention(self, q: Any, k: Any, v: Any) -> Any:
        return F.scaled_dot_product_attention(q, k, v)


@dataclass
class Named:
    """A tensor and its name in the ONNX graph."""

    name: str
    tensor: Tensor


def _with_bodies(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes and those in their bodies."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _with_bodies(attribute.g.node)


class OnnxOps(TorchOps):
    """Computes each operator with PyTorch and adds the ONNX nodes that do the same."""

    opset = OPSET

    def __init__(self, weights: Any) -> None:
        super().__init__(weights)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self._made = -1

    def _weight(self, name: str) -> Named:
        return self._initializer(name, self.weights[name].detach())

    def _initializer(self, name: str, tensor: Tensor) -> Named:
        self.initializers.setdefault(name, numpy_helper.from_array(tensor.numpy(), name))
        return Named(name, tensor)

    def _integers(self, *values: int) -> str:
        name = "i_" + "_".join(map(str, values)).replace("-", "m")
        self.initializers.setdefault(name, numpy_helper.from_array(np.array(values, np.int64), name))
        return name

    def _node(self, op: str, inputs: Sequence[Any], tensor: Tensor, **attrs: Any) -> Named:
        return self._nodes(op, inputs, [tensor], **attrs)[0]

    def _nodes(self, op: str, inputs: Sequence[Any], tensors: Sequence[Tensor], **attrs: Any) -> list[Named]:
        names = ["" if i is None else i.name if isinstance(i, Named) else i for i in inputs]
        while names and not names[-1]:
            names.pop()
        self._made += 1
        at = self._made
        outputs = [f"v{at}_{i}" for i in range(len(tensors))]
        self.nodes.append(helper.make_node(op, names, outputs, name=f"{op}_{at}", **attrs))
        return [Named(n, t.detach()) for n, t in zip(outputs, tensors, strict=True)]

    def shape(self, x: Any) -> tuple[int, ...]:
        return tuple(x.tensor.shape)

    def conv(self, x: Any, w: Any, b: Any, groups: int, pad: int) -> Any:
        y = super().conv(x.tensor, w.tensor, None if b is None else b.tensor, groups, pad)
        return self._node("Conv", [x, w, b], y, group=groups, pads=[pad] * 4)

    def conv_transpose(self, x: Any, w: Any, b: Any, groups: int) -> Any:
        y = super().conv_transpose(x.tensor, w.tensor, None if b is None else b.tensor, groups)
        return self._node("ConvTranspose", [x, w, b], y, group=groups, pads=[1] * 4)

    def linear(self, x: Any, w: Any, b: Any) -> Any:
        """Gemm on matrices; else MatMul with the weight stored transposed, as exporters do."""
        bias = None if b is None else b.tensor
        y = super().linear(x.tensor, w.tensor, bias)
        if x.tensor.ndim == 2:
            return self._node("Gemm", [x, w, b], y, transB=1)
        turned = self._initializer(f"{w.name}_t", w.tensor.T.contiguous())
        product = self._node("MatMul", [x, turned], y)
        return product if b is None else self._node("Add", [b, product], y)

    def matmul(self, a: Any, b: Any) -> Any:
        return self._node("MatMul", [a, b], a.tensor @ b.tensor)

    def einsum(self, equation: str, a: Any, b: Any) -> Any:
        return self._node("Einsum", [a, b], torch.einsum(equation, a.tensor, b.tensor), equation=equation)

    def binary(self, fn: str, a: Any, b: Any) -> Any:
        return self._node(fn.capitalize(), [a, b], super().binary(fn, a.tensor, b.tensor))

    def unary(self, fn: str, x: Any) -> Any:
        return self._node(fn.capitalize(), [x], super().unary(fn, x.tensor))

    def scale(self, x: Any, factor: float) -> Any:
        return self.binary("mul", x, self._initializer(f"f{factor}".replace(".", "_"), torch.tensor(factor)))

    def batch_norm(self, x: Any, s: Any, b: Any, m: Any, v: Any) -> Any:
        y = super().batch_norm(x.tensor, s.tensor, b.tensor, m.tensor, v.tensor)
        return self._node("BatchNormalization", [x, s, b, m, v], y, epsilon=1e-5)

    def layer_norm(self, x: Any, s: Any, b: Any) -> Any:
        y = super().layer_norm(x.tensor, s.tensor, b.tensor)
        return self._node("LayerNormalization", [x, s, b], y, axis=-s.tensor.ndim)

    def instance_norm(self, x: Any, s: Any, b: Any) -> Any:
        y = super().instance_norm(x.tensor, s.tensor, b.tensor)
        return self._node("InstanceNormalization", [x, s, b], y, epsilon=1e-5)

    def group_norm(self, x: Any, groups: int, s: Any, b: Any) -> Any:
        """As exporters write it below opset 18: Reshape, InstanceNormalization, Reshape, Mul, Add."""
        n, channels, *space = self.shape(x)
        flat = self.reshape(x, (n, groups, -1))
        ones = self._initializer(f"ones{groups}", torch.ones(groups))
        zeros = self._initializer(f"zeros{groups}", torch.zeros(groups))
        normed = self.reshape(self.instance_norm(flat, ones, zeros), (n, channels, *space))
        column = (channels, *[1] * len(space))
        scaled = self.binary("mul", normed, self._initializer(f"{s.name}_c", s.tensor.reshape(column)))
        return self.binary("add", scaled, self._initializer(f"{b.name}_c", b.tensor.reshape(column)))

    def prelu(self, x: Any, slope: Any) -> Any:
        column = self._initializer(f"{slope.name}_c", slope.tensor.reshape(-1, *[1] * (x.tensor.ndim - 2)))
        return self._node("PRelu", [x, column], super().prelu(x.tensor, slope.tensor))

    def concat(self, xs: Sequence[Any], axis: int) -> Any:
        return self._node("Concat", list(xs), torch.cat([x.tensor for x in xs], axis), axis=axis)

    def split(self, x: Any, sizes: Sequence[int], axis: int) -> list[Any]:
        return list(self._nodes("Split", [x, self._integers(*sizes)], x.tensor.split(list(sizes), axis), axis=axis))

    def stack(self, xs: Sequence[Any], axis: int) -> Any:
        wide = [self._node("Unsqueeze", [x, self._integers(axis)], x.tensor.unsqueeze(axis)) for x in xs]
        return self.concat(wide, axis)

    def select(self, x: Any, axis: int, index: int) -> Any:
        name = f"scalar_{index}"
        self.initializers.setdefault(name, numpy_helper.from_array(np.array(index, np.int64), name))
        return self._node("Gather", [x, name], x.tensor.select(axis, index), axis=axis)

    def slice(self, x: Any, axis: int, start: int, stop: int, step: int) -> Any:
        inputs = [x, *(self._integers(i) for i in (start, stop, axis, step))]
        return self._node("Slice", inputs, super().slice(x.tensor, axis, start, stop, step))

    def gather(self, x: Any, axis: int, indices: Sequence[int]) -> Any:
        return self._node("Gather", [x, self._integers(*indices)], super().gather(x.tensor, axis, indices), axis=axis)

    def flip(self, x: Any, axis: int) -> Any:
        inputs = [x, self._integers(-1), self._integers(-(2**31)), self._integers(axis), self._integers(-1)]
        return self._node("Slice", inputs, x.tensor.flip(axis))

    def roll(self, x: Any, axis: int, shift: int) -> Any:
        """Two slices and a concat, as exporters write it."""
        at = (x.tensor.shape[axis] - shift) % x.tensor.shape[axis]
        end = x.tensor.shape[axis]
        return self.concat([self.slice(x, axis, at, end, 1), self.slice(x, axis, 0, at, 1)], axis) if at else x

    def pad(self, x: Any, axis: int, before: int, after: int) -> Any:
        rank = x.tensor.ndim
        amounts = [0] * (2 * rank)
        amounts[axis], amounts[rank + axis] = before, after
        return self._node("Pad", [x, self._integers(*amounts)], super().pad(x.tensor, axis, before, after))

    def reshape(self, x: Any, shape: Sequence[int]) -> Any:
        return self._node("Reshape", [x, self._integers(*shape)], x.tensor.reshape(tuple(shape)))

    def transpose(self, x: Any, perm: Sequence[int]) -> Any:
        return self._node("Transpose", [x], x.tensor.permute(*perm), perm=list(perm))

    def expand(self, x: Any, shape: Sequence[int]) -> Any:
        return self._node("Expand", [x, self._integers(*shape)], x.tensor.expand(*shape))

    def tile(self, x: Any, repeats: Sequence[int]) -> Any:
        return self._node("Tile", [x, self._integers(*repeats)], x.tensor.repeat(*repeats))

    def reduce(self, fn: str, x: Any, axes: Sequence[int], keepdims: bool) -> Any:
        y = super().reduce(fn, x.tensor, axes, keepdims)
        op = f"Reduce{fn.capitalize()}"
        if fn == "sum" or self.opset >= 18:
            return self._node(op, [x, self._integers(*axes)], y, keepdims=int(keepdims))
        return self._node(op, [x], y, axes=list(axes), keepdims=int(keepdims))

    def softmax(self, x: Any, axis: int) -> Any:
        return self._node("Softmax", [x], x.tensor.softmax(axis), axis=axis)

    def max_pool(self, x: Any) -> Any:
        return self._node("MaxPool", [x], super().max_pool(x.tensor), kernel_shape=[3, 3], pads=[1] * 4)

    def pixel_shuffle(self, x: Any, block: int) -> Any:
        y = super().pixel_shuffle(x.tensor, block)
        return self._node("DepthToSpace", [x], y, blocksize=block, mode="CRD")

    def pixel_unshuffle(self, x: Any, block: int) -> Any:
        """Reshape, Transpose, Reshape: ONNX has only the other order as an operator."""
        n, c, h, w = self.shape(x)
        parts = self.reshape(x, (n, c, h // block, block, w // block, block))
        moved = self.transpose(parts, (0, 1, 3, 5, 2, 4))
        return self.reshape(moved, (n, c * block * block, h // block, w // block))

    def attention(self, q: Any, k: Any, v: Any) -> Any:
        """Written out."""
        rank = q.tensor.ndim
        turned = self.transpose(k, (*range(rank - 2), rank - 1, rank - 2))
        scores = self.scale(self.matmul(q, turned), float(q.tensor.shape[-1]) ** -0.5)
        return self.matmul(self.softmax(scores, rank - 1), v)

    def model(self, x: Named, outputs: Sequence[Named]) -> onnx.ModelProto:
        """The graph so far as a model."""
        results = [self._node("Identity", [y], y.tensor) for y in outputs]
        read = {name for node in _with_bodies(self.nodes) for name in node.input}
        graph = helper.make_graph(
            self.nodes,
            "program",
            [helper.make_tensor_value_info(x.name, TensorProto.FLOAT, list(x.tensor.shape))],
            [helper.make_tensor_value_info(y.name, TensorProto.FLOAT, list(y.tensor.shape)) for y in results],
            [tensor for name, tensor in self.initializers.items() if name in read],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)
