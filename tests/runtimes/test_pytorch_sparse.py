"""Which layers run torch's 2:4 kernels; the kernels themselves are stood in for, as they need a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from graphprune.errors import BackendError, InputError
from graphprune.runtimes import pytorch_sparse
from graphprune.runtimes.pytorch_sparse import Kernels, is_2_4, semi_structured


class _Packed:
    """Packs weights as themselves, and records what it was given."""

    def __init__(self) -> None:
        self.rows: list[int | None] = []
        self.kernels = Kernels("fake", {torch.float32: (16, 16), torch.float16: (16, 16)}, self._pack)

    def _pack(self, weight: torch.Tensor, rows: int | None) -> torch.Tensor:
        self.rows.append(rows)
        return 2 * weight


def _sparse(layer: nn.Linear) -> nn.Linear:
    with torch.no_grad():
        layer.weight.mul_(torch.tensor([1, 0, 0, 1]).repeat(layer.in_features // 4))
    return layer


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.good = _sparse(nn.Linear(32, 16))
        self.dense = nn.Linear(32, 16)
        self.odd = _sparse(nn.Linear(32, 8))
        self.double = _sparse(nn.Linear(32, 16)).double()
        self.conv = nn.Conv2d(4, 4, 1)
        self.attention = nn.MultiheadAttention(32, 2)
        self.encoder = nn.TransformerEncoderLayer(32, 2, 32)
        self.computed = nn.utils.parametrizations.weight_norm(nn.Linear(32, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.good(x) + self.dense(x)
        return result


def test_what_is_replaced_and_why_the_rest_is_not() -> None:
    net, fake = _Net(), _Packed()
    found = semi_structured(net, use=fake.kernels, rows=5)
    assert found.replaced == ("good",)
    assert fake.rows == [5]
    left = dict(found.left)
    assert left["dense"] == "its weight is not 2:4"
    assert left["odd"] == "its weight is 8x32, the kernels want multiples of 16x16"
    assert left["double"] == "its weight is float64, the kernels take float32, float16"
    assert left["conv"] == "torch has 2:4 kernels for linear layers only"
    assert left["attention.out_proj"] == "nn.MultiheadAttention reads its weight past the layer"
    assert left["encoder.linear1"] == "nn.TransformerEncoderLayer reads its weight past the layer"
    assert "parametrization" in left["computed"] or "forward of its own" in left["computed"]
    assert found.note().startswith("1 linear layers run 2:4 kernels (fake); 9 stay dense: 'dense' (its weight is not")
    assert "and 6 more" in found.note()


def test_the_dense_module_stays_and_shares_its_tensors() -> None:
    net = _Net().requires_grad_(False)
    before = net.good.weight
    twin = semi_structured(net, use=_Packed().kernels).module
    assert isinstance(twin, _Net)
    assert net.good.weight is before
    assert twin.dense.weight is net.dense.weight
    x = torch.ones(2, 32)
    torch.testing.assert_close(twin(x), net(x) + torch.nn.functional.linear(x, before))


def test_weights_of_a_captured_graph_are_found() -> None:
    net = nn.Sequential(_sparse(nn.Linear(32, 16)), nn.ReLU(), nn.Linear(16, 16))
    graph = torch.export.export(net, (torch.ones(2, 32),)).module()
    found = semi_structured(graph, use=_Packed().kernels)
    assert found.replaced == ("0.weight",)
    assert dict(found.left) == {"2.weight": "its weight is not 2:4"}
    x = torch.ones(2, 32)
    twice = nn.functional.linear(x, 2 * net[0].weight, net[0].bias)
    torch.testing.assert_close(found.module(x), net[2](net[1](twice)))


def test_a_weight_that_something_else_reads_stays_dense() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = _sparse(nn.Linear(32, 32))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.layer(x) @ self.layer.weight
            return y

    graph = torch.export.export(Tied(), (torch.ones(2, 32),)).module()
    assert dict(semi_structured(graph, use=_Packed().kernels).left) == {
        "layer.weight": "something else reads its weight too"
    }


@pytest.mark.parametrize(
    ("rows", "met"),
    [([1, 1, 0, 0, 0, 2, 0, 3], True), ([1, 0, 1, 1, 0, 0, 0, 0], False), ([0, 0, 1, 1, 1, 1, 0], False)],
)
def test_the_pattern_is_checked_in_fours(rows: list[float], met: bool) -> None:
    assert is_2_4(torch.tensor([rows])) is met


def test_limits_are_those_of_the_installed_torch() -> None:
    assert pytorch_sparse.limits("cusparselt")[torch.float16] == (16, 16)
    assert torch.float32 not in pytorch_sparse.limits("cusparselt")
    assert pytorch_sparse.limits("cutlass")[torch.float16] == (32, 64)


def test_without_a_gpu_it_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(BackendError, match=r"2:4 kernels \(cusparselt\) cannot be used here: they need an NVIDIA GPU"):
        semi_structured(nn.Linear(16, 16))
    with pytest.raises(InputError, match="no 2:4 kernels 'magic'; there are cusparselt, cutlass"):
        pytorch_sparse.kernels("magic")


def test_an_old_gpu_or_a_build_without_cusparselt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    with pytest.raises(BackendError, match=r"8.0 \(Ampere\) or later; Tesla T4 has 7.5"):
        pytorch_sparse.kernels("cutlass")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    with pytest.raises(BackendError, match="built without cuSPARSELt; use cutlass"):
        pytorch_sparse.kernels()
    assert pytorch_sparse.kernels("cutlass").limits[torch.float16] == (32, 64)


def test_packing_asks_cusparselt_for_rows_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The calls into torch, with its CUDA operators stood in for."""
    tensor = torch.sparse.SparseSemiStructuredTensor
    asked: list[object] = []

    def from_dense(weight: torch.Tensor) -> torch.Tensor:
        asked.append(tensor._FUSE_TRANSPOSE)
        return weight.clone()

    monkeypatch.setattr(torch.sparse.SparseSemiStructuredTensorCUSPARSELT, "from_dense", from_dense)
    monkeypatch.setattr(torch, "_cslt_compress", lambda weight: weight)

    def search(weight: torch.Tensor, x: torch.Tensor, transpose_result: bool) -> int:
        asked.append((is_2_4(weight), tuple(x.t().shape), transpose_result))
        return 7

    monkeypatch.setattr(torch, "_cslt_sparse_mm_search", search)
    weight = torch.zeros(16, 32)
    pytorch_sparse._pack_cusparselt(weight, None)
    packed: list[Any] = [pytorch_sparse._pack_cusparselt(weight, rows) for rows in (13, 16)]
    assert [tensor.alg_id_cusparselt for tensor in packed] == [7, 7]
    assert asked == [True, True, (True, (16, 32), True), True]
    assert tensor._FUSE_TRANSPOSE is False
