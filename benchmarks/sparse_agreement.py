"""Whether `polygraphy inspect sparsity` says of every weight of a 2:4 model what graphprune says of it.

    python -m benchmarks.sparse_agreement [--models resnet50]

Each model is exported and made 2:4, all but each fourth layer, so that both answers occur; polygraphy is then asked
about the file. Times are those of making and of asking.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import common, zoo

MODELS = "resnet50"
_MAIN = "import sys; from polygraphy.tools import main; sys.exit(main())"
_SAID = re.compile(r"Found (non-)?sparse tensor: (\S+)")


def asked(path: Path) -> dict[str, bool]:
    """Whether each weight that polygraphy looks at (of Conv, Gemm and MatMul, in fours) is 2:4."""
    command = [sys.executable, "-c", _MAIN, "inspect", "sparsity", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {name: not dense for dense, name in _SAID.findall(done.stdout + done.stderr)}


def run(name: str, cache: Path) -> None:
    """One model."""
    import graphprune as gp
    from graphprune.sparsity import find_layers

    source = zoo.exported(name, cache)
    dense = [layer.name for layer in find_layers(gp.load(source))[0]][::4]
    seconds, result = common.clock(lambda: gp.sparsify(source, pattern="2:4", exclude=dense, verify=False))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "sparse.onnx")
        result.save(path)
        asking, said = common.clock(lambda: asked(path))
    sparse = {weight for weight, is_sparse in said.items() if is_sparse}
    common.tell(weights=len(said), both=len(sparse & set(result.masks)), ours=len(set(result.masks) - sparse))
    common.tell(theirs=len(sparse - set(result.masks)), make_s=seconds, ask_s=asking)


def row(name: str, r: dict[str, Any]) -> list[Any]:
    """A line of the table."""
    counts = [r.get(key) for key in ("weights", "both", "ours", "theirs")]
    return [name, *counts, *(common.number(r.get(key), 1) for key in ("make_s", "ask_s")), r.get("error")]


def main() -> None:
    """One case a model."""
    made = common.parser("sparse_agreement", "2:4 by graphprune and by polygraphy.", limit=3000)
    made.set_defaults(models=MODELS)
    options = made.parse_args()
    if options.case:
        common.child(options, lambda name: run(name, options.cache))
        return
    results = common.run_cases(options, common.chosen(zoo.names(), options.models))
    head = [
        "model",
        "weights asked about",
        "2:4 by both",
        "by us alone",
        "by polygraphy alone",
        "make s",
        "ask s",
        "error",
    ]
    rows = [row(name, result) for name, result in results.items()]
    common.publish(options, "2:4 weights: graphprune and polygraphy", [common.table(head, rows)])


if __name__ == "__main__":
    main()
