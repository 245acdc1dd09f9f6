"""Structures that the best-known tools get silently wrong, each against an oracle of its own (not the verifier).

Torch-Pruning 1.6.1 removes the wrong inputs behind a channel shuffle, keeps the same columns in every group of a
grouped convolution, unties tied embeddings, and fails on pixel shuffle, `nn.RMSNorm` and LSTM; onnxsim 0.8.1 writes
an invalid model when constants are shared.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

import graphprune as gp
from tests.ops import examples_linear, examples_onnx, examples_shape
from tests.ops.registry import Net, conv, image, stirred


def pruned_at_random(module: nn.Module, inputs: Any, ratio: float = 0.5, **options: Any) -> Any:
    torch.manual_seed(0)
    return gp.prune(
        stirred(module).eval(), inputs, target=gp.channels(ratio), criterion="random", verify=False, **options
    )


def kept_rows(result: Any, weight: str, axis: int = 0) -> list[int]:
    """Which indices of a weight's axis a plan keeps, read off the plan alone."""
    name = f"{weight}[{axis}]"
    group = next(g for g in result.plan.groups if g.name == name)
    span = group.size // 1
    assert group.width == 1, "channels, not blocks"
    return [row * span + i for row, kept in enumerate(group.keep) for i in kept]


def silenced(module: nn.Module, layer: str, kept: list[int]) -> nn.Module:
    """A copy in which the removed filters of a layer give zero."""
    twin = copy.deepcopy(module)
    part = twin.get_submodule(layer)
    gone = [i for i in range(part.weight.shape[0]) if i not in kept]
    with torch.no_grad():
        part.weight[gone] = 0
        part.bias[gone] = 0
    return twin


def assert_same(expected: Any, found: Any) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_inputs_behind_a_channel_shuffle() -> None:
    torch.manual_seed(1)
    module, x = examples_shape.channel_shuffle()
    result = pruned_at_random(module, x)
    twin = silenced(silenced(module, "a", kept_rows(result, "a.weight")), "b", kept_rows(result, "b.weight"))
    dead = [i for i in range(12) if i not in shuffled(kept_rows(result, "b.weight"))]
    with torch.no_grad():
        twin.d.bias[dead] = 0
        assert_same(twin(x), result.model(x))


def shuffled(channels: list[int]) -> list[int]:
    """Where channels of 3 groups of 4 lie after the shuffle."""
    return [(c % 4) * 3 + c // 4 for c in channels]


def test_grouped_convolution_keeps_its_own_columns_in_each_group() -> None:
    torch.manual_seed(1)
    module = nn.Sequential(conv(3, 16), conv(16, 8, 3, groups=4), conv(8, 2))
    x = image()
    result = pruned_at_random(module, x)
    kept = result.plan.groups[0].keep
    assert len(set(kept)) > 1, "every group keeps the same columns, so this proves nothing"
    assert {len(row) for row in kept} == {2}
    expected = torch.cat(
        [module[1].weight[2 * g : 2 * g + 2][list(result.plan.groups[1].keep[g])][:, list(kept[g])] for g in range(4)]
    )
    assert torch.equal(result.model[1].weight, expected)
    twin = silenced(silenced(module, "0", kept_rows(result, "0.weight")), "1", kept_rows(result, "1.weight"))
    assert_same(twin(x), result.model(x))


def test_whole_groups_go_on_request() -> None:
    torch.manual_seed(1)
    module = nn.Sequential(conv(3, 16), conv(16, 8, 3, groups=4), conv(8, 2))
    result = pruned_at_random(module, image(), grouped="whole")
    assert result.model[1].groups == 2
    assert result.model[1].weight.shape == (4, 4, 3, 3)
    assert len(result.plan.groups) == 1 and result.plan.groups[0].width == 4


def test_tied_embedding_stays_tied() -> None:
    torch.manual_seed(1)

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.mlp, self.head = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 11, bias=False)
            self.head.weight = self.table.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.table(ids)
            return self.head(x + self.mlp(x))

    result = pruned_at_random(Model(), torch.randint(0, 11, (2, 5)))
    assert result.report.output_form == "own class"
    assert result.model.head.weight is result.model.table.weight
    assert result.model.table.weight.shape == (11, 4)


def test_pixel_shuffle_goes_by_blocks() -> None:
    torch.manual_seed(1)
    module, x = nn.Sequential(conv(3, 16), nn.PixelShuffle(2), conv(4, 2)), image()
    result = pruned_at_random(module, x)
    kept = list(result.plan.groups[0].keep[0])
    assert result.plan.groups[0].width == 4
    assert torch.equal(result.model[0].weight, module[0].weight[[4 * c + i for c in kept for i in range(4)]])
    assert torch.equal(result.model[2].weight, module[2].weight[:, kept])


def test_rms_norm_is_taken_over_what_is_kept() -> None:
    torch.manual_seed(1)
    module, x = nn.Sequential(nn.Linear(3, 8), nn.RMSNorm(8, eps=1e-6), nn.Linear(8, 2)), torch.randn(4, 3)
    result = pruned_at_random(module, x)
    kept = kept_rows(result, "0.weight")
    y = module[0](x)[:, kept]
    y = y / (y.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt() * module[1].weight[kept]
    assert_same(y @ module[2].weight[:, kept].T + module[2].bias, result.model(x))
    assert result.model[1].normalized_shape == (4,)


def test_lstm_loses_hidden_units_in_every_gate() -> None:
    torch.manual_seed(1)
    module, x = examples_linear.lstm()
    result = pruned_at_random(module, x)
    kept = next(list(g.keep[0]) for g in result.plan.groups if g.size == 8)
    rows = [gate * 8 + i for gate in range(4) for i in kept]
    assert torch.equal(result.model.lstm.weight_hh_l0, module.lstm.weight_hh_l0[rows][:, kept])
    assert result.model.lstm.hidden_size == 4
    assert torch.equal(result.model.out.weight, module.out.weight[:, kept])


def test_shared_constants_of_disagreeing_norms_are_copied() -> None:
    """They agree in the original; afterwards the model is valid and each norm has its own channels."""
    model = examples_onnx.shared_constants()
    graph = gp.couple(model_graph(model))
    groups = [g.components[0] for g in graph]
    keep = np.ones(graph.count, bool)
    keep[groups[0][:3]] = keep[groups[1][5:]] = False
    from graphprune.passes.remove_channels import remove_channels

    pruned = gp.emit(remove_channels(graph, keep))
    onnx.checker.check_model(pruned, full_check=True)
    weights = {w.name: numpy_helper.to_array(w) for w in pruned.graph.initializer}
    before = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}
    first, second = (n for n in pruned.graph.node if n.op_type == "BatchNormalization")
    for slot, name in enumerate(("scale", "shift", "mean", "var"), 1):
        assert np.array_equal(weights[first.input[slot]], before[name][3:])
        assert np.array_equal(weights[second.input[slot]], before[name][:5])


def test_shared_constants_of_agreeing_norms_stay_one() -> None:
    model = examples_onnx.shared_constants()
    graph = gp.couple(model_graph(model))
    keep = np.ones(graph.count, bool)
    for group in graph:
        keep[group.components[0][[1, 4]]] = False
    from graphprune.passes.remove_channels import remove_channels

    pruned = gp.emit(remove_channels(graph, keep))
    assert sorted(w.name for w in pruned.graph.initializer) == sorted(w.name for w in model.graph.initializer)


def model_graph(model: onnx.ModelProto) -> Any:
    from graphprune import frontends

    return frontends.frontend("onnx").from_model(model)


@pytest.mark.parametrize("ratio", [0.3, 0.6])
def test_counts_are_met(ratio: float) -> None:
    """`channels` rounds to the nearest count and never to none."""
    module = nn.Sequential(conv(3, 10), nn.ReLU(), conv(10, 2))
    result = pruned_at_random(Net(lambda m, x: m.inner(x), inner=module), image(), ratio)
    assert result.model.inner[0].out_channels == round(ratio * 10)
