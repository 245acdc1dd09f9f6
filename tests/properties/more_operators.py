"""The rest of the tensor language: recurrent layers, scans, generators, convolutions of other ranks, several inputs.

`TorchMore` runs each operator, `OnnxMore` also writes it down; see `backends`. Both take all inputs by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F  # noqa: N812
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from .backends import Named, OnnxOps, TorchOps

#: Rows of a gate in PyTorch's order -> ONNX's order.
_GATES = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}
_CELLS = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}
_POINTWISE = {
    "sqrt": torch.sqrt, "gelu": F.gelu, "silu": F.silu, "exp": torch.exp, "abs": torch.abs, "erf": torch.erf,
    "cos": torch.cos,
    "softplus": F.softplus, "hardswish": F.hardswish, "leaky": F.leaky_relu, "relu6": F.relu6,
}  # fmt: skip


class TorchMore(TorchOps):
    """`inputs` are the network's inputs by name; `results` collects further outputs that blocks give."""

    def __init__(
        self, weights: Any, generator: torch.Generator | None = None, inputs: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(weights, generator)
        self.inputs = dict(inputs or {})
        self.results: list[Any] = []

    def constant(self, values: np.ndarray) -> Any:
        """A table that belongs to the model's definition."""
        return torch.from_numpy(values)

    def conv_nd(self, x: Any, w: Any, b: Any, groups: int, pad: int, stride: int = 1, dilation: int = 1) -> Any:
        run = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[w.ndim]
        return run(x, w, b, stride=stride, padding=pad, dilation=dilation, groups=groups)

    def conv_transpose_nd(self, x: Any, w: Any, b: Any, groups: int) -> Any:
        run = {3: F.conv_transpose1d, 4: F.conv_transpose2d, 5: F.conv_transpose3d}[w.ndim]
        return run(x, w, b, padding=w.shape[-1] // 2, groups=groups)

    def unary(self, fn: str, x: Any) -> Any:
        return _POINTWISE[fn](x) if fn in _POINTWISE else super().unary(fn, x)

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        return torch.where(condition > 0, a, b)

    def clip(self, x: Any, low: float, high: float) -> Any:
        return torch.clamp(x, low, high)

    def rms_norm(self, x: Any, s: Any) -> Any:
        return F.rms_norm(x, tuple(s.shape), s, 1e-5)

    def softmax_attention(self, q: Any, k: Any, v: Any, mask: Any = None, grouped: bool = False) -> Any:
        return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=grouped)

    def lstm(self, cell: str, x: Any, weights: Sequence[Any], hidden: int, both: bool) -> Any:
        """One layer over `[N, L, I]`; weights: w_ih, w_hh, b_ih, b_hh for each direction; gives `[N, L, D*H]`."""
        zeros = torch.zeros(2 if both else 1, x.shape[0], hidden)
        rest = (list(weights), True, 1, 0.0, False, both, True)
        if cell == "lstm":
            return torch._VF.lstm(x, (zeros, zeros), *rest)[0]  # type: ignore[attr-defined]
        return (torch._VF.gru if cell == "gru" else torch._VF.rnn_tanh)(x, zeros, *rest)[0]  # type: ignore[attr-defined]

    def cumsum(self, x: Any, axis: int) -> Any:
        return torch.cumsum(x, axis)

    def top(self, x: Any, axis: int, k: int) -> Any:
        return torch.topk(x, k, axis)[0]

    def unfold(self, x: Any) -> Any:
        return F.unfold(x, 3, padding=1)

    def slice_scatter(self, x: Any, part: Any, axis: int, start: int, stop: int) -> Any:
        return torch.slice_scatter(x, part, axis, start, stop)

    def unbind(self, x: Any, axis: int) -> list[Any]:
        return list(torch.unbind(x, axis))

    def repeat_interleave(self, x: Any, axis: int, times: int) -> Any:
        return torch.repeat_interleave(x, times, axis)

    def glu(self, x: Any, axis: int) -> Any:
        return F.glu(x, axis)

    def ones_like(self, x: Any) -> Any:
        return torch.ones_like(x)

    def eye_like(self, x: Any) -> Any:
        return torch.eye(*x.shape)

    def embedding(self, table: Any, ids: Any) -> Any:
        return F.embedding(ids, table)

    def table(self, data: Any, axis: int, indices: np.ndarray) -> Any:
        """Rows of a parameter by constant indices of any rank."""
        assert axis == 0
        return data[torch.from_numpy(indices)]

    def resize(self, x: Any) -> Any:
        return F.interpolate(x, scale_factor=2.0, mode="nearest")

    def average_pool(self, x: Any) -> Any:
        return F.avg_pool2d(x, 3, 1, 1)

    def depth_to_space(self, x: Any, block: int) -> Any:
        """The order that ONNX calls DCR."""
        n, c, h, w = self.shape(x)
        parts = self.reshape(x, (n, block, block, c // block**2, h, w))
        return self.reshape(self.transpose(parts, (0, 3, 4, 1, 5, 2)), (n, c // block**2, h * block, w * block))

    def space_to_depth(self, x: Any, block: int) -> Any:
        n, c, h, w = self.shape(x)
        parts = self.reshape(x, (n, c, h // block, block, w // block, block))
        return self.reshape(self.transpose(parts, (0, 3, 5, 1, 2, 4)), (n, c * block**2, h // block, w // block))

    def strange(self, x: Any) -> Any:
        """An operator that no table knows."""
        return torch.special.i0e(x)


class OnnxMore(OnnxOps, TorchMore):
    """`dynamic` leaves the batch open: reshapes copy it, or (`computed`) build their targets from `Shape`."""

    def __init__(
        self, weights: Any, inputs: Mapping[str, Named], opset: int, dynamic: bool = False, computed: bool = False
    ) -> None:
        super().__init__(weights)
        self.inputs = dict(inputs)
        self.results: list[Any] = []
        self.opset = opset
        self.dynamic = dynamic
        self.computed = computed

    def _plain(self, x: Any) -> Any:
        return x.tensor if isinstance(x, Named) else x

    def constant(self, values: np.ndarray) -> Any:
        return self._initializer(f"table{len(self.initializers)}", torch.from_numpy(values))

    def conv_nd(self, x: Any, w: Any, b: Any, groups: int, pad: int, stride: int = 1, dilation: int = 1) -> Any:
        y = super().conv_nd(x.tensor, w.tensor, self._plain(b), groups, pad, stride, dilation)
        n = w.tensor.ndim - 2
        each = {"pads": [pad] * 2 * n, "strides": [stride] * n, "dilations": [dilation] * n}
        return self._node("Conv", [x, w, b], y, group=groups, **each)

    def conv_transpose_nd(self, x: Any, w: Any, b: Any, groups: int) -> Any:
        y = super().conv_transpose_nd(x.tensor, w.tensor, self._plain(b), groups)
        pads = [w.tensor.shape[-1] // 2] * 2 * (w.tensor.ndim - 2)
        return self._node("ConvTranspose", [x, w, b], y, group=groups, pads=pads)

    def unary(self, fn: str, x: Any) -> Any:
        y = TorchMore.unary(self, fn, x.tensor)
        if fn == "silu":
            return self.binary("mul", x, self.unary("sigmoid", x))
        if fn == "gelu":
            half = self.scale(self.binary("mul", x, self.plus(self.unary("erf", self.scale(x, 2**-0.5)), 1.0)), 0.5)
            return self._node("Gelu", [x], y) if self.opset >= 20 else half
        if fn == "relu6":
            return self.clip(x, 0.0, 6.0)
        names = {"hardswish": "HardSwish", "leaky": "LeakyRelu"}
        return self._node(names.get(fn, fn.capitalize()), [x], y, **({"alpha": 0.01} if fn == "leaky" else {}))

    def plus(self, x: Any, number: float) -> Any:
        return self.binary("add", x, self._scalar(number))

    def _scalar(self, number: float) -> Named:
        return self._initializer(f"n{number}".replace(".", "_").replace("-", "m"), torch.tensor(number))

    def where(self, condition: Any, a: Any, b: Any) -> Any:
        positive = self._node("Greater", [condition, self._scalar(0.0)], condition.tensor > 0)
        return self._node("Where", [positive, a, b], torch.where(condition.tensor > 0, a.tensor, b.tensor))

    def clip(self, x: Any, low: float, high: float) -> Any:
        return self._node("Clip", [x, self._scalar(low), self._scalar(high)], x.tensor.clamp(low, high))

    def rms_norm(self, x: Any, s: Any) -> Any:
        y = super().rms_norm(x.tensor, s.tensor)
        if self.opset >= 23:
            return self._node("RMSNormalization", [x, s], y, axis=-s.tensor.ndim, epsilon=1e-5)
        axes = [x.tensor.ndim - 1 - i for i in range(s.tensor.ndim)]
        spread = self.plus(self.reduce("mean", self.binary("mul", x, x), axes, True), 1e-5)
        return self.binary("mul", self.binary("div", x, self.unary("sqrt", spread)), s)

    def group_norm(self, x: Any, groups: int, s: Any, b: Any) -> Any:
        if self.opset < 21:
            return super().group_norm(x, groups, s, b)
        y = F.group_norm(x.tensor, groups, s.tensor, b.tensor)
        return self._node("GroupNormalization", [x, s, b], y, num_groups=groups, epsilon=1e-5)

    def softmax_attention(self, q: Any, k: Any, v: Any, mask: Any = None, grouped: bool = False) -> Any:
        if self.opset >= 23:
            y = super().softmax_attention(q.tensor, k.tensor, v.tensor, self._plain(mask), grouped)
            return self._node("Attention", [q, k, v, mask], y)
        if grouped:
            times = q.tensor.shape[1] // k.tensor.shape[1]
            k, v = (self.repeat_interleave(part, 1, times) for part in (k, v))
        turned = self.transpose(k, (0, 1, 3, 2))
        scores = self.scale(self.matmul(q, turned), float(q.tensor.shape[-1]) ** -0.5)
        return self.matmul(self.softmax(scores if mask is None else self.binary("add", scores, mask), 3), v)

    def lstm(self, cell: str, x: Any, weights: Sequence[Any], hidden: int, both: bool) -> Any:
        y = super().lstm(cell, x.tensor, [w.tensor for w in weights], hidden, both)
        sides = [weights[i : i + 4] for i in range(0, len(weights), 4)]

        def stacked(parts: Sequence[int], tag: str) -> Named:
            rows = [torch.cat([self._gates(cell, side[i].tensor) for i in parts]) for side in sides]
            return self._initializer(f"{weights[0].name}_{tag}", torch.stack(rows).contiguous())

        turned = self.transpose(x, (1, 0, 2))
        extra = {"linear_before_reset": 1} if cell == "gru" else {}
        raw = y.reshape(*y.shape[:2], len(sides), hidden).permute(1, 2, 0, 3)
        inputs = [turned, stacked([0], "W"), stacked([1], "R"), stacked([2, 3], "B")]
        direction = "bidirectional" if both else "forward"
        out = self._node(_CELLS[cell], inputs, raw, hidden_size=hidden, direction=direction, **extra)
        back = self.transpose(out, (2, 0, 1, 3))
        return self.reshape(back, (x.tensor.shape[0], x.tensor.shape[1], len(sides) * hidden))

    @staticmethod
    def _gates(cell: str, w: Tensor) -> Tensor:
        return torch.cat([w.chunk(len(_GATES[cell]))[i] for i in _GATES[cell]])

    def cumsum(self, x: Any, axis: int) -> Any:
        name = f"scalar_{axis}"
        self.initializers.setdefault(name, numpy_helper.from_array(np.array(axis, np.int64), name))
        return self._node("CumSum", [x, name], x.tensor.cumsum(axis))

    def top(self, x: Any, axis: int, k: int) -> Any:
        values, indices = torch.topk(x.tensor, k, axis)
        return self._nodes("TopK", [x, self._integers(k)], [values, indices], axis=axis)[0]

    def unfold(self, x: Any) -> Any:
        """Nine shifted copies, stacked behind the channels."""
        n, c, h, w = self.shape(x)
        wide = self.pad(self.pad(x, 2, 1, 1), 3, 1, 1)
        rows = [self.slice(wide, 2, i, i + h, 1) for i in range(3)]
        moved = [self.slice(row, 3, j, j + w, 1) for row in rows for j in range(3)]
        return self.reshape(self.stack(moved, 2), (n, c * 9, h * w))

    def slice_scatter(self, x: Any, part: Any, axis: int, start: int, stop: int) -> Any:
        end = x.tensor.shape[axis]
        sides = [self.slice(x, axis, a, b, 1) for a, b in ((0, start), (stop, end)) if a < b]
        return self.concat([sides[0], part, *sides[1:]] if start else [part, *sides], axis)

    def unbind(self, x: Any, axis: int) -> list[Any]:
        parts = self.split(x, [1] * x.tensor.shape[axis], axis)
        return [self._node("Squeeze", [p, self._integers(axis)], p.tensor.squeeze(axis)) for p in parts]

    def repeat_interleave(self, x: Any, axis: int, times: int) -> Any:
        sizes = list(self.shape(x))
        wide = self.reshape(x, [*sizes[: axis + 1], 1, *sizes[axis + 1 :]])
        wide = self.expand(wide, [*sizes[: axis + 1], times, *sizes[axis + 1 :]])
        return self.reshape(wide, [*sizes[:axis], sizes[axis] * times, *sizes[axis + 1 :]])

    def glu(self, x: Any, axis: int) -> Any:
        left, right = self.split(x, [x.tensor.shape[axis] // 2] * 2, axis)
        return self.binary("mul", left, self.unary("sigmoid", right))

    def ones_like(self, x: Any) -> Any:
        sizes = self._node("Shape", [x], torch.tensor(x.tensor.shape))
        one = numpy_helper.from_array(np.ones(1, np.float32))
        return self._node("ConstantOfShape", [sizes], torch.ones_like(x.tensor), value=one)

    def eye_like(self, x: Any) -> Any:
        return self._node("EyeLike", [x], torch.eye(*x.tensor.shape))

    def embedding(self, table: Any, ids: Any) -> Any:
        return self._node("Gather", [table, ids], F.embedding(ids.tensor, table.tensor), axis=0)

    def table(self, data: Any, axis: int, indices: np.ndarray) -> Any:
        name = f"rows{len(self.initializers)}"
        self.initializers[name] = numpy_helper.from_array(indices, name)
        return self._node("Gather", [data, name], data.tensor[torch.from_numpy(indices)], axis=axis)

    def resize(self, x: Any) -> Any:
        scales = self._initializer("scales", torch.tensor([1.0, 1.0, 2.0, 2.0]))
        how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        return self._node("Resize", [x, None, scales], super().resize(x.tensor), **how)

    def average_pool(self, x: Any) -> Any:
        y = super().average_pool(x.tensor)
        return self._node("AveragePool", [x], y, kernel_shape=[3, 3], pads=[1] * 4, count_include_pad=1)

    def depth_to_space(self, x: Any, block: int) -> Any:
        y = TorchMore.depth_to_space(TorchMore({}), x.tensor, block)
        return self._node("DepthToSpace", [x], y, blocksize=block, mode="DCR")

    def space_to_depth(self, x: Any, block: int) -> Any:
        y = TorchMore.space_to_depth(TorchMore({}), x.tensor, block)
        return self._node("SpaceToDepth", [x], y, blocksize=block)

    def binary(self, fn: str, a: Any, b: Any) -> Any:
        return self._node("Div", [a, b], a.tensor / b.tensor) if fn == "div" else super().binary(fn, a, b)

    def reshape(self, x: Any, shape: Sequence[int]) -> Any:
        if not self.dynamic:
            return super().reshape(x, shape)
        y, (first, *rest) = x.tensor.reshape(tuple(shape)), shape
        same = first == x.tensor.shape[0]
        if same and self.computed:
            return self._node("Reshape", [x, self._computed(x, rest)], y)
        target = [0 if same else -1 if -1 not in rest else first, *rest]
        return self._node("Reshape", [x, self._integers(*target)], y)

    def _computed(self, x: Named, rest: Sequence[int]) -> Named:
        """A reshape target as exporters compute it: the batch from the data, the rest as literals."""
        sizes = self._node("Shape", [x], torch.tensor(x.tensor.shape))
        batch = self._node("Gather", [sizes, self._integers(0)], sizes.tensor[:1], axis=0)
        whole = torch.cat([batch.tensor, torch.tensor(list(rest))])
        return self._node("Concat", [batch, self._integers(*rest)], whole, axis=0)

    def expand(self, x: Any, shape: Sequence[int]) -> Any:
        y, first = x.tensor.expand(*shape), shape[0]
        keep = self.dynamic and len(shape) == x.tensor.ndim and first == x.tensor.shape[0]
        return self._node("Expand", [x, self._integers(1 if keep else first, *shape[1:])], y)

    def whole_model(self, outputs: Sequence[Named]) -> onnx.ModelProto:
        """The graph so far, with all its inputs, as a model."""
        model = self.model(next(iter(self.inputs.values())), outputs)
        del model.graph.input[:]
        for x in self.inputs.values():
            kind = TensorProto.INT64 if x.tensor.dtype == torch.int64 else TensorProto.FLOAT
            sizes: list[Any] = list(x.tensor.shape)
            model.graph.input.append(helper.make_tensor_value_info(x.name, kind, self._open(sizes)))
        for info, y in zip(model.graph.output, outputs, strict=True):
            info.CopyFrom(helper.make_tensor_value_info(info.name, TensorProto.FLOAT, self._open(list(y.tensor.shape))))
        model.opset_import[0].version = self.opset
        model.ir_version = 11 if self.opset >= 23 else 10 if self.opset >= 21 else 9
        return model

    def _open(self, sizes: list[Any]) -> list[Any]:
        return ["N", *sizes[1:]] if self.dynamic else sizes
