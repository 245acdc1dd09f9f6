"""The installed command as a process of its own: exit codes, streams, signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

# What the console script runs, from this environment whatever the PATH.
DIGITS = Path(__file__).parent.parent / "models" / "digits_resnet.onnx"
COMMAND = [sys.executable, "-c", "from graphprune.cli import main; main()"]


def graphprune(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], cwd=cwd, capture_output=True, text=True, check=False)


def test_version_and_help(tmp_path: Path) -> None:
    done = graphprune("--version", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("graphprune 0.")
    done = graphprune("--help", cwd=tmp_path)
    assert done.returncode == 0
    for name in ("inspect", "prune", "sparsify", "opt", "verify", "bench", "apply"):
        assert name in done.stdout


@pytest.mark.parametrize(
    "line",
    [
        "prune missing.onnx -o out.onnx --target macs=0.5",
        "sparsify missing.onnx -o out.onnx --pattern 2:4",
        "prune --target",
        "nothing",
    ],
)
def test_bad_usage(tmp_path: Path, line: str) -> None:
    done = graphprune(*line.split(), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("graphprune: error: ")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_is_no_failure(tmp_path: Path) -> None:
    process = subprocess.Popen([*COMMAND, "--help"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), errors) == (0, b"")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_unwind_and_set_the_exit_code(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """A command that hangs in the API is stopped from outside; what it holds open is closed."""
    script = (
        "import signal, sys, time, types, graphprune\n"
        "from graphprune.cli import commands, main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # background jobs of a shell ignore it
        "def load(*_, **__):\n"
        "    try:\n"
        "        print('ready', file=sys.stderr, flush=True); time.sleep(60)\n"
        "    finally:\n"
        "        open('closed', 'w').close()\n"
        "commands._api = lambda: types.SimpleNamespace(load=load)\n"
        "sys.argv[1:] = ['inspect', 'm.onnx']\n"
        "main()\n"
    )
    (tmp_path / "m.onnx").write_bytes(b"model")
    process = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline() == "ready\n"
    os.kill(process.pid, number)
    process.stderr.read()
    process.stderr.close()
    assert process.wait() == code
    assert (tmp_path / "closed").exists()


# A shell has its background jobs ignore Ctrl-C.
FIRST = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"


@pytest.mark.parametrize("module", ["typer", "numpy", "scipy.sparse", "onnx"])
def test_ctrl_c_while_a_library_is_imported(tmp_path: Path, module: str) -> None:
    """Whatever is being imported, from the first library to the last: one line, and at once."""
    script = (
        f"{FIRST}import os, sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        f"        if name == {module!r}:\n"
        "            try:\n"
        "                os.kill(os.getpid(), signal.SIGINT)\n"
        "            except BaseException as error:\n"
        "                raise ImportError('a page of advice') from error\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "from graphprune.cli import main\n"
        f"sys.argv[1:] = ['inspect', {str(DIGITS)!r}]\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr, done.stdout) == (130, "graphprune: error: interrupted\n", "")


def test_an_error_that_a_library_makes_of_ctrl_c_is_an_interrupt(tmp_path: Path) -> None:
    script = (
        f"{FIRST}import os, types\n"
        "from graphprune.cli import commands, main\n"
        "def load(*_, **__):\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "    except BaseException:\n"
        "        raise RuntimeError('internal')\n"
        "commands._api = lambda: types.SimpleNamespace(load=load)\n"
        f"import sys; sys.argv[1:] = ['inspect', {str(DIGITS)!r}]\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "graphprune: error: interrupted\n")
