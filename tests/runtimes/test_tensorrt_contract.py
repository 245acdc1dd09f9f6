"""The TensorRT backend against the real bindings of TensorRT 10 and 11 and of cuda-python.

The committed surface is that of the real bindings; mypy finds every class, method, argument, property and enum member
that the backend uses in that surface; the stand-in on which `test_tensorrt.py` runs the backend is made of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from graphprune.runtimes.tensorrt_build import DTYPES, LOWERING
from tests.runtimes import cuda_fake
from tests.runtimes.real_bindings import CUDA, PACKAGES, ROOT, bindings, installed
from tests.runtimes.tensorrt_fake import load_surface
from tests.runtimes.tensorrt_surface import stub

BACKEND = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "runtimes").glob("tensorrt*.py"))
SCRIPT = Path(__file__).with_name("tensorrt_surface.py")


@pytest.mark.parametrize("major", [10, 11])
def test_the_committed_surface_is_that_of_the_real_bindings(major: int) -> None:
    assert json.loads(bindings(str(major)).run(str(SCRIPT))) == load_surface(major)


_ON_THE_BINDINGS = """
import sys
import tensorrt as trt
from graphprune.errors import BackendError
from graphprune.runtimes import tensorrt_log as logs
from graphprune.runtimes.tensorrt_build import build
from graphprune.runtimes.tensorrt_options import TensorRTOptions

assert tuple(trt.Dims([3, -1])) == (3, -1)
log = logs.BuildLog()
with logs.listening(log) as logger:
    logger.log(trt.ILogger.Severity.ERROR, "no room")
assert log.problems == ["no room"], log
said = []
watch = logs.Watch(said.append)
monitor = logs.monitor(watch)
monitor.phase_start("a", None, 2)
assert monitor.step_complete("a", 0) is True
monitor.phase_finish("a")
assert len(said) == 2 and not watch.steps
try:
    build(sys.argv[1], TensorRTOptions())
except BackendError as error:
    print(error)
"""


@pytest.mark.parametrize("version", PACKAGES)
def test_the_real_bindings_take_our_logger_and_our_monitor_and_want_a_gpu(version: str) -> None:
    model = str(ROOT / "models" / "digits_resnet.onnx")
    said = bindings(version).run("-c", _ON_THE_BINDINGS, model)
    assert said.startswith("TensorRT cannot make a builder here: it needs an NVIDIA GPU, its driver")
    assert "factory function returned nullptr" in said


def _mypy(folder: Path, text: str) -> str:
    """What mypy says of the backend, with nothing known but the standard library and `tensorrt` as told."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tensorrt.pyi").write_text(text)
    command = [sys.executable, "-m", "mypy", "--config-file=", "--cache-dir", str(folder / "cache")]
    command += ["--check-untyped-defs", "--follow-imports=skip", "--ignore-missing-imports", "--no-site-packages"]
    environment = os.environ | {"MYPYPATH": str(folder)}
    done = subprocess.run([*command, *BACKEND], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


@pytest.mark.parametrize("major", [10, 11])
def test_all_that_the_backend_uses_is_there(major: int, tmp_path: Path) -> None:
    assert _mypy(tmp_path, stub(load_surface(major))).startswith("Success: no issues found in")


@pytest.mark.parametrize("version", ["10.0", "11.0"])
def test_all_that_the_backend_uses_was_there_from_the_first(version: str, tmp_path: Path) -> None:
    surface = json.loads(bindings(version).run(str(SCRIPT)))
    assert surface["version"].startswith(version)
    assert _mypy(tmp_path, stub(surface)).startswith("Success: no issues found in")


def test_what_is_not_there_would_be_found(tmp_path: Path) -> None:
    """A method, an enum member, an argument and a settable property taken away, and one argument of another type."""
    surface = load_surface(11)
    members = {name: about["members"] for name, about in surface["classes"].items()}
    del members["IExecutionContext"]["execute_async_v3"]
    surface["enums"]["BuilderFlag"].remove("SPARSE_WEIGHTS")
    members["IOptimizationProfile"]["set_shape"]["signatures"][0]["takes"].pop()
    members["IBuilderConfig"]["progress_monitor"]["settable"] = False
    members["IExecutionContext"]["set_tensor_address"]["signatures"][0]["takes"][1][1] = "str"
    said = _mypy(tmp_path, stub(surface))
    for complaint in (
        '"IExecutionContext" has no attribute "execute_async_v3"',
        '"type[BuilderFlag]" has no attribute "SPARSE_WEIGHTS"',
        'Too many arguments for "set_shape"',
        'Property "progress_monitor" defined in "IBuilderConfig" is read-only',
        'Argument 2 to "set_tensor_address" of "IExecutionContext" has incompatible type "int"; expected "str"',
    ):
        assert complaint in said, said
    assert "Found 5 errors" in said


def test_names_that_are_looked_up_are_there() -> None:
    """What mypy cannot see: the flags of TensorRT 10 by name, and the types of tensors by theirs."""
    old, new = (load_surface(major)["enums"] for major in (10, 11))
    assert set(LOWERING.values()) <= set(old["BuilderFlag"])
    assert not set(LOWERING.values()) & set(new["BuilderFlag"])
    assert set(DTYPES) <= set(old["DataType"]) & set(new["DataType"])
    for name in ("ERROR", "INTERNAL_ERROR"):
        assert name in old["ILogger.Severity"] and name in new["ILogger.Severity"]
    assert any(code.startswith("UNSUPPORTED") for code in new["ErrorCode"])


_ON_CUDA = """
import json, sys
from cuda.bindings import runtime
from graphprune.runtimes import tensorrt_memory as memory
names = json.loads(sys.argv[1])
print(json.dumps({
    "missing": [name for name in names if not hasattr(runtime, name)],
    "signatures": {name: getattr(runtime, name).__doc__.strip().splitlines()[0] for name in names if name[4:5].isupper()
                   and callable(getattr(runtime, name)) and not isinstance(getattr(runtime, name), type)},
    "device": [hasattr(runtime.cudaDeviceProp, name) for name in ("name", "major", "minor")],
    "kinds": [hasattr(runtime.cudaMemcpyKind, f"cudaMemcpy{way}") for way in ("HostToDevice", "DeviceToHost")],
    "lacking": memory._cuda_lacks(),
}))
try:
    memory.CudaMemory()
except memory.BackendError as error:
    print(error)
"""


def test_cuda_python_has_what_memory_takes() -> None:
    """Its functions, as many arguments as are given, and errors first; without a driver each of them fails."""
    names = [name for name in vars(cuda_fake.runtime()) if name.startswith("cuda")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(installed(CUDA)), str(ROOT)])}
    command = [sys.executable, "-c", _ON_CUDA, json.dumps(names)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    told = json.loads(first)
    assert told["missing"] == []
    assert all(told["device"] + told["kinds"])
    counts = {
        name: len([a for a in text.partition("(")[2].rstrip(")").split(",") if a])
        for name, text in told["signatures"].items()
    }
    assert counts == {"cudaGetDeviceCount": 0, "cudaGetDevice": 0, "cudaGetDeviceProperties": 1} | {
        "cudaRuntimeGetVersion": 0, "cudaStreamCreate": 0, "cudaStreamSynchronize": 1, "cudaEventCreate": 0,
        "cudaEventRecord": 2, "cudaEventSynchronize": 1, "cudaEventElapsedTime": 2, "cudaMalloc": 1, "cudaFree": 1,
        "cudaMemcpyAsync": 5, "cudaGetErrorString": 1,
    }  # fmt: skip
    if told["lacking"] is not None:  # no GPU here
        assert "an NVIDIA GPU with its driver" in told["lacking"]
        assert rest[0].startswith("CUDA failed: ")
