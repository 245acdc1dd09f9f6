"""Size attributes of PyTorch's own module classes, read off their (pruned) parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.rnn import RNNBase, RNNCellBase

from .narrow import narrow, plainly


@dataclass
class Facts:
    """What the graph knows about a module beyond its parameters; None where it knows nothing."""

    groups: int | None = None
    normalized_shape: tuple[int, ...] | None = None
    heads: int | None = None


Adapter = Callable[[Any, Facts], None]


def _conv(module: Any, facts: Facts) -> None:
    if facts.groups is not None:
        module.groups = facts.groups
    first, second = module.weight.shape[0], module.weight.shape[1] * module.groups
    module.in_channels, module.out_channels = (first, second) if module.transposed else (second, first)


def _linear(module: Any, facts: Facts) -> None:
    module.out_features, module.in_features = module.weight.shape


def _bilinear(module: Any, facts: Facts) -> None:
    module.out_features, module.in1_features, module.in2_features = module.weight.shape


def _norm(module: Any, facts: Facts) -> None:
    for tensor in (module.weight, module.running_mean):
        if tensor is not None:
            module.num_features = tensor.shape[0]
            return


def _layer_norm(module: Any, facts: Facts) -> None:
    if module.weight is not None:
        module.normalized_shape = tuple(module.weight.shape)
    elif facts.normalized_shape is not None:
        module.normalized_shape = facts.normalized_shape


def _group_norm(module: Any, facts: Facts) -> None:
    if facts.groups is not None:
        module.num_groups = facts.groups
    if module.weight is not None:
        module.num_channels = module.weight.shape[0]


def _embedding(module: Any, facts: Facts) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


def _prelu(module: Any, facts: Facts) -> None:
    module.num_parameters = module.weight.numel()


def _attention(module: Any, facts: Facts) -> None:
    """The width of a head stays; their number follows the projections."""
    if module.in_proj_weight is not None:
        inner, embed = module.in_proj_weight.shape[0] // 3, module.in_proj_weight.shape[1]
        module.kdim = module.vdim = embed
    else:
        inner, embed = module.q_proj_weight.shape
        module.kdim, module.vdim = module.k_proj_weight.shape[1], module.v_proj_weight.shape[1]
    if inner % module.head_dim == 0:
        module.num_heads = inner // module.head_dim
    module.embed_dim = embed
    whole = inner % module.head_dim == 0
    if whole and inner != embed and type(module) is nn.MultiheadAttention:
        narrow(module)
    module.out_proj.out_features, module.out_proj.in_features = module.out_proj.weight.shape


def _recurrent(module: Any, facts: Facts) -> None:
    module.input_size = module.weight_ih_l0.shape[1]
    module.hidden_size = module.weight_hh_l0.shape[0] // {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    if module.proj_size:
        module.proj_size = module.weight_hh_l0.shape[1]


def _cell(module: Any, facts: Facts) -> None:
    gates = {nn.LSTMCell: 4, nn.GRUCell: 3}.get(type(module), 1)
    module.input_size, module.hidden_size = module.weight_ih.shape[1], module.weight_hh.shape[0] // gates


_ADAPTERS: tuple[tuple[type[nn.Module], Adapter], ...] = (
    (_ConvNd, _conv),
    (nn.Linear, _linear),
    (nn.Bilinear, _bilinear),
    (_NormBase, _norm),
    (nn.LayerNorm, _layer_norm),
    (nn.RMSNorm, _layer_norm),
    (nn.GroupNorm, _group_norm),
    (nn.Embedding, _embedding),
    (nn.EmbeddingBag, _embedding),
    (nn.PReLU, _prelu),
    (nn.MultiheadAttention, _attention),
    (RNNBase, _recurrent),
    (RNNCellBase, _cell),
)


def is_standard(module: nn.Module) -> bool:
    """Whether a module is a layer of PyTorch's whose size attributes `adapt` knows."""
    return type(module).__module__.startswith("torch.") and any(isinstance(module, kind) for kind, _ in _ADAPTERS)


def adapt(module: nn.Module, facts: dict[str, Facts]) -> None:
    """Bring the size attributes of every standard module up to date; `facts` is by module path."""
    nothing = Facts()
    for path, child in module.named_modules():
        for kind, adapter in _ADAPTERS:
            if isinstance(child, kind):
                adapter(child, facts.get(path, nothing))
                break
    for child in module.modules():
        if isinstance(child, nn.TransformerEncoder):
            plainly(child)
