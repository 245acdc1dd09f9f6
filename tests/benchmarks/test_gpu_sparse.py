"""The GPU benchmark, as far as it goes without a GPU: a dry run, its sums, and the clock on a stand-in for CUDA."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_clock, gpu_products, gpu_sparse
from benchmarks.gpu_products import Product, prune_2_4

TIMES = {
    "dense": {1: 1.0, 8: 2.0, 64: 4.0},
    "sparse": {1: 2.0, 8: 2.0, 64: 3.0},
    "tuned": {8: 1.0, 64: 3.5},
}


def test_a_dry_run_writes_the_page_and_the_products(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gpu_sparse.main(["--dry-run", "--out", str(tmp_path), "--commit", "abc"])
    written = (tmp_path / "gpu_sparse.md").read_text()
    assert capsys.readouterr().out.strip() == written.strip()
    assert "measured at abc.\nDry run on a CPU" in written
    assert "| Llama-3-8B block, 1 x 16 tokens |" in written
    first = json.loads((tmp_path / "gpu_sparse.json").read_text())[0]
    assert (first["k"], first["n"], first["dtype"], first["of"]) == (64, 64, "float32", "tiny")
    assert set(first["speedup"]) == set(first["half_k"]) == {"1", "8"}
    assert "failed" not in first


def test_time_that_is_up_is_said(tmp_path: Path) -> None:
    gpu_sparse.main(["--dry-run", "--out", str(tmp_path), "--seconds", "0"])
    assert "Time was up before ViT-L/16, batch 1." in (tmp_path / "gpu_sparse.md").read_text()
    assert json.loads((tmp_path / "gpu_sparse.json").read_text()) == []


def test_without_a_gpu_it_ends_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SystemExit):
        gpu_sparse.main([])
    assert "no GPU for 2:4 kernels: they need an NVIDIA GPU" in capsys.readouterr().err


def test_ratios_wins_and_the_record() -> None:
    product = Product("net", 4, 8, "float16", TIMES)
    assert product.ratios("sparse", "tuned") == {1: 0.5, 8: 2.0, 64: 4 / 3}
    assert product.wins_from("sparse", "tuned") == 8
    assert product.wins_from("sparse") == 64
    assert product.wins_from("cutlass") is None
    record = product.record()
    assert record["speedup"] == {"1": 0.5, "8": 2.0, "64": 1.333}
    assert record["wins_from_rows"] == 8
    assert "cutlass" not in record


def test_pruned_weights_keep_the_two_largest_of_four() -> None:
    pruned = prune_2_4(torch.tensor([[1.0, -4.0, 2.0, 3.0, 0.0, 0.0, 5.0, 0.0]]))
    assert pruned.tolist() == [[0, -4, 0, 3, 0, 0, 5, 0]]


def test_a_wrong_variant_is_named_and_not_timed() -> None:
    product = Product("net", 4, 8, "float32")
    one = torch.ones(2, 2)
    calls = {
        "dense": [lambda: one],
        "sparse": [lambda: 2 * one],
        "tuned": [lambda: 1 / 0],
        "cutlass": [lambda: one + 1e-4],
    }
    assert list(gpu_products._right(calls, product)) == ["dense", "cutlass"]
    assert product.failed == {"sparse, 2 rows": "its result is off by 1", "tuned, 2 rows": "division by zero"}


def test_the_script_runs_without_the_package_installed(tmp_path: Path) -> None:
    """As on a bare machine: only the repository's root is on the path, and graphprune's runtimes cannot be imported."""
    code = (
        "import sys; sys.modules['graphprune.runtimes'] = None; sys.modules['onnx'] = None;"
        "from benchmarks import gpu_sparse;"
        f"gpu_sparse.main(['--dry-run', '--seconds', '0', '--out', {str(tmp_path)!r}])"
    )
    root = Path(gpu_sparse.__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class _Cuda:
    """A GPU whose time is the number of calls made; every other one lies between two events."""

    def __init__(self, captures: bool) -> None:
        self.now, self.captures, self.capturing = 0.0, captures, False
        self.graph: list[gpu_clock.Call] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cuda = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                self.at = 0.0

            def record(self) -> None:
                self.at = cuda.now

            def synchronize(self) -> None:
                pass

            def elapsed_time(self, end: Event) -> float:
                return end.at - self.at

        class Graph:
            calls = 0

            def capture_begin(self, pool: object, capture_error_mode: str) -> None:
                if not cuda.captures:
                    raise RuntimeError("no capture\nmore")
                self.calls, cuda.now = 0, 0.0

            def capture_end(self) -> None:
                self.calls = int(cuda.now)

            def replay(self) -> None:
                cuda.now += self.calls / 2

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "Stream", lambda: None)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: torch.no_grad())
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))

    def call(self) -> None:
        self.now += 1


def test_graphs_are_replayed_between_events(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = _Cuda(captures=True)
    cuda.install(monkeypatch)
    seconds, failed = gpu_clock.in_turns(gpu_clock.CudaClock(), {"a": [cuda.call] * 4})
    assert (seconds, failed) == ({"a": 0.0005}, {})


def test_where_no_graph_can_be_captured_all_is_timed_from_python(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = _Cuda(captures=False)
    cuda.install(monkeypatch)
    clock = gpu_clock.CudaClock()
    seconds, failed = gpu_clock.in_turns(clock, {"a": [cuda.call] * 4, "b": [cuda.call]})
    assert (seconds, failed) == ({"a": 0.001, "b": 0.001}, {})
    assert clock.how.endswith("as a graph could not be captured (no capture)")


def test_a_reason_is_given_once() -> None:
    a, b = Product("net", 4, 8, "float16"), Product("n", 1, 1, "f")
    a.failed = {"cutlass, 1 rows": "no", "cutlass, 2 rows": "no"}
    b.failed = {"sparse": "odd"}
    assert gpu_sparse._refusals([a, b]) == [
        "net 4 -> 8 float16, cutlass, 1 rows: no (and 1 more times).",
        "n 1 -> 1 f, sparse: odd.",
    ]


def test_kernels_that_do_not_run_at_all_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def pack(weight: torch.Tensor, backend: str) -> torch.Tensor:
        if backend == "cutlass":
            raise RuntimeError("Supported only on GPUs with compute capability 8.x")
        return weight

    monkeypatch.setattr(gpu_products, "packed", pack)
    run = gpu_sparse.Run("cpu", gpu_clock.CpuClock(), gpu_clock.CpuClock(), float("inf"), dry=True)
    gpu_sparse.products(run)
    assert run.notes == ["CUTLASS is left out: Supported only on GPUs with compute capability 8.x."]
    assert [set(product.seconds) for product in run.products] == [{"dense", "half k", "half n", "sparse"}] * 2


def test_the_search_is_asked_for_rows_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    class Library:
        @staticmethod
        def mm_search(*arguments: object) -> tuple[int, int, int, int]:
            asked.extend(arguments[2:])
            return 5, 2, 1, 40

    monkeypatch.setattr(torch._C, "_cusparselt", Library, raising=False)
    found = gpu_products._search(torch.ones(4), torch.ones(8, 4))
    assert found == {"alg_id": 5, "split_k": 2, "split_k_mode": 1}
    assert asked == [None, None, None, True]
