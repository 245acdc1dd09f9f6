"""In-place operators become functions, constants are folded, and blocks without gradients are opened."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as nf
from torch import nn

import graphprune as gp
from graphprune.frontends.torch import capture, run, to_graph_module
from graphprune.frontends.torch.lower.aliasing import twin
from graphprune.ir.graph import Graph

Body = Callable[["Around", torch.Tensor], object]


class Around(nn.Module):
    """A linear layer followed by a function that may use the module's state."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.scale = nn.Parameter(torch.randn(8))
        self.register_buffer("table", torch.tensor([3, 1, 2, 0, 4, 5, 6, 7]))
        self.register_buffer("shift", torch.randn(8))
        self.body = body

    def forward(self, x: torch.Tensor) -> object:
        return self.body(self, self.layer(x))


def checked(body: Body) -> Graph:
    torch.manual_seed(0)
    module, x = Around(body).eval(), torch.randn(2, 8)
    graph = capture(module, x)
    graph.check()
    for a, b in zip(run(module, x), run(to_graph_module(graph), x), strict=True):
        np.testing.assert_array_equal(a, b)
    return graph


def whole(m: Around, y: torch.Tensor) -> object:
    z = nf.relu(y, inplace=True)
    z += 1
    return y, z


def slice_of_data(m: Around, y: torch.Tensor) -> object:
    y[:, 2:4] = 0
    return y


def view_and_base(m: Around, y: torch.Tensor) -> object:
    z = y[:, 1:3]
    z += 1
    return y * 2, z


def nested_slices(m: Around, y: torch.Tensor) -> object:
    z = y.clone()
    z[0:1, 1:3] = y[1:2, :2]
    return z


def one_index(m: Around, y: torch.Tensor) -> object:
    z = y.clone()
    z[0] = y[1]
    return z


def transposed(m: Around, y: torch.Tensor) -> object:
    y.t().relu_()
    return y


def pieces(m: Around, y: torch.Tensor) -> object:
    a, _ = y.chunk(2, 1)
    a += 1
    return y


def constant_written_with_data(m: Around, y: torch.Tensor) -> object:
    z = torch.zeros(2, 8)
    z[:, 3:] = y[:, 3:]
    return z * 2


def bias_part_zeroed(m: Around, y: torch.Tensor) -> object:
    z = m.scale.clone()
    z[2:4].zero_()
    return y * z


def dropout_after_flatten(m: Around, y: torch.Tensor) -> object:
    return nf.dropout(y.flatten(1), inplace=True, training=m.training)


def shape_in_place(m: Around, y: torch.Tensor) -> object:
    return y.unsqueeze_(0) + 1


def masked(m: Around, y: torch.Tensor) -> object:
    return y.masked_fill_(y > 0, 3.0).clamp_(-1, 2)


@pytest.mark.parametrize(
    "body",
    [
        whole, slice_of_data, view_and_base, nested_slices, one_index, transposed, pieces, constant_written_with_data,
        bias_part_zeroed, dropout_after_flatten, shape_in_place, masked,
    ],
)  # fmt: skip
def test_in_place(body: Body) -> None:
    checked(body)


def test_writes_to_slices_stay_prunable() -> None:
    assert "unknown" not in {n.kind for n in checked(bias_part_zeroed).nodes}


def test_masks_built_in_place_are_folded() -> None:
    def body(m: Around, y: torch.Tensor) -> object:
        mask = y.new_zeros(2, 8)
        mask[:, 3:] = 1
        mask = mask * 2
        mask[0] += 1
        return y + mask

    graph = checked(body)
    assert [n.kind for n in graph.nodes] == ["matmul", "elementwise"]
    (constant,) = [v for n, v in graph.weights().items() if n.startswith("constant_")]
    assert constant.weight is not None and not constant.weight.trainable and not constant.weight.tied
    assert constant.weight.array()[0].tolist() == [1, 1, 1, 3, 3, 3, 3, 3]


def test_a_constant_is_read_as_it_was_at_the_time() -> None:
    def body(m: Around, y: torch.Tensor) -> object:
        mask = torch.ones(8)
        first = y + mask
        mask[:4] = 5
        return first, y + mask

    checked(body)


def test_index_buffers_keep_their_names_and_are_known() -> None:
    graph = checked(lambda m, y: y[:, m.table])
    gather = graph.nodes[-1]
    assert gather.inputs[1] is not None and gather.inputs[1].name == "table"
    assert gather.attrs["indices"].tolist() == [3, 1, 2, 0, 4, 5, 6, 7]


def test_float_buffers_are_not_folded() -> None:
    graph = checked(lambda m, y: y + m.shift[None])
    assert "shift" in graph.weights()
    assert [n.kind for n in graph.nodes] == ["matmul", "reshape", "elementwise"]


def test_the_module_is_left_alone_by_folding() -> None:
    def body(m: Around, y: torch.Tensor) -> object:
        order = m.table.clone()
        order[0] = 7
        return y[:, order]

    module = Around(body)
    capture(module, torch.randn(2, 8))
    assert module.table.tolist() == [3, 1, 2, 0, 4, 5, 6, 7]


def test_no_grad_blocks_are_opened() -> None:
    def body(m: Around, y: torch.Tensor) -> object:
        with torch.no_grad():
            z = y * 2
        return y + z

    assert [n.kind for n in checked(body).nodes] == ["matmul", "elementwise", "elementwise"]


@pytest.mark.parametrize("enabled", [False, True])
def test_blocks_with_autocast_are_opened(enabled: bool) -> None:
    """Where it is switched on, the casts inside are written out."""

    def body(m: Around, y: torch.Tensor) -> object:
        with torch.amp.autocast("cpu", torch.bfloat16, enabled=enabled):
            z = nf.linear(y, m.layer.weight, m.layer.bias) * 2
        return y + z

    kinds = ["matmul", *(["elementwise"] * 3 if enabled else []), "matmul", "elementwise", "elementwise"]
    found = [n.kind for n in checked(body).nodes if n.kind != "transpose"]
    assert found == kinds


def test_state_written_at_inference_stays_written() -> None:
    def body(m: Around, y: torch.Tensor) -> object:
        m.shift.add_(1.0)
        return y + m.shift

    graph = capture(Around(body), torch.randn(2, 8))
    assert [n.op for n in graph.nodes if n.kind == "unknown"] == ["aten.add_.Tensor"]


def test_tables_kept_for_inference_are_computed_in_the_graph_and_no_trace_is_left() -> None:
    class Cached(nn.Module):
        """Keeps what it computed from a parameter, as attention biases of LeViT, until it is told to train."""

        def __init__(self) -> None:
            super().__init__()
            self.layer, self.bias, self.kept = nn.Linear(4, 4), nn.Parameter(torch.randn(2)), {}

        def train(self, mode: bool = True) -> nn.Module:
            if mode:
                self.kept = {}
            return super().train(mode)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if "bias" not in self.kept:
                self.kept["bias"] = self.bias.repeat(2)
            result: torch.Tensor = self.layer(x) + self.kept["bias"]
            return result

    module, x = Cached().eval(), torch.randn(3, 4)
    expected = module(x).detach()
    assert "bias" in capture(module, x).weights()
    assert not module.training and torch.equal(module(x), expected)


class Written(nn.Module):
    """Steps of a sequence, written one by one; by value, or in place as a recurrence does."""

    def __init__(self, *, in_place: bool) -> None:
        super().__init__()
        self.first, self.last, self.in_place = nn.Linear(6, 16), nn.Linear(16, 3), in_place

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.relu(self.first(x))
        made = torch.zeros_like(hidden)
        for step in range(x.shape[1]):
            if self.in_place:
                made[:, step] = hidden[:, step] * (step + 1)
            else:
                made = torch.select_scatter(made, hidden[:, step] * (step + 1), 1, step - x.shape[1])
        return self.last(made)  # type: ignore[no-any-return]


@pytest.mark.parametrize("in_place", [False, True])
def test_what_is_written_to_one_index_of_an_axis_lets_other_axes_pass(in_place: bool) -> None:
    torch.manual_seed(0)
    result = gp.prune(Written(in_place=in_place).eval(), torch.randn(2, 4, 6), target=gp.channels(0.5))
    assert not result.report.unknown
    assert result.report.proof is not None and result.report.proof.passed
    assert result.report.after.parameters <= 0.55 * result.report.before.parameters


def test_parts_written_into_empty_memory_are_pruned() -> None:
    """As DeepSeek puts keys together; the memory is a constant, whose sizes follow."""

    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other, self.out = nn.Linear(8, 4), nn.Linear(8, 2), nn.Linear(6, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            room = x.new_empty(*x.shape[:-1], 6)
            room[..., :4].copy_(self.one(x))
            room[..., 4:].copy_(self.other(x))
            return self.out(room)

    result = gp.prune(Parts(), torch.randn(2, 5, 8), target="channels=0.5")
    assert result.report.proof is not None and result.report.proof.max_error < 1e-4
    assert [result.graph.weights()[f"{n}.weight"].shape for n in ("one", "other", "out")] == [(2, 8), (1, 8), (3, 3)]


#: In-place operators of ATen without a function of the same arguments: what they do is no function, or of another kind.
ALONE = frozenset(
    """
    _fill_mem_eff_dropout_mask_ _sobol_engine_ff_ _sobol_engine_initialize_state_ _sobol_engine_scramble_ fill_diagonal_
    normal_ polygamma_ requires_grad_ set_
    """.split()
)


def inplace_operators() -> list[torch._ops.OpOverload]:
    found = []
    for name in torch._C._dispatch_get_all_op_names():
        base, _, overload = name.removeprefix("aten::").partition(".")
        if name.startswith("aten::") and base.endswith("_") and not base.endswith("__"):
            target = getattr(getattr(torch.ops.aten, base), overload or "default")
            arguments = target._schema.arguments
            if arguments and arguments[0].is_write:
                found.append(target)
    return found


def test_every_inplace_operator_has_a_function_that_takes_what_it_takes() -> None:
    operators = inplace_operators()
    assert len(operators) > 250
    for target in operators:
        function = twin(target)
        if function is None:
            assert target._opname in ALONE, target
            continue
        assert function._opname == target._opname[:-1] and not function._schema.arguments[0].is_write
        pairs = zip(target._schema.arguments, function._schema.arguments, strict=True)
        assert all(str(a.type) == str(b.type) for a, b in pairs), target


def power_of_a_number(m: Around, y: torch.Tensor) -> object:
    return y.relu().pow_(2)


def powers(m: Around, y: torch.Tensor) -> object:
    return y.abs_().pow_(torch.ones_like(y)).float_power(2).float()


def turned_slice(m: Around, y: torch.Tensor) -> object:
    z = y.clone()
    z[:, 1:3].t_().mul_(2)
    return z


def triangle(m: Around, y: torch.Tensor) -> object:
    z = y.clone()
    z.tril_()
    return z


def filled_and_copied_rows(m: Around, y: torch.Tensor) -> object:
    return y.index_fill_(1, torch.tensor([1, 3]), 0.5).index_copy_(1, torch.tensor([0]), y[:, 7:])


def grown_from_nothing(m: Around, y: torch.Tensor) -> object:
    found = torch.tensor([])
    for _ in range(2):
        found = torch.cat([found, y], 1)
    return found


@pytest.mark.parametrize(
    "body", [power_of_a_number, powers, turned_slice, triangle, filled_and_copied_rows, grown_from_nothing]
)
def test_inplace_operators_of_many_overloads(body: Body) -> None:
    graph = checked(body)
    assert not [node for node in graph.nodes if node.kind == "unknown"]
