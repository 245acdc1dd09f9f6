"""PyTorch on a GPU, in another type and with sparse kernels: options, errors and calls, on a stand-in for CUDA."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from graphprune import runtimes
from graphprune.errors import BackendError, InputError
from graphprune.runtimes import pytorch_sparse
from graphprune.runtimes.pytorch import CudaExecutable, PyTorch, PyTorchOptions
from graphprune.runtimes.pytorch_sparse import Kernels
from graphprune.runtimes.timing import Effort, describe

X = np.random.default_rng(0).standard_normal((3, 16)).astype(np.float32)


class _Event:
    """Time is the number of events recorded so far."""

    now = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        _Event.now += 1
        self.at = _Event.now

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: _Event) -> float:
        return float(end.at - self.at)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU whose memory is the CPU's: `cuda` stands for `cpu` where tensors and modules are moved."""
    to, move = torch.Tensor.to, nn.Module.to

    def here(target: Any) -> Any:
        return "cpu" if isinstance(target, str) and target.startswith("cuda") else target

    def tensor_to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        moved: torch.Tensor = to(self, *map(here, args), **{name: here(value) for name, value in kwargs.items()})
        return moved

    def module_to(self: nn.Module, **kwargs: Any) -> nn.Module:
        return move(self, **{name: here(value) for name, value in kwargs.items()})

    monkeypatch.setattr(torch.Tensor, "to", tensor_to)
    monkeypatch.setattr(nn.Module, "to", module_to)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda where: "H100")
    monkeypatch.setattr(torch.cuda, "device", lambda where: nullcontext())
    monkeypatch.setattr(torch.cuda, "Event", _Event)


def test_half_precision_on_the_cpu_leaves_the_callers_module() -> None:
    layer = nn.Linear(16, 4)
    (found,) = runtimes.get("pytorch{precision=bf16}").compile(layer).run([X])
    assert found.dtype.name == "bfloat16"
    assert layer.weight.dtype == torch.float32
    want = runtimes.get("pytorch").compile(layer).run([X])[0]
    np.testing.assert_allclose(found.astype(np.float32), want, atol=0.05)


@pytest.mark.usefixtures("gpu")
def test_a_gpu_is_timed_by_its_events() -> None:
    found = runtimes.compare(
        [nn.Linear(16, 4)], runtime="pytorch{device=cuda precision=fp16}", inputs=[X], effort=Effort(0, 3, 3, 1)
    )
    assert found.rows[0].median == pytest.approx(1e-3)
    assert "H100 by its own events, launches from Python included" in describe(found.environment)
    assert found.environment.runtime == "pytorch{device=cuda precision=fp16}"
    assert found.rows[0].notes == ()


@pytest.mark.usefixtures("gpu")
def test_sparse_kernels_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    packed = Kernels("cusparselt", {torch.float16: (16, 16)}, lambda weight, rows: weight * rows)
    monkeypatch.setattr(pytorch_sparse, "kernels", lambda backend: packed)
    net = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 4))
    with torch.no_grad():
        net[0].weight.mul_(torch.tensor([0, 1, 1, 0]).repeat(4))
    runtime = runtimes.get("pytorch{device=cuda precision=fp16 sparse=true rows=2}")
    found = runtimes.compare([net], runtime=runtime, inputs=[X], effort=Effort(0, 2, 2, 1), layers=True)
    assert found.rows[0].notes[0].startswith("1 linear layers run 2:4 kernels (cusparselt); 1 stay dense: '1' (its w")
    assert [(row.name, row.sparse, row.eligible) for row in found.rows[0].layers] == [
        ("0", True, True),
        ("1", False, False),
    ]
    (result,) = runtime.compile(net).run([X])
    twice = nn.functional.linear(torch.from_numpy(X), 2 * net[0].weight, net[0].bias)
    np.testing.assert_allclose(result, net[1](twice).detach(), atol=0.02)


@pytest.mark.usefixtures("gpu")
def test_a_gpu_that_is_not_there() -> None:
    with pytest.raises(BackendError, match="there is no GPU 3: torch finds 1"):
        runtimes.get("pytorch{device=cuda:3}")


@pytest.mark.usefixtures("gpu")
def test_what_fails_on_the_gpu_is_said() -> None:
    executable = runtimes.get("pytorch{device=cuda}").compile(nn.Linear(4, 2))
    assert isinstance(executable, CudaExecutable)
    assert executable.layers() == ()
    with pytest.raises(BackendError, match="pytorch cannot run the model: mat1 and mat2"):
        executable.stopwatch([X])()


@pytest.mark.parametrize("name", ["pytorch", "pytorch-compiled"])
def test_without_a_gpu_it_says_so(name: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(BackendError, match=f"'{name}.* is not available .*: it needs an NVIDIA GPU with its driver"):
        runtimes.get(name + "{device=cuda}")
    with pytest.raises(BackendError, match="is not available .*: it needs an NVIDIA GPU"):
        PyTorch(options=PyTorchOptions("cuda")).compile(nn.Linear(1, 1))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("device=tpu", "device is cpu, cuda or cuda:1, not 'tpu'"),
        ("precision=int8", "precision must be one of model, fp32, fp16, bf16, not 'int8'"),
        ("device=cuda kernels=mine", "kernels must be one of cusparselt, cutlass, not 'mine'"),
        ("sparse=true", "2:4 kernels for GPUs only: sparse=true needs device=cuda"),
    ],
)
def test_bad_options(options: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        runtimes.get(f"pytorch{{{options}}}")
