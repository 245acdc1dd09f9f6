"""Every criterion against a computation that knows this one network and nothing of the coupling."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from graphprune.coupling import Coupling, couple
from graphprune.errors import InputError
from graphprune.ops.base import Array
from graphprune.pruning.criteria import magnitude
from tests.helpers import graph_of, weight
from tests.ops.examples_onnx import model, node, normal
from tests.ops.registry import conv, image, stirred

CHANNELS, GROUPS = 8, 4
Network = tuple[Coupling, dict[str, Array]]


@pytest.fixture(scope="module")
def network() -> Network:
    """conv, batch norm, and a grouped convolution that reads the channels two by two."""
    torch.manual_seed(0)
    module = nn.Sequential(conv(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 4, groups=4), conv(4, 2))
    weights = {k: v.detach().double().numpy() for k, v in stirred(module).state_dict().items()}
    return couple(graph_of(module, image())), weights


def pieces(w: dict[str, Array], channel: int) -> list[Array]:
    """Everything that hangs on one channel, weight axis by weight axis."""
    group, column = divmod(channel, CHANNELS // GROUPS)
    columns = w["3.weight"][group : group + 1, column]
    return [w["0.weight"][channel], w["0.bias"][channel], w["1.weight"][channel], w["1.bias"][channel], columns]


def first_group(coupling: Coupling, scores: Array) -> Array:
    """Scores in the order of the channels."""
    return scores[coupling.groups[0].components.reshape(-1)]


def lamp(w: dict[str, Array]) -> Array:
    squares = np.array([sum(float((p**2).sum()) for p in pieces(w, c)) for c in range(CHANNELS)])
    return np.array([s / squares[squares >= s].sum() for s in squares])


def fpgm(w: dict[str, Array]) -> Array:
    flat = w["0.weight"].reshape(CHANNELS, -1)
    return np.array([sum(np.linalg.norm(f - g) for g in flat) for f in flat])


ORACLES: dict[str, Callable[[dict[str, Array]], Array]] = {
    "l1": lambda w: np.array([sum(float(np.abs(p).sum()) for p in pieces(w, c)) for c in range(CHANNELS)]),
    "l2": lambda w: np.array([np.sqrt(sum(float((p**2).sum()) for p in pieces(w, c))) for c in range(CHANNELS)]),
    "bn-scale": lambda w: np.abs(w["1.weight"]),
    "fpgm": fpgm,
    "lamp": lamp,
    "random": lambda w: np.array([]),
}


def test_every_criterion_has_an_oracle() -> None:
    assert set(ORACLES) == set(magnitude.CRITERIA)


@pytest.mark.parametrize("name", sorted(ORACLES.keys() - {"random"}))
def test_criterion(name: str, network: Network) -> None:
    coupling, weights = network
    scores = first_group(coupling, magnitude.score(coupling, name, normalization="none"))
    np.testing.assert_allclose(scores, ORACLES[name](weights), rtol=1e-5)


@pytest.mark.parametrize(("reduction", "join"), [("sum", np.sum), ("mean", np.mean), ("max", np.max)])
def test_reduction(reduction: str, join: Callable[[list[float]], float], network: Network) -> None:
    coupling, w = network
    expected = [join([float(np.abs(p).sum()) for p in pieces(w, c)]) for c in range(CHANNELS)]
    found = first_group(coupling, magnitude.score(coupling, "l1", reduction=reduction, normalization="none"))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(("how", "scale"), [("mean", np.mean), ("max", np.max), ("sum", np.sum)])
def test_normalization(how: str, scale: Callable[[Array], float], network: Network) -> None:
    coupling, _ = network
    plain = magnitude.score(coupling, "l2", normalization="none")
    found = magnitude.score(coupling, "l2", normalization=how)
    for group in coupling:
        own = plain[group.components]
        np.testing.assert_allclose(found[group.components], own / scale(own))


def test_random_follows_its_seed(network: Network) -> None:
    coupling, _ = network
    first, again, other = (magnitude.score(coupling, "random", seed=s) for s in (1, 1, 2))
    assert (first == again).all() and (first != other).any()


def test_a_group_without_a_norm_falls_back_to_l2() -> None:
    module = nn.Sequential(conv(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 4), conv(4, 2))
    coupling = couple(graph_of(module, image()))
    second = coupling.groups[1].components
    scores = magnitude.score(coupling, "bn-scale", normalization="none")
    np.testing.assert_allclose(scores[second], magnitude.score(coupling, "l2", normalization="none")[second])


def test_a_tied_weight_counts_once() -> None:
    """A table used twice scores as if used once."""
    torch.manual_seed(0)
    table = nn.Linear(6, 6, bias=False)
    module = nn.Sequential(nn.Linear(3, 6, bias=False), table, nn.ReLU(), table, nn.Linear(6, 2))
    graph = graph_of(module, torch.randn(4, 3))
    coupling = couple(graph)
    first, shared, last = (np.abs(weight(graph, n)) for n in ("0.weight", "1.weight", "4.weight"))
    expected = first.sum(1) + shared.sum(0) + shared.sum(1) + last.sum(0)
    found = magnitude.score(coupling, "l1", normalization="none")[coupling.groups[0].components[0]]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "taylor"}, "unknown criterion 'taylor'; known are bn-scale, fpgm, l1, l2, lamp, random"),
        ({"reduction": "prod"}, "unknown reduction 'prod'; known are max, mean, sum"),
        ({"normalization": "std"}, "unknown normalization 'std'; known are max, mean, none, sum"),
    ],
)
def test_unknown_names(options: dict[str, str], message: str, network: Network) -> None:
    with pytest.raises(InputError, match=message):
        magnitude.score(network[0], **options)


def test_network_slimming_needs_a_norm() -> None:
    coupling = couple(graph_of(nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 2)), torch.randn(4, 3)))
    with pytest.raises(InputError, match="needs normalization layers with a scale"):
        magnitude.score(coupling, "bn-scale")


@pytest.mark.parametrize("name", ["l1", "l2"])
def test_a_large_weight_is_scored_part_by_part(network: Network, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = magnitude.score(network[0], name)
    monkeypatch.setattr(magnitude, "_PART", 7)
    np.testing.assert_allclose(magnitude.score(network[0], name), whole, rtol=1e-6)


@pytest.mark.parametrize("nothing", [-np.inf, np.finfo(np.float32).min])
@pytest.mark.parametrize("name", ["l1", "l2"])
def test_a_mask_in_a_table_weighs_nothing(nothing: float, name: str) -> None:
    """A bias for each head with the causal mask in it, as exporters fold ALiBi: a weight as far as the file says."""

    def scores(hidden: float) -> Array:
        table = np.where(np.tril(np.ones((3, 3))) > 0, normal(4, 1, 1), hidden).astype(np.float32)
        nodes = [
            node("MatMul", "x w", "q"),
            node("Reshape", "q split", "r"),
            node("Transpose", "r", "h", perm=[1, 0, 2]),
            node("MatMul", "h k", "s"),
            node("Add", "s table", "m"),
            node("Softmax", "m", "p", axis=-1),
            node("ReduceSum", "p zero", "y", keepdims=0),
        ]
        weights = {"w": normal(5, 8), "split": [3, 4, 2], "k": normal(4, 2, 3), "table": table, "zero": [0]}
        return magnitude.score(couple(graph_of(model(nodes, weights, [3, 5], [3, 3]))), name, normalization="none")

    np.testing.assert_allclose(scores(nothing), scores(0.0))
