"""Run mypy over the package as it installs.

`passes/` and `runtimes/` live beside `graphprune/` but install inside it, which mypy cannot see in a source tree. So
the package is put together from links, and mypy looks at that.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINKS = ROOT / ".cache" / "types" / "graphprune"


def assemble() -> None:
    """Make `LINKS` hold exactly one link for every entry of the package."""
    LINKS.mkdir(parents=True, exist_ok=True)
    wanted = {path.name: path for path in (ROOT / "graphprune").iterdir() if path.name != "__pycache__"}
    wanted |= {"passes": ROOT / "passes", "runtimes": ROOT / "runtimes"}
    for link in LINKS.iterdir():
        link.unlink()
    for name, path in wanted.items():
        (LINKS / name).symlink_to(path)


if __name__ == "__main__":
    assemble()
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), "--cache-dir"]
    command += [str(ROOT / ".mypy_cache"), "-p", "graphprune", *sys.argv[1:]]
    sys.exit(subprocess.run(command, cwd=LINKS.parent, check=False).returncode)
