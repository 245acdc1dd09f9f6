"""What runtimes fuse and quantise: plain arithmetic in PyTorch (`TorchFused`), one operator of theirs in ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F  # noqa: N812
from onnx import TensorProto, numpy_helper
from torch import Tensor

from .backends import Named
from .rare_operators import OnnxRare, TorchRare

#: onnxruntime's own domain.
CONTRIB = "com.microsoft"
#: Scale and zero point of quantised activations.
STEP, ZERO = 0.05, 128
_GELUS = {"BiasGelu": ("none", 1.0), "FastGelu": ("tanh", 1.0), "QuickGelu": ("", 1.702)}


def steps(shape: Sequence[int], axis: int | None) -> np.ndarray:
    """Scales of a weight's integers: one, or one for each index of an axis."""
    size = 0.012 * max(1, int(np.prod(shape)) // max(shape[0], shape[-1])) ** -0.5
    if axis is None:
        return np.array(size, np.float32)
    return (size * (1 + np.arange(shape[axis]) % 5 / 4)).astype(np.float32)


def block_steps(shape: Sequence[int], axis: int, size: int) -> np.ndarray:
    """Scales of blocks along an axis."""
    sizes = [-(-n // size) if a == axis else n for a, n in enumerate(shape)]
    places = np.indices(sizes).sum(0)
    return (0.2 * shape[axis] ** -0.5 * (1 + places % 5 / 4)).astype(np.float32)


def _heads(t: Tensor, count: int) -> Tensor:
    return t.reshape(*t.shape[:2], count, -1).transpose(1, 2)


def _merged(y: Tensor) -> Tensor:
    return y.transpose(1, 2).reshape(y.shape[0], y.shape[2], -1)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Halves of each head turned into one another."""
    left, right = x.chunk(2, -1)
    cos, sin = cos[: x.shape[2]], sin[: x.shape[2]]
    return torch.cat([left * cos - right * sin, right * cos + left * sin], -1)


class TorchFused(TorchRare):
    """`integer_weight` gives floats that are whole multiples of `steps`; activations are clipped but not rounded."""

    def integer_weight(self, *shape: int, axis: int | None = 0) -> Any:
        w = self.weight(*shape)
        if self.generator is not None:
            self._round(self.weights[f"w{self._count}"], axis)
        return w

    @staticmethod
    def _round(w: Tensor, axis: int | None) -> None:
        scale = torch.from_numpy(steps(w.shape, axis))
        if axis is not None:
            scale = scale.reshape([-1 if a == axis else 1 for a in range(w.ndim)])
        w.copy_((w / scale).round().clamp(-127, 127) * scale)

    def skip_norm(self, x: Any, skip: Any, scale: Any, shift: Any, bias: Any, rms: bool) -> tuple[Any, Any]:
        """The norm of a sum, and the sum."""
        total = x + skip + bias
        if rms:
            return F.rms_norm(total, tuple(scale.shape), scale, 1e-5), total
        return F.layer_norm(total, tuple(scale.shape), scale, shift, 1e-5), total

    def packed_attention(self, x: Any, w: Any, b: Any, heads: int, sizes: Sequence[int], causal: bool) -> Any:
        """Attention with its projections: columns of `w` for queries, keys and values of these widths."""
        q, k, v = (_heads(part, heads) for part in (x @ w + b).split(list(sizes), 2))
        return _merged(F.scaled_dot_product_attention(q, k, v, is_causal=causal))

    def side_by_side(self, q: Any, k: Any, v: Any, heads: int, own: int) -> Any:
        """Attention of heads that lie beside each other, perhaps fewer for keys and values."""
        parts = [_heads(part, count) for part, count in ((q, heads), (k, own), (v, own))]
        return _merged(F.scaled_dot_product_attention(*parts, enable_gqa=heads != own))

    def grouped_query(self, q: Any, k: Any, v: Any, heads: int, own: int, tables: Sequence[Any]) -> Any:
        """The same, causal; rotated by tables where there are some."""
        parts = [_heads(part, count) for part, count in ((q, heads), (k, own), (v, own))]
        if tables:
            parts[:2] = [_rotated(part, *tables) for part in parts[:2]]
        return _merged(F.scaled_dot_product_attention(*parts, is_causal=True, enable_gqa=heads != own))

    def rotary(self, x: Any, cos: Any, sin: Any, heads: int) -> Any:
        return _merged(_rotated(_heads(x, heads), cos, sin))

    def bias_gelu(self, fn: str, x: Any, bias: Any) -> Any:
        kind, alpha = _GELUS[fn]
        return F.gelu(x + bias, approximate=kind) if kind else (x + bias) * torch.sigmoid(alpha * (x + bias))

    def scaled_matmul(self, a: Any, w: Any, alpha: float) -> Any:
        """`alpha * a @ w.T`"""
        return a @ w.T * alpha

    def conv_and_more(self, x: Any, w: Any, b: Any, skip: Any, groups: int) -> Any:
        """Convolution, residual and activation."""
        return torch.relu(F.conv2d(x, w, b, groups=groups) + skip)

    def embed_norm(self, ids: Any, word: Any, place: Any, scale: Any, shift: Any) -> Any:
        rows = F.embedding(ids, word) + place[: ids.shape[1]]
        return F.layer_norm(rows, tuple(scale.shape), scale, shift, 1e-5)

    def _clipped(self, x: Any) -> Any:
        return x.clamp(-ZERO * STEP, (255 - ZERO) * STEP)

    def quantised(self, x: Any) -> Any:
        """To integers and back."""
        return self._clipped(x)

    def unpacked(self, w: Any, axis: int | None) -> Any:
        """An integer weight as floats."""
        return w

    def quantised_conv(self, x: Any, w: Any, axis: int | None, groups: int) -> Any:
        return self._clipped(F.conv2d(self._clipped(x), w, groups=groups, padding=w.shape[-1] // 2))

    def quantised_matmul(self, x: Any, w: Any, axis: int | None, how: str) -> Any:
        """`x @ w` by integers; "dynamic" finds the scale of `x` first."""
        return self._clipped(self._clipped(x) @ w) if how == "QLinearMatMul" else x @ w

    def quantised_sum(self, a: Any, b: Any) -> Any:
        return self._clipped(self._clipped(a) + self._clipped(b))

    def joined_integers(self, parts: Sequence[Any]) -> Any:
        """Joined along channels, as integers; then a sigmoid and a pool."""
        y = torch.sigmoid(torch.cat([self._clipped(p) for p in parts], 1))
        return F.avg_pool2d(y, 3, 1, 1)

    def blocked_weight(self, *shape: int, axis: int, size: int) -> Any:
        """Whole multiples (from -8 to 7) of scales that `size` indices of an axis share."""
        w = self.weight(*shape)
        if self.generator is not None:
            scale = torch.from_numpy(block_steps(w.shape, axis, size)).repeat_interleave(size, axis)
            scale = scale.narrow(axis, 0, shape[axis])
            whole = (w / scale).round().clamp(-8, 7)
            self.weights[f"w{self._count}"].copy_(whole * scale)
        return w

    def few_bits_matmul(self, x: Any, w: Any, size: int, zeros: bool) -> Any:
        """`x @ w.T`, the weight stored in four bits."""
        return x @ w.T

    def unpacked_blocks(self, w: Any, axis: int, size: int) -> Any:
        """A weight whose scales are shared in blocks, as floats."""
        return w


class OnnxFused(OnnxRare, TorchFused):
    """Contrib operators, and integers with scales."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._written: list[Named] = []

    def _contrib(self, op: str, inputs: Sequence[Any], tensors: Sequence[Tensor], **attrs: Any) -> list[Named]:
        return self._nodes(op, inputs, tensors, domain=CONTRIB, **attrs)

    def _plain_all(self, *values: Any) -> list[Any]:
        return [self._plain(v) for v in values]

    def integer_weight(self, *shape: int, axis: int | None = 0) -> Any:
        return self.weight(*shape)

    def skip_norm(self, x: Any, skip: Any, scale: Any, shift: Any, bias: Any, rms: bool) -> tuple[Any, Any]:
        normed, total = super().skip_norm(*self._plain_all(x, skip, scale, shift, bias), rms)
        op = "SkipSimplifiedLayerNormalization" if rms else "SkipLayerNormalization"
        inputs = [x, skip, scale, bias] if rms else [x, skip, scale, shift, bias]
        made = self._contrib(op, inputs, [normed, total, total, total], epsilon=1e-5)
        self.nodes[-1].output[1:3] = ["", ""]
        return made[0], made[3]

    def packed_attention(self, x: Any, w: Any, b: Any, heads: int, sizes: Sequence[int], causal: bool) -> Any:
        y = super().packed_attention(*self._plain_all(x, w, b), heads, sizes, causal)
        unequal = {"qkv_hidden_sizes": list(sizes)} if len(set(sizes)) > 1 else {}
        return self._contrib("Attention", [x, w, b], [y], num_heads=heads, unidirectional=int(causal), **unequal)[0]

    def side_by_side(self, q: Any, k: Any, v: Any, heads: int, own: int) -> Any:
        y = super().side_by_side(*self._plain_all(q, k, v), heads, own)
        if self.opset >= 23:
            return self._node("Attention", [q, k, v], y, q_num_heads=heads, kv_num_heads=own)
        if heads != own:
            parts = [self._apart(part, n) for part, n in ((q, heads), (k, own), (v, own))]
            return self._together(self.softmax_attention(*parts, grouped=True))
        return self._contrib("MultiHeadAttention", [q, k, v], [y], num_heads=heads)[0]

    def _apart(self, t: Any, heads: int) -> Any:
        n, length, width = self.shape(t)
        return self.transpose(self.reshape(t, (n, length, heads, width // heads)), (0, 2, 1, 3))

    def _together(self, y: Any) -> Any:
        n, heads, length, width = self.shape(y)
        return self.reshape(self.transpose(y, (0, 2, 1, 3)), (n, length, heads * width))

    def grouped_query(self, q: Any, k: Any, v: Any, heads: int, own: int, tables: Sequence[Any]) -> Any:
        y = super().grouped_query(*self._plain_all(q, k, v), heads, own, self._plain_all(*tables))
        n, length = q.tensor.shape[:2]
        counts = self._initializer(f"seqlens{n}_{length}", torch.full((n,), length - 1, dtype=torch.int32))
        total = self._initializer(f"total{length}", torch.tensor(length, dtype=torch.int32))
        cache = [k.tensor, v.tensor]
        inputs = [q, k, v, None, None, counts, total, *tables]
        rotate = {"do_rotary": 1} if tables else {}
        return self._contrib("GroupQueryAttention", inputs, [y, *cache], num_heads=heads, kv_num_heads=own, **rotate)[0]

    def rotary(self, x: Any, cos: Any, sin: Any, heads: int) -> Any:
        y = super().rotary(*self._plain_all(x, cos, sin), heads)
        return self._contrib("RotaryEmbedding", [x, self._integers(0), cos, sin], [y], num_heads=heads)[0]

    def bias_gelu(self, fn: str, x: Any, bias: Any) -> Any:
        y = super().bias_gelu(fn, x.tensor, bias.tensor)
        if fn == "QuickGelu":
            return self._contrib(fn, [self.binary("add", x, bias)], [y], alpha=1.702)[0]
        return self._contrib(fn, [x, bias], [y])[0]

    def scaled_matmul(self, a: Any, w: Any, alpha: float) -> Any:
        y = super().scaled_matmul(a.tensor, w.tensor, alpha)
        return self._contrib("FusedMatMul", [a, w], [y], transB=1, alpha=alpha)[0]

    def conv_and_more(self, x: Any, w: Any, b: Any, skip: Any, groups: int) -> Any:
        y = super().conv_and_more(*self._plain_all(x, w, b, skip), groups)
        return self._contrib("FusedConv", [x, w, b, skip], [y], group=groups, activation="Relu")[0]

    def embed_norm(self, ids: Any, word: Any, place: Any, scale: Any, shift: Any) -> Any:
        y = super().embed_norm(*self._plain_all(ids, word, place, scale, shift))
        small = self._node("Cast", [ids], ids.tensor.to(torch.int32), to=TensorProto.INT32)
        made = self._contrib(
            "EmbedLayerNormalization",
            [small, None, word, place, None, scale, shift],
            [y, torch.zeros(y.shape[0], dtype=torch.int32)],
            epsilon=1e-5,
        )
        return made[0]

    def _scale(self, number: float) -> Named:
        return self._initializer(f"s{number}".replace(".", "_"), torch.tensor(number, dtype=torch.float32))

    def _zero(self) -> Named:
        return self._initializer("zero_point", torch.tensor(ZERO, dtype=torch.uint8))

    def _integers_of(self, w: Named, axis: int | None) -> tuple[Named, Named, Named]:
        """A weight's integers, scales and zero points."""
        scale = steps(w.tensor.shape, axis)
        wide = scale if axis is None else scale.reshape([-1 if a == axis else 1 for a in range(w.tensor.ndim)])
        whole = np.rint(w.tensor.numpy() / wide).astype(np.int8)
        zero = np.zeros(scale.shape, np.int8)
        parts = (("q", whole), ("s", scale), ("z", zero))
        for tag, array in parts:
            self.initializers[f"{w.name}_{tag}"] = numpy_helper.from_array(array, f"{w.name}_{tag}")
        q, s, z = (Named(f"{w.name}_{tag}", torch.from_numpy(np.asarray(array))) for tag, array in parts)
        return q, s, z

    def quantised(self, x: Any) -> Any:
        scale, zero = self._scale(STEP), self._zero()
        y = self._clipped(x.tensor)
        return self._node("DequantizeLinear", [self._node("QuantizeLinear", [x, scale, zero], y), scale, zero], y)

    def unpacked(self, w: Any, axis: int | None) -> Any:
        extra = {} if axis is None else {"axis": axis}
        return self._node("DequantizeLinear", list(self._integers_of(w, axis)), w.tensor, **extra)

    def quantised_conv(self, x: Any, w: Any, axis: int | None, groups: int) -> Any:
        y = super().quantised_conv(x.tensor, w.tensor, axis, groups)
        scale, zero = self._scale(STEP), self._zero()
        entering = self._node("QuantizeLinear", [x, scale, zero], x.tensor)
        q, s, z = self._integers_of(w, axis)
        pads = [w.tensor.shape[-1] // 2] * 4
        made = self._node("QLinearConv", [entering, scale, zero, q, s, z, scale, zero], y, group=groups, pads=pads)
        return self._node("DequantizeLinear", [made, scale, zero], y)

    def quantised_matmul(self, x: Any, w: Any, axis: int | None, how: str) -> Any:
        y = super().quantised_matmul(x.tensor, w.tensor, axis, how)
        q, s, z = self._integers_of(w, axis)
        if how == "DynamicQuantizeMatMul":
            return self._contrib(how, [x, q, s, z], [y])[0]
        if how == "MatMulInteger":
            parts = [x.tensor, torch.tensor(1.0), torch.tensor(0, dtype=torch.uint8)]
            entering, scale, zero = self._nodes("DynamicQuantizeLinear", [x], parts)
            product = self._node("MatMulInteger", [entering, q, zero, z], y)
            real = self._node("Cast", [product], y, to=TensorProto.FLOAT)
            return self.binary("mul", real, self.binary("mul", scale, s))
        scale, zero = self._scale(STEP), self._zero()
        entering = self._node("QuantizeLinear", [x, scale, zero], x.tensor)
        made = self._node("QLinearMatMul", [entering, scale, zero, q, s, z, scale, zero], y)
        return self._node("DequantizeLinear", [made, scale, zero], y)

    def quantised_sum(self, a: Any, b: Any) -> Any:
        y = super().quantised_sum(a.tensor, b.tensor)
        scale, zero = self._scale(STEP), self._zero()
        one, other = (self._node("QuantizeLinear", [v, scale, zero], v.tensor) for v in (a, b))
        inputs = [one, scale, zero, other, scale, zero, scale, zero]
        return self._node("DequantizeLinear", [self._contrib("QLinearAdd", inputs, [y])[0], scale, zero], y)

    def joined_integers(self, parts: Sequence[Any]) -> Any:
        y = super().joined_integers([p.tensor for p in parts])
        wide, scale, zero, small = (
            torch.cat([p.tensor for p in parts], 1),
            self._scale(STEP),
            self._zero(),
            self._scale(1 / 256),
        )
        low = self._initializer("lowest", torch.tensor(0, dtype=torch.uint8))
        whole = [self._node("QuantizeLinear", [p, scale, zero], p.tensor) for p in parts]
        triples = [v for p in whole for v in (p, scale, zero)]
        joined = self._contrib("QLinearConcat", [scale, zero, *triples], [wide], axis=1)[0]
        gated = self._contrib("QLinearSigmoid", [joined, scale, zero, small, low], [wide])[0]
        how = {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": 1}
        pooled = self._contrib("QLinearAveragePool", [gated, small, low, small, low], [y], **how)[0]
        return self._node("DequantizeLinear", [pooled, small, low], y)

    def blocked_weight(self, *shape: int, axis: int, size: int) -> Any:
        return self.weight(*shape)

    def _in_blocks(self, w: Named, axis: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """A weight's integers and scales."""
        scale = block_steps(w.tensor.shape, axis, size)
        wide = np.repeat(scale, size, axis).take(range(w.tensor.shape[axis]), axis)
        return np.rint(w.tensor.numpy() / wide).astype(np.int8), scale

    def _stored(self, w: Named, tag: str, array: np.ndarray) -> Named:
        self.initializers[f"{w.name}_{tag}"] = numpy_helper.from_array(array, f"{w.name}_{tag}")
        return Named(f"{w.name}_{tag}", torch.from_numpy(array))

    def few_bits_matmul(self, x: Any, w: Any, size: int, zeros: bool) -> Any:
        whole, scale = self._in_blocks(w, 1, size)
        (rows, depth), blocks = whole.shape, scale.shape[1]
        nibbles = np.full((rows, blocks * size), 8, np.uint8)
        nibbles[:, :depth] = whole + 8
        packed = (nibbles[:, ::2] | nibbles[:, 1::2] << 4).reshape(rows, blocks, size // 2)
        inputs = [x, self._stored(w, "q", packed), self._stored(w, "s", scale.reshape(-1))]
        if zeros:
            eights = np.full(rows * -(-blocks // 2), 0x88, np.uint8)
            inputs.append(self._stored(w, "z", eights))
        sizes = {"K": depth, "N": rows, "bits": 4, "block_size": size}
        return self._contrib("MatMulNBits", inputs, [x.tensor @ w.tensor.T], **sizes)[0]

    def unpacked_blocks(self, w: Any, axis: int, size: int) -> Any:
        if self.opset < 21 or w.tensor.shape[axis] % size:
            return w
        whole, scale = self._in_blocks(w, axis, size)
        parts = [self._stored(w, "q", whole), self._stored(w, "s", scale)]
        return self._node("DequantizeLinear", parts, w.tensor, axis=axis, block_size=size)

    def strange(self, x: Any) -> Any:
        """onnxruntime's example operator, which copies; its shape stands in the file, or nobody knows it."""
        made = self._contrib("SampleOp", [x], [x.tensor])[0]
        if self.computed:
            self._written.append(made)
        return made

    def model(self, x: Named, outputs: Sequence[Named]) -> onnx.ModelProto:
        made = super().model(x, outputs)
        for value in self._written:
            sizes = self._open(list(value.tensor.shape))
            made.graph.value_info.append(onnx.helper.make_tensor_value_info(value.name, TensorProto.FLOAT, sizes))
        made.opset_import.append(onnx.helper.make_opsetid(CONTRIB, 1))
        return made
