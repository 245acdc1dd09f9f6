"""Attention of PyTorch's own with fewer heads than its embedding has room for."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import nn

import graphprune as gp
from graphprune.frontends.torch.module.narrow import NarrowAttention, narrow

PADDING = torch.tensor([[False, False, False, False, True], [False, False, True, True, True]])
CAUSAL = torch.ones(4, 5).triu(1)


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("built", [{}, {"bias": False}, {"add_bias_kv": True}, {"add_zero_attn": True}, {"kdim": 6}])
@pytest.mark.parametrize(
    "called",
    [
        {},
        {"key_padding_mask": PADDING},
        {"attn_mask": CAUSAL.bool()},
        {"attn_mask": CAUSAL * -3, "key_padding_mask": PADDING.float() * -2},
        {"attn_mask": torch.randn(8, 4, 5)},
        {"attn_mask": CAUSAL.bool(), "is_causal": True},
    ],
)
@pytest.mark.parametrize("batch_first", [True, False])
def test_computes_what_pytorch_does(weights: bool, built: Any, called: Any, batch_first: bool) -> None:
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(8, 4, batch_first=batch_first, **built).eval()
    for name, parameter in theirs.named_parameters():
        if "bias" in name:
            nn.init.normal_(parameter)
    ours = copy.deepcopy(theirs)
    narrow(ours)
    q, k, v = torch.randn(2, 4, 8), torch.randn(2, 5, built.get("kdim", 8)), torch.randn(2, 5, 8)
    given = [t if batch_first else t.transpose(0, 1) for t in (q, k, v)]
    for average in (True, False):
        how = {"need_weights": weights, "average_attn_weights": average, **called}
        torch.testing.assert_close(ours(*given, **how), theirs(*given, **how))


def test_one_sequence_alone() -> None:
    theirs = nn.MultiheadAttention(8, 4).eval()
    ours, x = copy.deepcopy(theirs), torch.randn(5, 8)
    narrow(ours)
    torch.testing.assert_close(ours(x, x, x), theirs(x, x, x))
    mask = PADDING[0]
    torch.testing.assert_close(ours(x, x, x, mask), theirs(x, x, x, mask))


class Post(nn.Module):
    """The embedding is the model's input and output, so that only heads may go."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.attention, self.norm = nn.MultiheadAttention(16, 4, batch_first=batch_first), nn.LayerNorm(16)

    def forward(self, x: torch.Tensor) -> Any:
        found, weights = self.attention(x, x, x)
        return self.norm(x + found), weights


def encoder(**how: Any) -> nn.TransformerEncoder:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, **how), 2)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("make", [lambda: Post(True), lambda: Post(False), encoder, lambda: encoder(norm_first=True)])
def test_heads_go_where_the_embedding_stays(make: Any, training: bool) -> None:
    torch.manual_seed(0)
    module, x = make().train(training), torch.randn(2, 5, 16)
    result = gp.prune(module, x, target="channels=0.5", own_class="require")
    assert type(result.model) is type(module)
    assert "became graphprune's NarrowAttention" in result.report.output_reason
    found = [child for child in result.model.modules() if isinstance(child, NarrowAttention)]
    assert found and all(child.num_heads == 2 and child.in_proj_weight.shape == (24, 16) for child in found)
    assert set(result.model.state_dict()) == set(module.state_dict())
    again = pickle.loads(pickle.dumps(result.model))  # noqa: S301
    torch.testing.assert_close(again.eval()(x), result.model.eval()(x))


def test_padded_sequences_of_an_encoder() -> None:
    torch.manual_seed(0)
    module, x = encoder().eval(), torch.randn(2, 5, 16)
    result = gp.prune(module, {"src": x, "src_key_padding_mask": PADDING}, target="channels=0.5", own_class="require")
    expected = result.model.train(False)(x, src_key_padding_mask=PADDING)
    assert expected.shape == x.shape and not result.model.use_nested_tensor
    # Heads, not their widths: the mask is made of zeros for each sample, and the batch has no labels that could meet.
    assert [layer.self_attn.num_heads for layer in result.model.layers] == [2, 2]


def test_all_standard_where_the_embedding_goes_along() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 16), encoder(), nn.Linear(16, 3))
    result = gp.prune(module, torch.randn(2, 4, 5), target="channels=0.5", own_class="require")
    assert not any(isinstance(child, NarrowAttention) for child in result.model.modules())
