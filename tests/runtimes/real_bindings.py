"""TensorRT's real Python bindings, installed by pip beside empty libraries that this test compiles: no engine, no GPU.

The bindings are linked against libnvinfer, libnvinfer_plugin and libnvonnxparser, which are gigabytes, and need nine C
functions of them. Functions that return null let the bindings load, and their constructors fail as they do without GPU.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "tensorrt"
PACKAGES = {
    "10.0": ("tensorrt-cu12-bindings==10.0.1",),
    "10": ("tensorrt-cu12-bindings==10.16.1.11",),
    "11.0": ("tensorrt-cu12-bindings==11.0.0.114",),
    "11": ("tensorrt-cu13-bindings==11.4.0.106",),
}
CUDA = ("cuda-bindings==13.5.0", "cuda-pathfinder")
_FUNCTIONS = """createInferBuilder_INTERNAL createInferRefitter_INTERNAL createInferRuntime_INTERNAL
createNvOnnxParserRefitter_INTERNAL createNvOnnxParser_INTERNAL getBuilderPluginRegistry getNvOnnxParserVersion
getPluginRegistry initLibNvInferPlugins""".split()
_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
_SHIM = "from tensorrt_bindings import *\nfrom tensorrt_bindings import __version__\n"  # as the package `tensorrt` does
_SECONDS = 240


@dataclass(frozen=True)
class Bindings:
    """The bindings of one version, to be imported as `tensorrt` by a process of their own."""

    folder: Path

    def run(self, *command: str) -> str:
        """What `python *command` prints."""
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, [self.folder, ROOT])),
            "LD_LIBRARY_PATH": str(self.folder / "stubs"),
        }
        done = subprocess.run(
            [sys.executable, *command], env=environment, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def bindings(version: str) -> Bindings:
    """The bindings, installed once into `.cache`; skips the test where they cannot be had."""

    def complete(folder: Path) -> None:
        (folder / "tensorrt").mkdir()
        (folder / "tensorrt" / "__init__.py").write_text(_SHIM)
        _compile(folder / "stubs", version.partition(".")[0])

    return Bindings(installed(PACKAGES[version], complete))


def installed(packages: tuple[str, ...], complete: Callable[[Path], None] = lambda folder: None) -> Path:
    """A folder that holds these packages, nothing they depend on, and what `complete` puts there.

    It appears whole: tests run in several processes.
    """
    folder = CACHE / "-".join(packages).replace("=", "")
    if folder.exists():
        return folder
    draft = folder.with_name(f"{folder.name}.{os.getpid()}")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--target", str(draft), *packages]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode:
        shutil.rmtree(draft, ignore_errors=True)
        pytest.skip(f"pip cannot install {' '.join(packages)}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    complete(draft)
    try:
        draft.rename(folder)
    except OSError:  # another worker was faster
        shutil.rmtree(draft)
    return folder


def _compile(folder: Path, major: str) -> None:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler to make the empty libraries with")
    folder.mkdir()
    source = folder / "stubs.c"
    source.write_text("\n".join(f"void *{name}(void) {{ return 0; }}" for name in _FUNCTIONS) + "\n")
    for library in _LIBRARIES:
        name = f"lib{library}.so.{major}"
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), str(source)]
        subprocess.run(command, check=True, capture_output=True)
