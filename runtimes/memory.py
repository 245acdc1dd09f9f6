"""Peak memory of one load and run, measured in a process of its own.

Run as a script (`python -P memory.py MODEL INPUTS.npz THREADS`), so that the measured process imports onnxruntime and
numpy and nothing else; `-P` keeps this folder, which has an `onnxruntime.py`, off its path.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

_SECONDS = 300


def peak_growth(model: Path, inputs: dict[str, np.ndarray], threads: int | None) -> int | None:
    """Bytes between the peak after loading and running `model` once and the peak before; None where unmeasurable."""
    if not Path("/proc/self/status").exists():
        return None
    with TemporaryDirectory(prefix="graphprune-") as folder:
        arrays = Path(folder, "inputs.npz")
        np.savez(arrays, **dict[str, Any](inputs))
        command = [sys.executable, "-P", __file__, str(model), str(arrays), str(threads or 0)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
            return int(done.stdout)
        except (subprocess.SubprocessError, ValueError, OSError):
            return None


def _high_water() -> int:
    """This process's peak resident size in bytes (`ru_maxrss` would include the parent's, from before exec)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("the kernel does not report VmHWM")


def _measure(model: str, arrays: str, threads: int) -> int:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    with np.load(arrays, allow_pickle=False) as archive:
        feed = dict(archive)
    before = _high_water()
    ort.InferenceSession(model, options, ["CPUExecutionProvider"]).run(None, feed)
    return _high_water() - before


if __name__ == "__main__":
    print(_measure(sys.argv[1], sys.argv[2], int(sys.argv[3])))
