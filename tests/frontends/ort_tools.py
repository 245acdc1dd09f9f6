"""Small trained-looking networks as ONNX files, for the tests of what onnxruntime and its tools make of them."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F  # noqa: N812
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions
from onnxruntime.quantization import CalibrationDataReader
from torch import nn

import graphprune as gp
from graphprune.ir.graph import Graph
from tests.ops.registry import stirred

WORDS, WIDTH, HEADS, LENGTH = 23, 32, 4, 6


class Images(nn.Module):
    """Convolutions of every kind around a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, stride=2)
        self.up, self.depthwise = nn.Conv2d(16, 32, 1), nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.down, self.grouped = nn.Conv2d(32, 16, 1), nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        y = self.down(torch.relu(self.depthwise(torch.relu(self.up(x)))))
        return self.head(torch.relu(self.grouped(x + y)).mean((2, 3)))


class RootMean(nn.Module):
    """RMS norm, written out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Layer(nn.Module):
    """A transformer layer: norm after (BERT) or before (GPT-2), or with gates and rotary positions (Llama)."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.style = style
        own = WIDTH // 2 if style == "llama" else WIDTH
        norm: Any = RootMean if style == "llama" else nn.LayerNorm
        bias = style != "llama"
        self.norm_1, self.norm_2 = norm(WIDTH), norm(WIDTH)
        self.query, self.key = nn.Linear(WIDTH, WIDTH, bias), nn.Linear(WIDTH, own, bias)
        self.value, self.out = nn.Linear(WIDTH, own, bias), nn.Linear(WIDTH, WIDTH, bias)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH, bias), nn.Linear(2 * WIDTH, WIDTH, bias)
        self.gate = nn.Linear(WIDTH, 2 * WIDTH, bias) if style == "llama" else None

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            p(x).view(*x.shape[:2], -1, WIDTH // HEADS).transpose(1, 2) for p in (self.query, self.key, self.value)
        )
        if self.style == "llama":
            k, v = (t[:, :, None].expand(-1, -1, 2, -1, -1).flatten(1, 2) for t in (k, v))
        scores = torch.matmul(q, k.transpose(-1, -2)) / (WIDTH // HEADS) ** 0.5
        joined = torch.matmul(torch.softmax(scores, -1), v).transpose(1, 2).reshape(*x.shape[:2], WIDTH)
        return self.out(joined)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.style == "bert":
            x = self.norm_1(self.attend(x) + x)
            return self.norm_2(self.down(F.gelu(self.up(x))) + x)
        x = x + self.attend(self.norm_1(x))
        y = self.norm_2(x)
        inner = F.gelu(self.up(y), approximate="tanh") if self.gate is None else F.silu(self.gate(y)) * self.up(y)
        return x + self.down(inner)


class Text(nn.Module):
    """Embeddings, two layers, a head."""

    def __init__(self, style: str) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Parameter(torch.randn(1, LENGTH, WIDTH))
        self.norm = RootMean(WIDTH) if style == "llama" else nn.LayerNorm(WIDTH)
        self.layers = nn.Sequential(Layer(style), Layer(style))
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.layers(self.norm(self.words(ids) + self.places)))


INPUTS: Mapping[str, Any] = {"images": torch.randn(2, 3, 16, 16), "text": torch.randint(0, WORDS, (2, LENGTH))}


def exported(style: str, path: Path) -> Path:
    """A network as an ONNX file; `style` is "images", "bert", "gpt" or "llama"."""
    torch.manual_seed(0)
    module = stirred(Images() if style == "images" else Text(style)).eval()
    example = INPUTS["images" if style == "images" else "text"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (example,), str(path), dynamo=False, opset_version=17, input_names=["x"])
    return path


class Calibration(CalibrationDataReader):
    """A few random inputs."""

    def __init__(self, style: str) -> None:
        generator = np.random.default_rng(0)
        if style == "images":
            arrays = [generator.standard_normal((2, 3, 16, 16)).astype(np.float32) for _ in range(3)]
        else:
            arrays = [generator.integers(0, WORDS, (2, LENGTH)) for _ in range(3)]
        self._feeds = iter([{"x": array} for array in arrays])

    def get_next(self) -> Any:
        return next(self._feeds, None)


def optimized(path: Path, level: GraphOptimizationLevel) -> Path:
    """What onnxruntime saves after its own optimisation."""
    options = SessionOptions()
    options.graph_optimization_level, options.log_severity_level = level, 4
    options.optimized_model_filepath = str(path.with_suffix(".opt.onnx"))
    InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return path.with_suffix(".opt.onnx")


def operators(path: Path) -> Counter[str]:
    """How often each operator occurs."""
    return Counter(node.op_type for node in onnx.load(str(path)).graph.node)


def assert_prunes(path: Path, most: float = 0.4) -> gp.Result:
    """Half of all channels go, nothing is unknown, the proof holds, and at most this part of the parameters is left."""
    result = gp.prune(path, target="channels=0.5", align=1)
    report = result.report
    assert not report.unknown, report.unknown
    assert report.proof is not None and report.proof.passed
    assert report.after.parameters <= most * report.before.parameters, (report.after, report.before, report.frozen)
    assert _stored(result.graph) <= (most + 0.2) * _stored(result.coupling.graph)
    assert report.after.bytes < report.before.bytes
    return result


def _stored(graph: Graph) -> int:
    """Bytes of the constants, without what surrounds them in a file."""
    return sum(v.weight.stored_bytes for v in graph.weights().values() if v.weight is not None)
