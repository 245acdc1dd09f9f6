"""What kind of thing a group is made of, and that only what engineers expect goes without being asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from typer.testing import CliRunner

import graphprune as gp
from graphprune.cli import app
from graphprune.errors import InputError
from graphprune.ir.graph import Graph
from tests.helpers import graph_of

Tensor = torch.Tensor
ROWS, WIDTH = 24, 16


class Codebook(nn.Module):
    """A vector quantiser: the nearest of some learned rows takes the place of what it is near to."""

    def __init__(self, take: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(6, WIDTH), nn.Linear(WIDTH, 3)
        self.book, self._take = nn.Parameter(torch.randn(ROWS, WIDTH)), take

    def forward(self, x: Tensor) -> Tensor:
        z = self.enc(x)
        far = (z**2).sum(-1, keepdim=True) + (self.book**2).sum(-1) - 2 * z @ self.book.t()
        return self.dec(self._take(far.argmin(-1), self.book))


def _written(ids: Tensor, book: Tensor) -> Tensor:
    return torch.zeros(*ids.shape, ROWS).scatter(-1, ids.unsqueeze(-1), 1.0) @ book


class Perceiver(nn.Module):
    """Learned latents look at a sequence, with or without a projection, then a layer is applied to each."""

    def __init__(self, *, projected: bool) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(6, WIDTH))
        self.q = nn.Linear(WIDTH, WIDTH) if projected else nn.Identity()
        self.k, self.v = nn.Linear(8, WIDTH), nn.Linear(8, WIDTH)
        self.up, self.down, self.head = nn.Linear(WIDTH, 32), nn.Linear(32, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.softmax(self.q(self.latents) @ self.k(x).transpose(1, 2) / 4, -1) @ self.v(x)
        return self.head((y + self.down(functional.gelu(self.up(y)))).mean(1))


class Registers(nn.Module):
    """Learned tokens in front of a sequence, with attention over both."""

    def __init__(self) -> None:
        super().__init__()
        self.registers, self.embed = nn.Parameter(torch.randn(4, WIDTH)), nn.Linear(8, WIDTH)
        self.qkv, self.out, self.head = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.cat([self.registers.expand(x.shape[0], -1, -1), self.embed(x)], 1)
        q, k, v = (t.reshape(*t.shape[:2], 2, 8).transpose(1, 2) for t in self.qkv(h).chunk(3, -1))
        y = torch.softmax(q @ k.transpose(-1, -2), -1) @ v
        return self.head((h + self.out(y.transpose(1, 2).reshape(h.shape)))[:, 4:].mean(1))


class Mixture(nn.Module):
    """Experts as stacked matrices, by gates: all of them, or the best two."""

    def __init__(self, *, best: bool) -> None:
        super().__init__()
        self.router, self.head, self.best = nn.Linear(8, 5), nn.Linear(8, 3), best
        self.up, self.down = nn.Parameter(torch.randn(5, 8, 12)), nn.Parameter(torch.randn(5, 12, 8))

    def forward(self, x: Tensor) -> Tensor:
        gates = self.router(x).softmax(-1)
        if self.best:
            share, ids = gates.topk(2, -1)
            gates = torch.zeros(x.shape[0], 5).scatter(-1, ids, share)
        h = functional.relu(torch.einsum("bi,eio->beo", x, self.up))
        return self.head(torch.einsum("be,bei->bi", gates, torch.einsum("beo,eoi->bei", h, self.down)))


class SoftLoop(nn.Module):
    """Experts as layers in a list, all weighed."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.head = nn.Linear(8, 4), nn.Linear(8, 3)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        gates = self.router(x).softmax(-1)
        y = torch.zeros_like(x)
        for i, expert in enumerate(self.experts):
            y = y + gates[:, i : i + 1] * expert(x)
        return self.head(y)


class PointTransform(nn.Module):
    """Two predicted matrices: one turns the input's coordinates, one its features."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.turn, self.conv = nn.Conv1d(3, 16, 1), nn.Linear(16, 9), nn.Conv1d(3, 24, 1)
        self.mix, self.last, self.head = nn.Linear(24, 24 * 24), nn.Conv1d(24, 32, 1), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        turn = self.turn(functional.relu(self.first(x)).amax(2)).view(-1, 3, 3) + torch.eye(3)
        h = functional.relu(self.conv(torch.bmm(x.transpose(1, 2), turn).transpose(1, 2)))
        h = torch.bmm(h.transpose(1, 2), self.mix(h.amax(2)).view(-1, 24, 24)).transpose(1, 2)
        return self.head(functional.relu(self.last(h)).amax(2))


class Mixer(nn.Module):
    """Layers along positions and along channels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(8, WIDTH), nn.Linear(WIDTH, 3)
        self.along = nn.Sequential(nn.Linear(10, 20), nn.GELU(), nn.Linear(20, 10))
        self.across = nn.Sequential(nn.Linear(WIDTH, 32), nn.GELU(), nn.Linear(32, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        h = h + self.along(h.transpose(1, 2)).transpose(1, 2)
        return self.head((h + self.across(h)).mean(1))


class Sparse(nn.Module):
    """A sparse autoencoder: the four largest of its neurons are left."""

    def __init__(self) -> None:
        super().__init__()
        self.enc, self.dec = nn.Linear(8, 40), nn.Linear(40, 8)

    def forward(self, x: Tensor) -> Tensor:
        h = self.enc(x)
        largest, ids = h.topk(4, -1)
        return self.dec(torch.zeros_like(h).scatter(-1, ids, largest))


class ByPlaces(nn.Module):
    """A small network tells from constant places what to add: its layers are layers, though no input meets them."""

    def __init__(self) -> None:
        super().__init__()
        self.places: Tensor
        self.register_buffer("places", torch.randn(7, 2))
        self.first, self.last, self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(2, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x) + self.down(torch.relu(self.up(self.places))))


class Neighbours(nn.Module):
    """A graph network: each node gets the mean of its neighbours, counted by writing ones to their places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 24), nn.Linear(24, 32), nn.Linear(32, 3)

    def _mean(self, x: Tensor, edges: Tensor) -> Tensor:
        source, target = edges[0], edges[1]
        count = torch.zeros(len(x)).index_add(0, target, torch.ones(len(target))) + 1
        return torch.zeros_like(x).index_add(0, target, x[source]) / count[:, None]

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.last(self._mean(self.second(torch.relu(self._mean(self.first(x), edges))), edges))


#: Model, shape of the input, the sizes of the groups of each role.
class NormedHeads(nn.Module):
    """Attention whose heads are taken apart: each has a norm of its own for queries and keys."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.norms = nn.ModuleList(nn.LayerNorm(4) for _ in range(8))

    def _normed(self, x: Tensor, norms: nn.ModuleList) -> Tensor:
        heads = self._heads(x).split(1, 1)
        return torch.cat([norm(head) for norm, head in zip(norms, heads, strict=True)], 1)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (-1, 4)).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k = self._normed(self.q(x), self.norms[:4]), self._normed(self.k(x), self.norms[4:])
        mixed = functional.scaled_dot_product_attention(q, k, self._heads(self.v(x)))
        return self.out(mixed.transpose(1, 2).flatten(2))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], dict[str, list[int]]]] = {
    "codebook": (lambda: Codebook(lambda ids, book: book[ids]), (5, 6), {"table-rows": [ROWS]}),
    "codebook by one-hot": (
        lambda: Codebook(lambda ids, book: functional.one_hot(ids, ROWS).float() @ book),
        (5, 6),
        {"table-rows": [ROWS]},
    ),
    "codebook by what is written": (lambda: Codebook(_written), (5, 6), {"table-rows": [ROWS]}),
    "latents": (lambda: Perceiver(projected=True), (2, 7, 8), {"tokens": [6], "neurons": [32]}),
    "latents as queries": (lambda: Perceiver(projected=False), (2, 7, 8), {"tokens": [6], "neurons": [32]}),
    "registers": (Registers, (2, 7, 8), {"tokens": [4], "heads": [2], "channels": [16]}),
    "experts": (lambda: Mixture(best=True), (4, 8), {"experts": [5]}),
    "soft experts": (lambda: Mixture(best=False), (4, 8), {"soft-experts": [5]}),
    "soft experts in a loop": (SoftLoop, (4, 8), {"soft-experts": [4]}),
    "heads with norms of their own": (NormedHeads, (2, 7, 16), {"heads": [4]}),
    "coordinates": (PointTransform, (2, 3, 11), {"coordinates": [3], "channels": [16, 24, 32]}),
    "mixer": (Mixer, (2, 10, 8), {"neurons": [20, 32], "channels": [16]}),
    "sparse autoencoder": (Sparse, (4, 8), {"neurons": [40]}),
}
OTHERS = {"soft-experts", "tokens", "table-rows", "coordinates"}


def _made(name: str) -> tuple[nn.Module, Tensor, dict[str, list[int]]]:
    torch.manual_seed(0)
    make, shape, roles = MODELS[name]
    return make().eval(), torch.randn(shape), roles


def test_layers_on_constants_are_layers() -> None:
    """(In an ONNX file the exporter has computed what they make.)"""
    _assert_roles(graph_of(ByPlaces().eval(), torch.randn(2, 7, 4)), {"neurons": [8, 12]})


def test_counts_that_channels_are_divided_by_pick_none_of_them() -> None:
    example = (torch.randn(5, 6), torch.randint(0, 5, (2, 12)))
    groups = gp.couple(graph_of(Neighbours().eval(), example))
    assert sorted(group.size for group in groups if group.role in ("channels", "neurons")) == [24, 32]


def _exported(model: nn.Module, x: Tensor) -> Graph:
    program = torch.onnx.export(model, (x,), dynamo=True, verbose=False)
    assert program is not None
    return graph_of(program.model_proto)


def _assert_roles(graph: Graph, roles: dict[str, list[int]]) -> None:
    found: dict[str, list[int]] = {}
    for group in gp.couple(graph):
        found.setdefault(group.role, []).append(group.size)
    assert {role: sorted(found.get(role, [])) for role in {*roles, *OTHERS}} == {
        role: roles.get(role, []) for role in {*roles, *OTHERS}
    }


@pytest.mark.parametrize("name", MODELS)
def test_roles_from_pytorch(name: str) -> None:
    model, x, roles = _made(name)
    _assert_roles(graph_of(model, x), roles)


@pytest.mark.parametrize("name", MODELS)
def test_roles_from_onnx(name: str) -> None:
    model, x, roles = _made(name)
    _assert_roles(_exported(model, x), roles)


@pytest.mark.parametrize("name", [name for name, (_, _, roles) in MODELS.items() if OTHERS & roles.keys()])
def test_other_roles_go_on_request(name: str) -> None:
    """They stay, the report says what to write, and with that they go and the result is proven."""
    model, x, roles = _made(name)
    role = next(iter(OTHERS & roles.keys()))
    report = gp.prune(model, x, target="channels=0.5").report
    left = [row for row in report.groups if row.role == role]
    assert left and all(row.kept == row.size for row in left)
    assert {row.reason for row in left} == {f"role {role} goes on request: --roles {role}"}
    assert f"goes on request: --roles {role}" in " ".join(str(report).split())
    asked = gp.prune(model, x, target="channels=0.5", roles=[role]).report
    assert asked.proof is not None and asked.proof.passed
    assert {row.role for row in asked.groups if row.kept < row.size} == {role}


def test_an_axis_asked_for_by_name_goes() -> None:
    model, x, _ = _made("registers")
    plan = gp.plan(graph_of(model, x), "channels=0.5", include=["registers[0]"])
    assert [group.name for group in plan.groups if group.kept < group.size] == ["registers[0]"]


@pytest.mark.parametrize("name", ["Heads", "head", "neurons", "ALL"])
def test_roles_are_named_in_any_case_and_number(name: str) -> None:
    model, x, _ = _made("registers")
    assert gp.plan(graph_of(model, x), "channels=0.5", roles=["heads", name])


def test_a_role_that_is_unknown() -> None:
    model, x, _ = _made("mixer")
    with pytest.raises(InputError, match="unknown role 'chanels', did you mean 'channels'"):
        gp.plan(graph_of(model, x), "channels=0.5", roles=["chanels"])


def test_nothing_of_the_roles_asked_for() -> None:
    model, x, _ = _made("sparse autoencoder")
    with pytest.raises(InputError, match="no coupled group is one of heads; .*--roles neurons"):
        gp.plan(graph_of(model, x), "channels=0.5", roles=["heads"])


def test_roles_on_the_command_line(tmp_path: Path) -> None:
    model, x, _ = _made("registers")
    file, out = tmp_path / "model.onnx", tmp_path / "small.onnx"
    gp.save(_exported(model, x), file)
    options = ["--target", "channels=0.5", "--roles", "heads,tokens", "--json"]
    done = CliRunner().invoke(app, ["prune", str(file), "-o", str(out), *options])
    rows: list[dict[str, Any]] = json.loads(done.stdout)["groups"]
    assert {row["role"] for row in rows if row["kept"] < row["size"]} == {"heads", "tokens"}
    shown = CliRunner().invoke(app, ["inspect", str(file)]).stdout
    assert "role tokens goes on request" in " ".join(shown.split())


def test_roles_in_a_pipeline() -> None:
    model, x, _ = _made("registers")
    graph = graph_of(model, x)
    pruned, _ = gp.optimize(graph, "remove-channels{channels=0.5 roles=tokens}", verify_each=True)
    assert pruned.weights()["registers"].shape == (2, WIDTH) and pruned.weights()["embed.weight"].shape == (WIDTH, 8)


class Told(nn.Module):
    """Outputs that are statistics over channels, and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = functional.relu(self.a(x))
        return self.head(functional.relu(self.b(h)).mean((2, 3))), h.sum(1).sigmoid()


def test_outputs_that_are_statistics_over_what_goes() -> None:
    """Their values change: the report says so, and their group is not exact; the other group is."""
    torch.manual_seed(0)
    report = gp.prune(Told(), torch.randn(2, 3, 8, 8), target="channels=0.5").report
    assert [row.exact for row in report.groups] == [False, True]
    said = [note for note in report.notes if "its value changes" in note]
    assert len(said) == 1 and "is a sum over channels (a.weight[0])" in said[0]
