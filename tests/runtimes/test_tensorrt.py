"""TensorRT as a runtime, on a stand-in generated from the real bindings: what it is asked, and all that can fail."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto

import graphprune as gp
from graphprune import runtimes
from graphprune.errors import BackendError, InputError, UnsupportedError
from graphprune.runtimes.tensorrt import TensorRT
from graphprune.runtimes.tensorrt_options import TensorRTOptions
from graphprune.runtimes.timing import Effort
from tests.runtimes import cuda_fake, models
from tests.runtimes.tensorrt_fake import install
from tests.runtimes.tensorrt_world import LAYER, Tensor, World, runtime

X = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)
SHORT = Effort(seconds=0, min_rounds=3, max_rounds=3, warmup=1)


def test_an_engine_is_built_and_run(world: World) -> None:
    executable = runtime(workspace_gib=0.5, optimization_level=4).compile(models.linear(), threads=2)
    assert executable.inputs == (runtimes.TensorSpec("x", (None, 8), np.dtype(np.float32)),)
    for feed in ([X], {"x": X}, [X[:, ::-1]]):
        array = feed["x"] if isinstance(feed, dict) else feed[0]
        np.testing.assert_allclose(executable.run(feed)[0], array @ models.weight(models.linear()) + 1, rtol=1e-5)
    assert executable.notes == ()
    assert world.flags == {"SPARSE_WEIGHTS"}
    assert world.set_to["WORKSPACE"] == 1 << 29
    assert world.set_to["builder_optimization_level"] == 4
    assert world.set_to["profiling_verbosity"].name == "DETAILED"
    assert world.profile == {"x": ((3, 8), (3, 8), (3, 8))}
    assert world.called("IExecutionContext.execute_async_v3") == [[7]] * 3


def test_networks_are_strongly_typed(world: World, major: int) -> None:
    """By a flag in TensorRT 10, always in 11."""
    import tensorrt as trt

    runtime().compile(models.linear())
    strong = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert world.called("Builder.create_network") == [[strong if major == 10 else 0]]


@pytest.mark.parametrize(("precision", "flag"), [("fp16", "FP16"), ("bf16", "BF16")])
def test_only_tensorrt_10_lowers_a_graph(world: World, major: int, precision: str, flag: str) -> None:
    world.layers = ("FLOAT",)
    if major == 11:
        with pytest.raises(InputError, match="TensorRT 11.* cannot lower it to .*: run 'graphprune opt --passes cast-"):
            runtime(precision=precision).compile(models.linear())
        return
    assert runtime(precision=precision).compile(models.linear()).notes == ()
    assert world.flags == {"SPARSE_WEIGHTS", flag}
    assert world.called("Builder.create_network") == [[0]]


def test_an_fp32_graph_is_said_to_stay_fp32(world: World) -> None:
    world.layers = ("FLOAT", "INT64")
    for sparse, sentence in ((True, "computes in fp32 and can run no sparse kernel"), (False, "computes in fp32: run")):
        with pytest.warns(UserWarning, match=sentence):
            executable = runtime(sparse=sparse).compile(models.linear())
        assert sentence in executable.notes[0]
        assert world.flags == ({"SPARSE_WEIGHTS"} if sparse else set())
        world.flags.clear()


NODE = {"node": 3, "name": "conv_7", "op": "Conv", "desc": "Assertion failed:\n no kernel"}


@pytest.mark.parametrize(
    ("errors", "kind", "sentence"),
    [
        ([NODE], BackendError, r"cannot read '.*model.onnx': node 'conv_7' \(Conv\): Assertion failed: no kernel$"),
        ([{**NODE, "name": "", "code": "UNSUPPORTED_NODE"}], UnsupportedError, r"node 'number 3' \(Conv\)"),
        ([{**NODE, "functions": ["f", "g"]}], BackendError, r"\(Conv\) in function 'f' in function 'g': Assert"),
        ([{"desc": "no graph"}], BackendError, "model.onnx': no graph$"),
        ([NODE] * 5, BackendError, "no kernel; and 2 more$"),
        ([{}], BackendError, "model.onnx': it does not say why$"),
    ],
)
def test_what_cannot_be_parsed_names_its_nodes(
    world: World, errors: list[dict[str, Any]], kind: type[Exception], sentence: str
) -> None:
    world.parser_errors = errors
    with pytest.raises(kind, match=sentence) as caught:
        runtime().compile(models.linear())
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("changes", "kind", "sentence"),
    [
        ({"plan": None}, BackendError, "cannot build an engine for '.*', and TensorRT does not say why"),
        (
            {"plan": None, "messages": [("ERROR", "no\nroom")]},
            BackendError,
            "cannot build an engine for '.*': no room$",
        ),
        ({"refuses": "Builder"}, BackendError, "cannot make a builder here: it needs an NVIDIA GPU"),
        ({"refuses": "OnnxParser"}, BackendError, "cannot make a parser here"),
        ({"refuses": "Runtime"}, BackendError, "cannot make a runtime here"),
        ({"loads": False}, BackendError, "cannot load the engine, and"),
        ({"context": False, "messages": [("INTERNAL_ERROR", "oom")]}, BackendError, "cannot make room .*: oom"),
        ({"takes_profile": False}, BackendError, r"takes no engine for the sizes x \(3, 8\) to \(3, 8\)"),
        ({"refuses": "set_shape"}, BackendError, r"takes no engine for the sizes x \(3, 8\) to"),
        ({"shape_tensor": True}, UnsupportedError, "the input 'x' holds sizes of other tensors"),
        ({"inputs": [Tensor("x", (3, 8), "FP8")]}, UnsupportedError, "'x' is of type FP8, which graphprune cannot"),
    ],
)
def test_what_cannot_be_built_says_why(
    world: World, changes: dict[str, Any], kind: type[Exception], sentence: str
) -> None:
    vars(world).update(changes)
    with pytest.raises(kind, match=sentence):
        runtime().compile(models.linear())


def test_only_onnx_models_are_taken(world: World) -> None:
    with pytest.raises(InputError, match="TensorRT runs ONNX models, not a int; export it to ONNX first"):
        runtime().compile(3)


def test_the_range_of_sizes_is_what_the_options_say(world: World) -> None:
    executable = runtime(min_shapes=("x:1x8",), max_shapes=("x:16x8",)).compile(models.linear())
    assert world.profile == {"x": ((1, 8), (3, 8), (16, 8))}
    assert executable.run([X[:1]])[0].shape == (1, 4)
    assert executable.run([np.tile(X, (5, 1))])[0].shape == (15, 4)
    with pytest.raises(InputError, match="takes 'x' from 1x8 to 16x8, not 18x8: .*max-shapes=x"):
        executable.run([np.tile(X, (6, 1))])


@pytest.mark.parametrize(
    ("changes", "feed", "kind", "sentence"),
    [
        ({}, [X.astype(np.float64)], InputError, "the input 'x' is of type float32, but float64 was given"),
        ({}, [X[:2]], InputError, "the engine takes 'x' from 3x8 to 3x8, not 2x8: build it for that shape"),
        ({"inputs": [Tensor("x", (3, 8))]}, [X[:, :2]], InputError, "3x2 does not fit the input 'x' of shape 3x8"),
        ({}, [X, X], InputError, "takes 1 inputs"),
        ({"runs": False}, [X], BackendError, "cannot run the engine, and"),
        ({"takes_memory": False}, [X], BackendError, "refuses the memory of 'x'"),
        ({"insufficient": ["h"]}, [X], BackendError, "cannot tell the sizes of h"),
        ({"outputs": [Tensor("y", (4, -1))]}, [X], UnsupportedError, "the size of the output 'y' depends on the data"),
    ],
)
def test_what_cannot_run_says_why(
    world: World, changes: dict[str, Any], feed: Any, kind: type[Exception], sentence: str
) -> None:
    vars(world).update(changes)
    with pytest.raises(kind, match=sentence):
        runtime().compile(models.linear()).run(feed)


def test_half_precisions_go_in_and_come_out(world: World) -> None:
    world.inputs, world.outputs = [Tensor("x", (3, 8), "BF16")], [Tensor("y", (3, 4), "HALF")]
    world.compute = lambda x: [x[:, :4].astype(np.float32) * 2]
    x = X.astype(ml_dtypes.bfloat16)
    (y,) = runtime().compile(models.linear()).run([x])
    assert y.dtype == np.float16
    np.testing.assert_array_equal(y, x[:, :4].astype(np.float32) * 2)


def test_progress_is_told_and_can_stop_a_build(world: World) -> None:
    said: list[str] = []
    runtime(progress=said.append).compile(models.linear())
    assert said == [f"building the engine: Building {n}/2" for n in range(3)]

    def interrupted(text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runtime(progress=interrupted).compile(models.linear())


LAYERS = [
    {
        "Name": "conv1 + relu",
        "LayerType": "CaskConvolution",
        "Inputs": [{"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}],
        "HasSparseWeights": 1,
        "TacticName": "sm80_xmma_fprop_sparse_conv_f16f16_f16f32_f32_nhwckrsc_nhwc_tilesize128x64x64_sptensor16x8x32",
        "Metadata": "[ONNX Layer: conv1]\u001e[ONNX Layer: relu]",
    },
    {"Name": "conv2", "Inputs": [{"Format/Datatype": "Half"}], "HasSparseWeights": 1, "TacticName": "sm80_xmma_fprop"},
    {"Name": "gemm_myl", "LayerType": "gemm", "Inputs": [], "TacticName": "sm80_xmma_sparse_gemm_f16f16_f16f32_f32_tn"},
    {"Name": "odd", "Inputs": [{"Format/Datatype": "Two 4-bit numbers"}]},
    "named",
    "nameless",
]


def test_layers_say_which_kernels_are_sparse(world: World) -> None:
    """By the kernel's name; sparse weights alone are no sparse kernel."""
    world.inspected = json.dumps({"Layers": LAYERS, "Bindings": ["x", "y"]})
    world.messages = [("INFO", "(Sparsity) Layers eligible for sparse math: named, odd")]
    world.messages += [("INFO", "(Sparsity) TRT inference plan picked sparse implementation for layers: named")]
    layers = runtime().compile(models.linear()).layers()
    assert [layer.sparse for layer in layers] == [True, False, True, False, True, False]
    assert [layer.eligible for layer in layers] == [True, True, None, True, True, None]
    assert [layer.precision for layer in layers] == ["FP16", "FP16", "", "Two 4-bit numbers", "", ""]
    assert layers[0].nodes == ("conv1", "relu")
    assert layers[0].kind == "CaskConvolution"


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"Layers": [{}]}'])
def test_what_the_inspector_garbles_is_an_error(world: World, text: str) -> None:
    world.inspected = text
    with pytest.raises(BackendError, match="inspector tells nothing readable"):
        runtime().compile(models.linear()).layers()


def test_comparisons_are_timed_by_the_device(world: World) -> None:
    world.layers = ("FLOAT",)
    name = "tensorrt{cache=off memory=cuda-python max-shapes=x:16x8}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        comparison = runtimes.compare([models.linear()] * 2, runtime=name, inputs=[X], effort=SHORT, layers=True)
    assert [row.median for row in comparison] == [cuda_fake.ELAPSED_MS / 1e3] * 2
    assert world.profile == {"x": ((3, 8), (3, 8), (16, 8))}
    assert "fp32 throughout" in comparison[0].notes[0]
    assert comparison[0].layers == (runtimes.LayerChoice("Conv_1", str(LAYER["LayerType"]), eligible=True),)
    where = f"{comparison.environment.version}, NVIDIA Fake (9.0) by its own clock, 3 interleaved rounds, inputs:"
    assert f"{name} {where}" in runtimes.latency_table(comparison)


def test_the_public_benchmark_reaches_it(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    from graphprune.report import render_bench

    onnx.save(models.linear(), tmp_path / "m.onnx")
    said: list[str] = []
    name = "tensorrt{cache=off memory=cuda-python}"
    found = gp.benchmark([str(tmp_path / "m.onnx")], name, input_shapes=[(3, 8)], layers=True, progress=said.append)
    assert said[0] == "building the engine: Building 0/2"
    assert found[0].peak_bytes is None
    render_bench(found, Console(width=200))
    shown = capsys.readouterr().out
    assert "m.onnx: 0 of 1 layers run sparse kernels, 1 are eligible" in shown
    assert "CaskConvolution" in shown


def test_float16_models_are_fed_float16(world: World) -> None:
    world.inputs, world.outputs = [Tensor("x", (-1, 8), "HALF")], [Tensor("y", (-1, 4), "HALF")]
    model = models.linear(elem_type=TensorProto.FLOAT16)
    comparison = runtimes.compare([model], runtime=runtime(), input_shapes={"x": (2, 8)}, effort=SHORT)
    assert world.profile == {"x": ((2, 8), (2, 8), (2, 8))}
    assert comparison.environment.input_shapes == {"x": (2, 8)}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("precision=int8", "precision must be one of model, fp16, bf16, not 'int8'"),
        ("memory=numpy", "memory must be one of auto, torch, cuda-python, not 'numpy'"),
        ("optimization-level=6", "optimization_level is 0 to 5, not 6"),
        ("workspace-gib=0", "workspace_gib must be above 0, not 0"),
        ("max-shapes=x8", "'x8' is no shape; write input:1x3x224x224"),
        ("fast=true", "runtime 'tensorrt' has no option 'fast'; its options are cache, max_shapes"),
        ("sparse=maybe", "runtime 'tensorrt': option 'sparse' must be true or false, not 'maybe'"),
    ],
)
def test_options_that_make_no_sense(world: World, text: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        runtimes.get(f"tensorrt{{{text}}}")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_shapes": ("z:1x8",)}, "the model has no input 'z'"),
        ({"max_shapes": ("x:1x9",)}, "the shape 1x9 does not fit the input 'x'"),
        ({"max_shapes": ("x:2x8",)}, "must grow from least over usual to most, not 3x8 to 3x8 to 2x8"),
    ],
)
def test_ranges_that_make_no_sense(world: World, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        runtime(**options).compile(models.linear())


def test_sizes_nobody_gave_lie_within_the_range(world: World) -> None:
    runtime(shapes=None, min_shapes=("x:4x8",)).compile(models.linear())
    assert world.profile == {"x": ((4, 8), (4, 8), (4, 8))}


def test_static_models_need_no_profile(world: World) -> None:
    world.inputs, world.outputs = [Tensor("x", (3, 8))], [Tensor("y", (3, 4))]
    runtime(shapes=None).compile(models.linear())
    assert not world.called("Builder.create_optimization_profile")


def test_the_cache_is_the_users_own_unless_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert TensorRTOptions().folder == tmp_path / "graphprune" / "tensorrt"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert TensorRTOptions().folder == Path.home() / ".cache" / "graphprune" / "tensorrt"


def test_a_version_that_is_too_old(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorrt as trt

    monkeypatch.setattr(trt, "__version__", "8.6.1")
    with pytest.raises(BackendError, match="TensorRT 8.6.1 is too old: 10 or 11 is needed"):
        runtime().compile(models.linear())


def test_a_machine_without_it_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphprune.runtimes.tensorrt.find_spec", lambda name: None)
    with pytest.raises(BackendError, match="'tensorrt' is not available on this machine: pip install tensorrt"):
        runtimes.get("tensorrt")
    with pytest.raises(BackendError, match="'tensorrt' is not available on this machine: pip install tensorrt"):
        TensorRT().compile(models.linear())


def test_bindings_without_their_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphprune.runtimes.tensorrt.find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendError, match="the one that is there does not load: import of tensorrt halted"):
        runtimes.get("tensorrt")


def test_no_gpu_is_said(monkeypatch: pytest.MonkeyPatch, world: World, major: int) -> None:
    def on(cuda: ModuleType) -> str:
        install(monkeypatch, major, world, cuda)
        return runtime().missing()

    assert on(cuda_fake.runtime(count=0)) == "an NVIDIA GPU with its driver, which cuda-python does not find"
    assert on(cuda_fake.runtime(failing="cudaGetDeviceCount")).startswith("an NVIDIA GPU with its driver")
    assert on(cuda_fake.runtime()) == "nothing"
    install(monkeypatch, major, world, cuda_fake.runtime(failing="cudaMalloc"))
    with pytest.raises(BackendError, match=r"CUDA failed: no CUDA-capable device is detected \(error 100\)"):
        runtime().compile(models.linear()).run([X])
