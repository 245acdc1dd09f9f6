"""remove-blocks as a pass: pipelines, proofs that do not rely on it, and the caller's own class without the layers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import graphprune as gp
from graphprune import frontends
from graphprune.cli import run
from graphprune.errors import PassError, VerificationError
from graphprune.frontends.torch import Emitted
from graphprune.ir.graph import Graph
from graphprune.passes import remove_blocks as pass_file
from graphprune.passes.remove_blocks import RemoveBlocks
from tests.depth import nets
from tests.ops.registry import Net

DIGITS = "models/digits_resnet.onnx"


def emitted(module: nn.Module, inputs: Any, pipeline: str) -> tuple[Graph, Emitted]:
    """The result of a verified pipeline; the module is in eval mode."""
    graph, _ = gp.optimize(gp.capture(module.eval(), inputs), pipeline, verify_each=True)
    return graph, frontends.emit(graph)


def assert_trains(module: nn.Module, x: Any) -> None:
    """Every parameter gets a gradient."""
    module.train()
    module(x).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.parameters())


def test_layers_leave_a_list_and_numbers_follow() -> None:
    module, x = nets.tower("pre", layers=4)
    _, result = emitted(module, x, "remove-blocks{names=layers.1}")
    small = result.module
    assert result.form == "module" and type(small) is nets.Tower
    assert result.reason == ("without layers.1; later names under layers moved up; config.num_hidden_layers: 4 -> 3")
    assert [layer.index for layer in small.layers] == [0, 1, 2]
    assert (small.config.num_hidden_layers, small.config.num_heads) == (3, 4)
    assert small.config.layer_types == ["full"] * 3
    assert module.config.num_hidden_layers == 4 and len(module.layers) == 4, "the caller's model was changed"
    before, after = module.state_dict(), small.state_dict()
    assert torch.equal(after["layers.1.up.weight"], before["layers.2.up.weight"])
    assert not any(name.startswith("layers.3") for name in after)
    fresh = nets.Tower("pre", layers=3).eval()
    fresh.load_state_dict(after)
    torch.testing.assert_close(fresh(x), small.eval()(x))
    assert_trains(small, x)


@pytest.mark.parametrize(
    ("form", "kind"), [("pre", "branch"), ("post", "block"), ("post", "branch"), ("parallel", "branch")]
)
def test_all_forms_keep_their_class(form: str, kind: str) -> None:
    """Where only a part of a layer goes, what computed it is replaced by zeros."""
    module, x = nets.tower(form)
    graph, result = emitted(module, x, f"remove-blocks{{count=2 kind={kind}}}")
    assert result.form == "module", result.reason
    assert sum(p.numel() for p in result.module.parameters()) == graph.parameter_count()
    assert_trains(result.module, torch.randn(3, 4, 5))


def test_a_sequence_loses_a_layer_or_gains_an_identity() -> None:
    module, x = nets.resnet()
    _, result = emitted(module, x, "remove-blocks{names=blocks.1}")
    assert (result.form, result.reason) == ("module", "without blocks.1; later names under blocks moved up")
    assert len(result.module.blocks) == 2
    module, x = nets.plain()
    _, result = emitted(module, x, "remove-blocks{names=3}")
    assert (result.form, result.reason) == ("module", "3 and 1 more replaced by an identity")
    assert list(result.module.state_dict()) == [n for n in module.state_dict() if not n.startswith("3.")]
    assert_trains(result.module, x)


def test_where_the_class_does_not_do_there_is_a_graph_module() -> None:
    """The layers' weights are read outside of them, and counted."""

    class Counted(nets.Tower):
        def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
            x = self.embed(x)
            for i in range(3):
                layer = self.layers[i]
                x = x + torch.tanh(x @ layer.up.weight.T) @ layer.down.weight.T
            return self.head(x)

    _, result = emitted(Counted("pre"), torch.randn(2, 4, 5), "remove-blocks{names=layers.1}")
    assert result.form == "graph" and result.reason.startswith("Counted as it stands does not do: ")
    assert not any(name.startswith("layers.1.") for name in result.module.state_dict())
    assert_trains(result.module, torch.randn(2, 4, 5))


def test_with_channels_in_one_pipeline() -> None:
    module, x = nets.resnet()
    graph, result = emitted(module, x, "remove-blocks{count=1},remove-channels{channels=0.5},cleanup")
    assert result.form == "module"
    assert graph.parameter_count() < 0.5 * sum(p.numel() for p in module.parameters())
    again = gp.prune(gp.optimize(gp.capture(module, x), "remove-blocks{count=1}")[0], target=gp.channels(0.5))
    assert again.report.output_form == "own class" and again.report.proof is not None and again.report.proof.passed
    assert_trains(again.model, x)


def test_folded_norms_become_identities_in_the_own_class() -> None:
    net = Net(lambda net, x: net.norm(net.conv(x)), conv=nn.Conv2d(3, 4, 1), norm=nn.BatchNorm2d(4))
    _, result = emitted(net, torch.randn(2, 3, 4, 4), "fold-batchnorm")
    assert (result.form, result.reason) == ("module", "norm replaced by an identity")


def test_auxiliary_heads_train_along() -> None:
    """What only training reads follows the layers that go."""

    class Helped(nets.Tower):
        def __init__(self) -> None:
            super().__init__("pre")
            self.helper = nn.Linear(nets.WIDTH, 2)

        def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> Any:
            x = self.embed(x)
            for layer in self.layers:
                x = layer(x)
            return (self.head(x), self.helper(x)) if self.training else self.head(x)

    graph = gp.capture(Helped().eval(), torch.randn(2, 4, 5))
    after, _ = gp.optimize(
        graph, "remove-blocks{names=layers.1},remove-channels{channels=0.5 include=*.up.*}", verify_each=True
    )
    assert after.training is not None and "helper.weight" in after.weights()
    assert not any(name.startswith("layers.1.") for name in after.weights())
    module = frontends.emit(after).module.train()
    assert [y.shape[-1] for y in module(torch.randn(2, 4, 5))] == [3, 2]


def test_the_proof_does_not_rely_on_the_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rewrite that takes out another block than the one chosen is caught."""
    honest = pass_file.remove_blocks

    def wrong(graph: Graph, blocks: Any) -> Graph:
        others = [b for b in gp.blocks(graph) if b.kind == blocks[0].kind and b.name != blocks[0].name]
        return honest(graph, others[:1])

    monkeypatch.setattr(pass_file, "remove_blocks", wrong)
    for kind in ("block", "branch"):
        for graph in (gp.capture(*nets.tower("post")), gp.load(DIGITS)):
            with pytest.raises(VerificationError, match="remove-blocks"):
                gp.optimize(graph, f"remove-blocks{{count=1 kind={kind}}}", verify_each=True)


def test_an_output_that_becomes_an_input() -> None:
    """All that a model computes goes: its output is its input, in both frameworks."""
    net = Net(lambda net, x: x + net.b(torch.tanh(net.a(x))), a=nn.Linear(4, 6), b=nn.Linear(6, 4))
    graph = gp.capture(net.eval(), torch.randn(2, 4))
    after, _ = gp.optimize(graph, "remove-blocks{count=1}", verify_each=True)
    x = torch.randn(2, 4)
    torch.testing.assert_close(gp.emit(after)(x), x)


def test_nothing_goes_where_all_is_kept() -> None:
    graph = gp.capture(*nets.tower("pre"))
    assert RemoveBlocks(keep=1.0).run(graph) is graph


def test_the_graph_given_stays_as_it_was() -> None:
    graph = gp.capture(*nets.tower("pre"))
    before = [(n.name, [v.name for v in n.reads()]) for n in graph.nodes]
    RemoveBlocks(count=2).run(graph)
    assert [(n.name, [v.name for v in n.reads()]) for n in graph.nodes] == before


def test_an_operator_that_writes_to_its_arguments_stays() -> None:
    """A counter that the branch moves on is state: the branch is no candidate."""

    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.count = nn.Linear(4, 4), nn.Buffer(torch.zeros(4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.tanh(self.a(x))
            self.count.add_(y.mean(0))
            return x + y

    with torch.no_grad():
        graph = gp.capture(Counting().eval(), torch.randn(2, 4))
    assert gp.blocks(graph) == []


def test_inspect_prints_blocks(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", DIGITS, "--blocks"]) == 0
    shown = capsys.readouterr().out
    assert "Removable blocks of" in shown and "blocks.0" in shown and "branch" in shown
    assert run(["inspect", DIGITS, "--blocks", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["format"] == "graphprune-blocks/1"
    rows = {(row["kind"], row["name"]): row for row in data["blocks"]}
    assert {kind for kind, _ in rows} == {"block", "branch"}
    alike = [row["score"] for row in rows.values() if row["kind"] == "block" and row["structure"] == 0]
    assert np.mean(alike) == pytest.approx(1.0)


def test_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "small.onnx"
    pipeline = "remove-blocks{count=1},remove-channels{macs=0.5},cleanup"
    assert run(["opt", DIGITS, "-o", str(out), "--passes", pipeline, "--verify-each"]) == 0
    assert gp.load(out).parameter_count() < 0.7 * gp.load(DIGITS).parameter_count()
    assert run(["opt", DIGITS, "-o", str(out), "--passes", "remove-blocks{count=99}"]) == 2
    assert "pass 'remove-blocks': count=99 is more than" in capsys.readouterr().err


def test_blocks_are_for_their_own_graph() -> None:
    graph, other = gp.capture(*nets.tower("pre")), gp.capture(*nets.tower("pre"))
    with pytest.raises((PassError, KeyError)):
        pass_file.remove_blocks(other, gp.blocks(graph)[:1])
