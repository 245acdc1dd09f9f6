"""Pipelines: their text, their order, their checks and their failures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import onnx
import pytest
import torch
from onnx import helper
from torch import nn

from graphprune import api
from graphprune.cli import run
from graphprune.errors import InputError, PassError, TargetError, VerificationError
from graphprune.frontends import onnx as onnx_frontend
from graphprune.ir.graph import Graph, Weight
from graphprune.passes.base import Pass, find
from graphprune.passes.cleanup import Cleanup
from graphprune.passes.fold_batchnorm import FoldBatchnorm
from graphprune.passes.pipeline import PassManager, parse_pipeline, run_pipeline
from graphprune.passes.remove_channels import RemoveChannels
from tests.passes.small import dump, kinds, norm, norm_weights, onnx_graph, rand, torch_graph


def conv_net() -> Graph:
    """conv, norm, relu, identity, conv."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"]),
        norm("a", "b"),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Identity", ["c"], ["d"]),
        helper.make_node("Conv", ["d", "v"], ["y"]),
    ]
    weights = {"w": rand(8, 3, 1, 1), "v": rand(4, 8, 1, 1), **norm_weights(8)}
    return onnx_graph(nodes, ["n", 3, 5, 5], ["n", 4, 5, 5], weights)


def test_a_pipeline_of_typed_options() -> None:
    options = 'macs=0.5 criterion=l1 align=4 include=a.*,"b c" seed=7'
    text = f" fold-batchnorm , remove-channels{{{options}}},cleanup{{rounds=2}},cleanup{{}}"
    assert parse_pipeline(text) == [
        FoldBatchnorm(),
        RemoveChannels(macs=0.5, criterion="l1", align=4, include=("a.*", "b c"), seed=7),
        Cleanup(rounds=2),
        Cleanup(),
    ]


@dataclass(frozen=True)
class Typed(Pass):
    """An option of every type."""

    name: ClassVar[str] = "typed"
    needed: int
    flag: bool = False
    words: tuple[str, ...] = ()

    def run(self, graph: Graph) -> Graph:
        """Nothing."""
        return graph


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(find.__globals__["_PASSES"], "typed", Typed)


@pytest.mark.usefixtures("typed")
def test_every_type_is_read_from_its_annotation() -> None:
    assert parse_pipeline("typed{needed=-3 flag=true words=a}") == [Typed(-3, True, ("a",))]
    assert parse_pipeline("typed{flag=False needed=2 words=a,b}") == [Typed(2, False, ("a", "b"))]


@pytest.mark.usefixtures("typed")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the name of a pass at position 0, found nothing"),
        ("cleanup,", "expected the name of a pass at position 8, found nothing"),
        ("cleanup,,cleanup", "position 8, found ',cleanup'"),
        ("cleanup cleanup", "expected ',' after 'cleanup', found 'cleanup'"),
        ("cleanup{rounds=2", "the '{' after 'cleanup' is not closed"),
        ("frobnicate", "unknown pass 'frobnicate'; known are cast-precision, cleanup, fold-batchnorm"),
        ("cleanup{speed=2}", "pass 'cleanup' has no option 'speed'; its options are rounds"),
        ("fold-batchnorm{a=1}", "pass 'fold-batchnorm' has no option 'a'; it has no options"),
        ("cleanup{rounds=2 rounds=3}", "option 'rounds' is given twice"),
        ("cleanup{rounds}", "pass 'cleanup': expected option=value (options are separated by spaces), found 'rounds'"),
        ("cleanup{rounds=two}", "pass 'cleanup': option 'rounds' must be a whole number, not 'two'"),
        ("remove-channels{macs=half}", "option 'macs' must be a number, not 'half'"),
        ("typed{needed=1 flag=maybe}", "option 'flag' must be true or false, not 'maybe'"),
        ("typed", "pass 'typed' needs the option 'needed'"),
        ("remove-channels", "needs at least one of channels, params, macs"),
        ("remove-channels{macs=1.5}", "macs=1.5: the ratio must be greater than 0 and at most 1"),
    ],
)
def test_bad_pipelines(text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        parse_pipeline(text)
    assert message in str(error.value)


def test_a_run_tells_times_and_changes_and_dumps() -> None:
    graph, seen = conv_net(), []
    was = dump(graph)
    manager = PassManager(
        parse_pipeline("cleanup,cleanup,fold-batchnorm"), dump=lambda g, p: seen.append((p.name, len(g.nodes)))
    )
    after = manager.run(graph)
    assert kinds(after) == ["conv", "relu", "conv"]
    assert seen == [("cleanup", 4), ("cleanup", 4), ("fold-batchnorm", 3)]
    assert [(t.name, t.changed) for t in manager.timings] == [
        ("cleanup", True),
        ("cleanup", False),
        ("fold-batchnorm", True),
    ]
    assert all(t.seconds >= 0 for t in manager.timings)
    assert dump(graph) == was


@dataclass(frozen=True)
class Doubles(Pass):
    """A pass that changes what the model computes."""

    name: ClassVar[str] = "doubles"

    def run(self, graph: Graph) -> Graph:
        """Double the last weight."""
        work = graph.copy()
        value = [*work.weights().values()][-1]
        assert value.weight is not None
        value.weight = Weight.of(value.weight.array() * 2)
        return work


@dataclass(frozen=True)
class Cuts(Pass):
    """A pass that leaves a value without a maker."""

    name: ClassVar[str] = "cuts"

    def run(self, graph: Graph) -> Graph:
        """Forget the first node."""
        work = graph.copy()
        del work.nodes[0]
        return work


@dataclass(frozen=True)
class Fails(Pass):
    """A pass with a bug."""

    name: ClassVar[str] = "fails"

    def run(self, graph: Graph) -> Graph:
        """Divide by zero."""
        raise ZeroDivisionError("division by zero")


def test_a_pass_that_breaks_the_graph_is_named_with_those_before_it() -> None:
    with pytest.raises(
        PassError, match=r"pass 'cuts' broke the graph \(after cleanup, fold-batchnorm\): .*which nothing"
    ):
        run_pipeline(conv_net(), [Cleanup(), FoldBatchnorm(), Cuts()])
    with pytest.raises(
        PassError, match=r"pass 'fails' broke the graph \(the first pass\): ZeroDivisionError: division"
    ):
        run_pipeline(conv_net(), [Fails()])


def torch_net() -> Graph:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Dropout(), nn.ReLU(), nn.Conv2d(8, 4, 1))
    return torch_graph(net, torch.randn(2, 3, 5, 5))


@pytest.mark.parametrize("make", [conv_net, torch_net])
def test_verify_each_names_the_pass_that_changes_results(make: type[Graph], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(find.__globals__["_PASSES"], "doubles", Doubles)
    graph = make()
    api.optimize(graph, "cleanup,doubles")
    with pytest.raises(
        PassError, match=r"pass 'doubles' broke the graph \(after cleanup\): the outputs differ by"
    ) as error:
        api.optimize(graph, "cleanup,doubles,fold-batchnorm", verify_each=True)
    assert isinstance(error.value, VerificationError)


@pytest.mark.parametrize("make", [conv_net, torch_net])
def test_the_whole_pipeline_verified(make: type[Graph]) -> None:
    graph = make()
    was = dump(graph)
    text = "fold-batchnorm,remove-channels{channels=0.5},cleanup"
    after, rows = api.optimize(graph, text, verify_each=True)
    assert [(r.name, r.changed) for r in rows] == [
        ("fold-batchnorm", True),
        ("remove-channels", True),
        ("cleanup", True),
    ]
    assert kinds(after) == ["conv", "relu", "conv"]
    assert [v.shape[:2] for v in after.weights().values() if v.rank > 1] == [(4, 3), (4, 4)]
    assert dump(graph) == was


def test_remove_channels_reports_what_it_cannot_do() -> None:
    graph = conv_net()
    with pytest.raises(InputError, match="pass 'remove-channels': 'nothing' matches no weight or node"):
        run_pipeline(graph, parse_pipeline("remove-channels{channels=0.5 include=nothing}"))
    with pytest.raises(TargetError, match="pass 'remove-channels': target macs=0.001 cannot be reached"):
        run_pipeline(graph, parse_pipeline("remove-channels{macs=0.001}"))
    step = RemoveChannels(channels=1.0)
    assert step.run(graph) is graph


def test_opt_writes_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = tmp_path / "a.onnx", tmp_path / "b.onnx"
    onnx.save(onnx_frontend.emit(conv_net()), source)
    passes = "fold-batchnorm,remove-channels{channels=0.5 criterion=l1},cleanup"
    assert run(["opt", str(source), "-o", str(target), "--passes", passes, "--verify-each"]) == 0
    written = onnx.load(target)
    onnx.checker.check_model(written, full_check=True)
    assert [n.op_type for n in written.graph.node] == ["Conv", "Relu", "Conv"]
    assert "remove-channels" in capsys.readouterr().out
    assert run(["opt", str(source), "-o", str(tmp_path / "c.onnx"), "--passes", "clean"]) == 2
    assert (
        "unknown pass 'clean', did you mean 'cleanup'?" in capsys.readouterr().err
        and not (tmp_path / "c.onnx").exists()
    )
