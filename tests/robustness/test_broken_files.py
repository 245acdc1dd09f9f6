"""Broken models, plans and archives through the command line: `make fuzz` runs thousands, two hundred run here."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import onnx
import pytest

from tests.robustness.attempts import ATTEMPTS, command
from tests.robustness.originals import originals

ROOT = Path(__file__).resolve().parents[2]
SEEDS = {"broken": range(140), "plans": range(40), "archives": range(16)}


@pytest.mark.parametrize("name", sorted(originals()))
def test_originals_are_valid_and_pruned(name: str, tmp_path: Path) -> None:
    for file, data in originals()[name].items():
        (tmp_path / file).write_bytes(data)
    onnx.checker.check_model(str(tmp_path / "in.onnx"))
    line = ["prune", str(tmp_path / "in.onnx"), "-o", str(tmp_path / "out.onnx"), "--target", "channels=0.5"]
    assert command(line) == (0, "")


@pytest.mark.parametrize("kind", list(SEEDS))
def test_broken_files_are_refused_or_handled(kind: str) -> None:
    """In a process of its own: a crash inside a library would take all other tests along."""
    code = f"""
import resource
from tests.robustness.attempts import ATTEMPTS
resource.setrlimit(resource.RLIMIT_DATA, (6 << 30, 6 << 30))
for seed in {SEEDS[kind]!r}:
    print(seed, flush=True)
    try:
        print(ATTEMPTS[{kind!r}](seed)["outcome"], flush=True)
    except Exception as error:
        print(f"{{type(error).__name__}}: {{error}}", flush=True)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False, timeout=600
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"stopped with {done.returncode} after seed {lines[-1:]}: {done.stderr[-500:]}"
    outcomes = dict(zip(lines[::2], lines[1::2], strict=True))
    bad = {seed: text for seed, text in outcomes.items() if text not in ("refused", "done")}
    assert not bad
    assert ATTEMPTS.keys() == SEEDS.keys()
    assert Counter(outcomes.values())["refused"] >= len(SEEDS[kind]) // 3
