"""What half of the MACs is worth: latency on onnxruntime, dense and pruned in turns.

    python -m benchmarks.latency [--models resnet50] [--target 0.5]

Each model is exported, pruned to `macs=0.5` (channel counts in multiples of 8, as is the default) and timed on one CPU
thread at batch 1, 224x224. Weights are random, so this is about speed, not accuracy.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks import common, zoo

MODELS = "convnext_tiny,densenet121,efficientnet_b0,mobilenet_v2,resnet18,resnet50,vgg16,vit_b_16"


def run(name: str, cache: Path, target: float, seconds: float) -> None:
    """Prune one export and time it beside the original."""
    import graphprune as gp
    from graphprune.runtimes import Effort, compare

    source = zoo.exported(name, cache)
    prune_s, result = common.clock(lambda: gp.prune(source, target=gp.macs(target), criterion="l2"))
    report = result.report
    common.tell(
        prune_s=prune_s,
        params_ratio=report.after.parameters / report.before.parameters,
        macs_ratio=report.after.macs / report.before.macs,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pruned.onnx")
        result.save(path)
        effort = Effort(seconds=seconds, min_rounds=20)
        dense, pruned = compare([source, path], runtime="onnxruntime", threads=1, effort=effort)
    common.tell(dense_ms=dense.median * 1e3, pruned_ms=pruned.median * 1e3, dense_p90=dense.p90 * 1e3)
    common.tell(pruned_p90=pruned.p90 * 1e3, ratio=pruned.ratio, low=pruned.ratio_low, high=pruned.ratio_high)


def row(name: str, r: dict[str, Any]) -> list[Any]:
    """A line of the table."""
    shares = [common.number(r.get(key), 3) for key in ("params_ratio", "macs_ratio")]
    times = [common.number(r.get(key), 1) for key in ("dense_ms", "dense_p90", "pruned_ms", "pruned_p90")]
    interval = f"{r['low']:.3f} to {r['high']:.3f}" if "low" in r else None
    return [name, *shares, *times, common.number(r.get("ratio"), 3), interval, r.get("error")]


def main() -> None:
    """One case a model."""
    made = common.parser("latency", "Latency of the pruned model on onnxruntime.", limit=600)
    made.set_defaults(models=MODELS)
    made.add_argument("--target", type=float, default=0.5, help="share of the MACs to keep")
    made.add_argument("--seconds", type=float, default=20, help="how long to time a model")
    options = made.parse_args()
    if options.case:
        common.child(options, lambda name: run(name, options.cache, options.target, options.seconds))
        return
    results = common.run_cases(options, common.chosen(zoo.names(), options.models))
    shares, times = ["parameters kept", "MACs kept"], ["dense ms", "p90", "pruned ms", "p90"]
    head = ["model", *shares, *times, "ratio", "95 % interval", "error"]
    note = "One thread, batch 1; medians of interleaved runs; the ratio is the median of the ratios pair by pair."
    body = common.table(head, [row(name, r) for name, r in results.items()])
    common.publish(options, f"Latency on onnxruntime at macs={options.target:g}", [note, body])


if __name__ == "__main__":
    main()
