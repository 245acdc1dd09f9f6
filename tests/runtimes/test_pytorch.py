"""PyTorch as a runtime."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphprune import runtimes
from graphprune.errors import BackendError, InputError
from graphprune.runtimes.timing import Effort

X = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)


class _Pair(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"sum": a + b, "difference": a - b}


@pytest.mark.parametrize("feed", [[X, 2 * X], {"b": 2 * X, "a": X}])
def test_positional_and_keyword_inputs(feed: runtimes.Inputs) -> None:
    total, difference = runtimes.get("pytorch").compile(_Pair()).run(feed)
    np.testing.assert_allclose(total, 3 * X)
    np.testing.assert_allclose(difference, -X)


def test_threads_are_set_for_the_run_and_restored() -> None:
    seen: list[int] = []
    module = torch.nn.Linear(8, 2)
    module.register_forward_hook(lambda *_: seen.append(torch.get_num_threads()))
    before = torch.get_num_threads()
    runtimes.get("pytorch").compile(module, threads=before + 1).run([X])
    assert seen == [before + 1]
    assert torch.get_num_threads() == before


def test_bfloat16_round_trip() -> None:
    module = torch.nn.Identity().to(torch.bfloat16)
    array = torch.from_numpy(X).bfloat16().view(torch.uint16).numpy().view("bfloat16")
    np.testing.assert_array_equal(runtimes.get("pytorch").compile(module).run([array])[0], array)


def test_bad_models_and_inputs() -> None:
    with pytest.raises(InputError, match="'pytorch' runs a torch.nn.Module, not a bytes"):
        runtimes.get("pytorch").compile(b"")
    with pytest.raises(BackendError, match="pytorch cannot run the model: mat1 and mat2"):
        runtimes.get("pytorch").compile(torch.nn.Linear(4, 2)).run([X])
    with pytest.raises(InputError, match="does not say its input shapes"):
        runtimes.compare([torch.nn.Linear(4, 2)], runtime="pytorch")


def test_comparison_needs_shapes_only() -> None:
    small, large = torch.nn.Linear(256, 8), torch.nn.Linear(256, 2048)
    rows = runtimes.compare([large, small], runtime="pytorch", input_shapes=[(64, 256)], effort=Effort(0.05, 10, 20))
    assert rows[1].ratio < 1
