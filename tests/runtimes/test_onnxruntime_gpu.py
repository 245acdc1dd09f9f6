"""onnxruntime's GPU providers, on a stand-in for its session, which records what it is asked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from graphprune import runtimes
from graphprune.errors import BackendError, InputError
from graphprune.runtimes import onnxruntime as backend
from graphprune.runtimes.onnxruntime_device import placement
from graphprune.runtimes.onnxruntime_options import CPU, CUDA, TENSORRT, CudaOptions, TensorRTProviderOptions
from graphprune.runtimes.timing import Effort, describe
from tests.runtimes import models

X = np.ones((3, 8), np.float32)
Placed = dict[str, list[str]]
Install = Callable[..., "list[_Session]"]


class _Session:
    """A session on the GPU: the real one on the CPU, which says that its nodes are elsewhere."""

    def __init__(self, real: Any, source: Any, options: Any, providers: Any, kept: list[str], placed: Placed) -> None:
        self.real = real(source, options, [CPU])
        self.options, self.providers, self.kept, self.placed = options, providers, kept, placed
        self.calls: list[str] = []

    def get_providers(self) -> list[str]:
        return self.kept

    def get_provider_graph_assignment_info(self) -> list[Any]:
        assert self.options.get_session_config_entry("session.record_ep_graph_assignment_info") == "1"
        return [_part(provider, operators) for provider, operators in self.placed.items()]

    def io_binding(self) -> Any:
        binding = self.real.io_binding()
        bind = binding.bind_output

        def on_cpu(name: str, device: str, index: int) -> None:
            self.calls.append(f"{name} on {device}:{index}")
            bind(name, "cpu", 0)

        binding.bind_output = on_cpu
        return binding

    def run_with_iobinding(self, binding: Any) -> None:
        self.calls.append("run")
        self.real.run_with_iobinding(binding)

    def disable_fallback(self) -> None:
        self.calls.append("no fallback")

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)


def _part(provider: str, operators: list[str]) -> Any:
    nodes = [SimpleNamespace(op_type=operator) for operator in operators]
    return SimpleNamespace(ep_name=provider, get_nodes=lambda: nodes)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Pretends a build with GPUs; the sessions made are in the list returned."""
    real = ort.InferenceSession

    def pretend(kept: list[str], placed: Placed | None = None) -> list[_Session]:
        made: list[_Session] = []

        def session(source: Any, options: Any, providers: Any, enable_fallback: int) -> _Session:
            assert enable_fallback == 0
            made.append(_Session(real, source, options, providers, kept, placed or {}))
            return made[-1]

        on_cpu = ort.OrtValue.ortvalue_from_numpy
        monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
        monkeypatch.setattr(ort, "InferenceSession", session)
        monkeypatch.setattr(ort, "preload_dlls", lambda: print("Failed to load libcudnn"), raising=False)
        monkeypatch.setattr(ort.OrtValue, "ortvalue_from_numpy", lambda array, device, index: on_cpu(array))
        return made

    return pretend


def test_cuda_is_given_its_options_and_times_data_in_place(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    made = install([CUDA, CPU], {CUDA: ["Gemm"]})
    name = "onnxruntime-cuda{device=1 tf32=false memory-gib=2 convolution-search=heuristic}"
    model = models.linear()
    found = runtimes.compare([model], runtime=name, inputs=[X], effort=Effort(0, 2, 2, 1))
    given = {"device_id": "1", "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC", "gpu_mem_limit": str(2 * 2**30)}
    assert made[0].providers == [(CUDA, given), (CPU, {})]
    assert made[0].calls == ["no fallback", "y on cuda:1", "run", "run", "run"]
    where = "cuda:1 (CUDAExecutionProvider) by the processor's clock, inputs and outputs in place, 2 interleaved rounds"
    assert where in describe(found.environment)
    assert found.rows[0].notes == ()
    assert capsys.readouterr().out == ""


def test_tensorrt_is_given_its_options(install: Install, tmp_path: Path) -> None:
    made = install([TENSORRT, CUDA, CPU], {TENSORRT: ["TRTKernel"]})
    options = f"precision=fp16 workspace-gib=1 optimization-level=4 cache={tmp_path}"
    shapes = "min-shapes=x:1x8 usual-shapes=x:3x8 max-shapes=x:64x8"
    runtime = runtimes.get(f"onnxruntime-tensorrt{{{options} {shapes}}}")
    first, second = models.linear(), models.linear()
    second.graph.initializer[0].raw_data = bytes(len(second.graph.initializer[0].raw_data))
    for model in (first, second):
        np.testing.assert_allclose(runtime.compile(model).run([X])[0], X @ models.weight(model) + 1, rtol=1e-5)
    (name, given), cuda, cpu = made[0].providers
    folder = given.pop("trt_engine_cache_path")
    assert (name, cuda, cpu) == (TENSORRT, (CUDA, {"device_id": "0"}), (CPU, {}))
    assert given == {
        "device_id": "0",
        "trt_fp16_enable": "True",
        "trt_sparsity_enable": "True",
        "trt_max_workspace_size": str(2**30),
        "trt_builder_optimization_level": "4",
        "trt_profile_min_shapes": "x:1x8",
        "trt_profile_opt_shapes": "x:3x8",
        "trt_profile_max_shapes": "x:64x8",
        "trt_engine_cache_enable": "True",
        "trt_timing_cache_enable": "True",
        "trt_timing_cache_path": str(tmp_path),
    }
    assert Path(folder).is_relative_to(tmp_path)
    other = made[1].providers[0][1]["trt_engine_cache_path"]
    assert other != folder, "models of equal structure must not share engines: their names say nothing of weights"


def test_without_a_cache_nothing_is_kept() -> None:
    given = TensorRTProviderOptions(cache="off", precision="bf16", sparse=False).providers("m")[0][1]
    assert given == {
        "device_id": "0",
        "trt_fp16_enable": "False",
        "trt_sparsity_enable": "False",
        "trt_bf16_enable": "True",
    }


def test_the_cache_is_the_users_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert TensorRTProviderOptions().folder == tmp_path / "graphprune" / "onnxruntime-tensorrt"


def test_a_session_that_fell_back_is_refused(install: Install) -> None:
    install([CPU])
    sentence = (
        "would not run on the GPU: onnxruntime gave up CUDAExecutionProvider .* fell back to CPUExecutionProvider"
    )
    with pytest.raises(BackendError, match=sentence):
        runtimes.get("onnxruntime-cuda").compile(models.linear())


def test_a_model_of_which_no_node_is_on_the_gpu_is_refused(install: Install) -> None:
    install([CUDA, CPU], {CPU: ["Gemm"]})
    with pytest.raises(BackendError, match="'onnxruntime-cuda' would not run on CUDAExecutionProvider: it took none"):
        runtimes.get("onnxruntime-cuda").compile(models.linear())


def test_nodes_elsewhere_are_told_or_refused(install: Install) -> None:
    install([TENSORRT, CUDA, CPU], {TENSORRT: ["TRTKernel"], CUDA: ["TopK", "NonZero"], CPU: [*"abcdef", "f"]})
    executable: Any = runtimes.get("onnxruntime-tensorrt{cache=off}").compile(models.linear())
    assert executable.notes == (
        "2 node(s) (1 TopK, 1 NonZero) run on CUDAExecutionProvider, not on TensorrtExecutionProvider",
        "7 node(s) (2 f, 1 a, 1 b, 1 c, 1 d and 1 more operators) run on CPUExecutionProvider, not on"
        " TensorrtExecutionProvider",
    )
    with pytest.raises(BackendError, match=r"is strict, but 7 node\(s\) .* would run on the CPU"):
        runtimes.get("onnxruntime-tensorrt{cache=off strict=true}").compile(models.linear())


def test_an_older_onnxruntime_cannot_tell() -> None:
    session: Any = SimpleNamespace(get_providers=lambda: [CUDA, CPU])
    assert placement(session, "x", CudaOptions()) == (
        "this onnxruntime does not tell which nodes run elsewhere than on CUDAExecutionProvider",
    )


def test_what_the_gpu_refuses_is_said(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install([CUDA, CPU], {CUDA: ["Gemm"]})
    executable: Any = runtimes.get("onnxruntime-cuda").compile(models.linear())
    with pytest.raises(BackendError, match="cannot run the model"):
        executable.stopwatch([np.ones((3, 5), np.float32)])()
    with pytest.raises(BackendError, match="cannot take the inputs"):
        executable.stopwatch([np.ones((3, 8), object)])


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "onnxruntime-cuda{convolution-search=best}",
            "convolution_search must be one of exhaustive, heuristic, default",
        ),
        ("onnxruntime-cuda{memory-gib=0}", "memory_gib must be above 0, not 0"),
        ("onnxruntime-tensorrt{precision=int8}", "precision must be one of model, fp16, bf16, not 'int8'"),
        ("onnxruntime-tensorrt{optimization-level=9}", "optimization_level is 0 to 5, not 9"),
        (
            "onnxruntime-tensorrt{min-shapes=x:1x8}",
            "min_shapes, usual_shapes and max_shapes must be of the same inputs",
        ),
        ("onnxruntime{device=1}", "'onnxruntime' has no options"),
    ],
)
def test_bad_options(name: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        runtimes.get(name)


def test_a_missing_provider_is_told_with_those_that_are_there() -> None:
    if CUDA in ort.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    sentence = (
        r"'onnxruntime-cuda' is not available .*: pip install onnxruntime-gpu .*; the onnxruntime that is there has"
    )
    with pytest.raises(BackendError, match=sentence):
        runtimes.get("onnxruntime-cuda")


def test_nodes_of_a_real_session_on_the_cpu_are_profiled(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(models.linear(64, 512).SerializeToString())
    executable: Any = runtimes.get("onnxruntime").compile(path, threads=1)
    executable.run([np.ones((16, 64), np.float32)])
    (node,) = executable.layers()
    assert (node.kind, node.kernel, node.precision) == ("Gemm", CPU, "float")
    assert 0 < node.seconds < 1
    assert 0 < node.share <= 1
    assert list(tmp_path.iterdir()) == [path], "the profile is not left behind"


@pytest.mark.parametrize("form", [lambda model: model, lambda model: model.SerializeToString()])
def test_models_in_memory_are_profiled_unless_they_are_large(form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    executable: Any = runtimes.get("onnxruntime").compile(form(models.linear()))
    assert [node.kind for node in executable.layers()] == ["Gemm"]
    monkeypatch.setattr(backend, "_KEPT_BYTES", 10)
    executable = runtimes.get("onnxruntime").compile(form(models.linear()))
    with pytest.raises(BackendError, match="too large to be kept for the profiler: give it as a file"):
        executable.layers()


def test_a_binding_on_the_cpu_is_real() -> None:
    made: Any = runtimes.get("onnxruntime").compile(models.linear())
    executable = backend.DeviceExecutable(made.session, made._again, (), "cpu", 0)
    assert 0 < executable.stopwatch([X])() < 1
    binding = backend.bound(made.session, {"x": X}, ("y",), "cpu", 0)
    made.session.run_with_iobinding(binding)
    np.testing.assert_allclose(binding.get_outputs()[0].numpy(), made.run([X])[0])
