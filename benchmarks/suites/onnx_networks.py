"""Small networks of many kinds, and their export with dynamic batch, sequence length and picture size."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import zoo

PICTURE = {0: "batch", 2: "height", 3: "width"}
TOKENS = {0: "batch", 1: "length"}


@dataclass(frozen=True)
class Network:
    """How to build it, an example input, and its dynamic axes."""

    build: Callable[[], nn.Module]
    example: Callable[[], Tensor]
    dynamic: dict[int, str]


class First(nn.Module):
    """Of a model that returns a structure, the first tensor (or the one of this name)."""

    def __init__(self, model: nn.Module, key: str | int = 0, **options: Any) -> None:
        super().__init__()
        self.model, self.key, self.options = model, key, options

    def forward(self, x: Tensor) -> Any:
        return self.model(x, **self.options)[self.key]


class Tagger(nn.Module):
    """Embedding, recurrent layers, two linear layers."""

    def __init__(self, kind: type[nn.RNNBase], *, both: bool) -> None:
        super().__init__()
        self.table = nn.Embedding(30, 16)
        self.layers = kind(16, 24, batch_first=True, bidirectional=both, num_layers=2)
        self.hidden, self.head = nn.Linear(48 if both else 24, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Any:
        found, _ = self.layers(self.table(x))
        return self.head(torch.relu(self.hidden(found)))


def _block(inside: int, outside: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inside, outside, 3, stride, 1), nn.BatchNorm2d(outside), nn.ReLU())


class UNet(nn.Module):
    """Two levels down and up again, resized to the sizes of the skips."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = _block(3, 16), _block(16, 24, 2), _block(24, 32, 2)
        self.d, self.e, self.head = _block(32 + 24, 24), _block(24 + 16, 16), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Any:
        a = self.a(x)
        b = self.b(a)
        c = nn.functional.interpolate(self.c(b), size=b.shape[2:], mode="bilinear")
        d = nn.functional.interpolate(self.d(torch.cat([c, b], 1)), size=a.shape[2:])
        return self.head(self.e(torch.cat([d, a], 1)))


class Decoder(nn.Module):
    """Attention written by hand: views by sizes, a mask and positions made from the length, a squeeze."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(30, 32), nn.Embedding(64, 32)
        self.qkv, self.out, self.norm = nn.Linear(32, 96), nn.Linear(32, 32), nn.LayerNorm(32)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
        self.head, self.value = nn.Linear(32, 7), nn.Linear(32, 1)

    def forward(self, x: Tensor) -> Any:
        batch, length = x.shape
        h = self.table(x) + self.places(torch.arange(length, device=x.device))[None]
        q, k, v = self.qkv(self.norm(h)).view(batch, length, 3, 4, 8).permute(2, 0, 3, 1, 4)
        mask = torch.triu(torch.full((length, length), float("-inf")), 1)
        mixed = (q @ k.transpose(-1, -2) / 8**0.5 + mask).softmax(-1) @ v
        h = h + self.out(mixed.transpose(1, 2).reshape(batch, length, 32))
        h = h + self.mlp(self.norm(h))
        return self.head(h), self.value(h).squeeze(-1)


def _vision(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: zoo.torchvision().models.get_model(name, weights=None, num_classes=10, **options)


def _timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        zoo.torchvision()
        import timm

        made: nn.Module = timm.create_model(name, num_classes=10, **options)
        return made

    return build


def _language(kind: str, key: int, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import transformers as library

        config = getattr(library, options["config"])(vocab_size=30, **options["sizes"])
        return First(getattr(library, kind)(config), key, **options.get("call", {}))

    return build


_TWO = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 48}
_GPT2 = {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "attn_implementation": "eager"}
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
_BERT, _LLAMA = {**_TWO, "attn_implementation": "eager"}, {**_TWO, "num_key_value_heads": 2}
_PLAIN = {"use_cache": False}


def _picture() -> Tensor:
    return torch.randn(2, 3, 64, 64)


def _tokens() -> Tensor:
    return torch.randint(0, 30, (2, 12))


NETWORKS = {
    "squeezenet": Network(_vision("squeezenet1_1"), _picture, PICTURE),
    "resnet18": Network(_vision("resnet18"), _picture, PICTURE),
    "mobilenet_v3": Network(_vision("mobilenet_v3_small"), _picture, PICTURE),
    "shufflenet": Network(_vision("shufflenet_v2_x0_5"), _picture, PICTURE),
    "convnext": Network(_timm("convnext_atto"), _picture, PICTURE),
    "vit": Network(_timm("vit_tiny_patch16_224", img_size=64, depth=2), _picture, {0: "batch"}),
    "unet": Network(UNet, _picture, PICTURE),
    "lstm": Network(lambda: Tagger(nn.LSTM, both=False), _tokens, TOKENS),
    "gru": Network(lambda: Tagger(nn.GRU, both=True), _tokens, TOKENS),
    "decoder": Network(Decoder, _tokens, TOKENS),
    "bert": Network(_language("BertForMaskedLM", 0, config="BertConfig", sizes=_BERT), _tokens, TOKENS),
    "gpt2": Network(_language("GPT2LMHeadModel", 0, config="GPT2Config", sizes=_GPT2, call=_PLAIN), _tokens, TOKENS),
    "t5": Network(_language("T5EncoderModel", 0, config="T5Config", sizes=_T5), _tokens, TOKENS),
    "llama": Network(
        _language("LlamaForCausalLM", 0, config="LlamaConfig", sizes=_LLAMA, call=_PLAIN), _tokens, TOKENS
    ),
}


def _made(name: str) -> tuple[nn.Module, Tensor]:
    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    model = NETWORKS[name].build().eval()
    for key, buffer in model.named_buffers():
        if key.endswith("running_var"):
            buffer.data.uniform_(0.5, 1.5)
        elif key.endswith("running_mean"):
            buffer.data.normal_(0, 0.1)
    return model, NETWORKS[name].example()


def torchscript(name: str, opset: int, path: Path) -> None:
    """Export by way of tracing."""
    model, x = _made(name)
    axes = {"x": NETWORKS[name].dynamic}
    torch.onnx.export(model, (x,), path, dynamo=False, opset_version=opset, input_names=["x"], dynamic_axes=axes)


def dynamo(name: str, opset: int, path: Path) -> None:
    """Export by way of `torch.export`."""
    model, x = _made(name)
    sizes = {axis: torch.export.Dim.DYNAMIC if axis == 0 else torch.export.Dim.AUTO for axis in NETWORKS[name].dynamic}
    first = next(iter(inspect.signature(model.forward).parameters))
    torch.onnx.export(
        model,
        (x,),
        path,
        dynamo=True,
        opset_version=opset,
        input_names=["x"],
        dynamic_shapes={first: sizes},
        external_data=False,
        verbose=False,
    )
