"""2:4 against dense and channel pruning on an NVIDIA GPU: single products, ViT-L, a block of Llama-3-8B's shape.

Needs torch (a CUDA build) and nothing else; `--dry-run` goes through all of it on a CPU with tiny shapes. Writes
`gpu_sparse.md` and `gpu_sparse.json`, the products alone, which `inspect --sparsity` reads. What does not fit into
`--seconds` is left out, and the page says so.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import torch

from benchmarks import gpu_models
from benchmarks.common import ROOT, commit, machine, table, versions
from benchmarks.gpu_clock import Clock, CpuClock, CudaClock, in_turns
from benchmarks.gpu_products import FEWER_ROWS, GROUPS, ROWS, WIN, Product, measure, prune_2_4, refused, sparse_module

_BATCHES = (1, 2, 4, 8, 16, 32, 64)
_SEQUENCES = ((1, 16), (1, 128), (1, 512), (1, 2048), (8, 512), (8, 2048))
_SHOWN = (64, 256, 1024, 4096, 16384)
_PARTS = ("dense", "2:4", "2:4 tuned", "half width")
_TINY = {"tiny": ((64, 64), (64, 128))}


@dataclass
class Run:
    """Where and how it is measured, until when, and what was found."""

    where: str
    clock: Clock
    eager: Clock
    until: float
    dry: bool = False
    commit: str = ""
    products: list[Product] = field(default_factory=list)
    models: list[tuple[str, str, dict[str, float], dict[str, float]]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def late(self, what: str) -> bool:
        """Whether the time is up; if so, `what` is noted as left out."""
        if time.monotonic() < self.until:
            return False
        self.notes.append(f"Time was up before {what}.")
        return True


def models(run: Run) -> None:
    """Whole ViT-L and Llama blocks, by batch."""
    dtype = torch.float32 if run.dry else torch.float16
    sizes = gpu_models.TINY if run.dry else gpu_models.VIT_L
    depth, image = (2, 32) if run.dry else (24, 224)
    vits = [lambda s=s: gpu_models.Vit(s, depth, image) for s in (sizes, sizes.halved())]  # type: ignore[misc]
    batches = (1, 2) if run.dry else _BATCHES
    tokens = (image // 16) ** 2 + 1
    cases = [(f"batch {b}", torch.randn(b, 3, image, image), b * tokens) for b in batches]
    _model(run, "ViT-L/16", vits, cases, dtype)
    sizes = gpu_models.TINY if run.dry else gpu_models.LLAMA_8B
    blocks = [lambda s=s: gpu_models.Block(s, language=True) for s in (sizes, sizes.halved())]  # type: ignore[misc]
    sequences = ((1, 16),) if run.dry else _SEQUENCES
    cases = [(f"{b} x {t} tokens", torch.randn(b, t, sizes.width), b * t) for b, t in sequences]
    _model(run, "Llama-3-8B block", blocks, cases, dtype)


def _model(
    run: Run,
    name: str,
    make: Sequence[Callable[[], torch.nn.Module]],
    cases: Sequence[tuple[str, torch.Tensor, int]],
    dtype: torch.dtype,
) -> None:
    """One network in all its forms; `make` makes it whole and at half width."""
    whole, half = (_placed(one, run.where, dtype) for one in make)
    with torch.no_grad():
        for layer in whole.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight.copy_(prune_2_4(layer.weight))
    module = sparse_module()
    kernels = module.Kernels("dry run", {dtype: (16, 16)}, lambda w, rows: w.clone()) if run.dry else module.kernels()
    sparse = module.semi_structured(whole, use=kernels)
    run.notes.append(f"{name}: {sparse.note()}.")
    for case, feed, rows in cases:
        if run.late(f"{name}, {case}"):
            return
        feed = feed.to(run.where, dtype)
        tuned = module.semi_structured(whole, use=kernels, rows=rows)
        forms = dict(zip(_PARTS, (whole, sparse.module, tuned.module, half), strict=True))
        calls = {part: [partial(form, feed)] for part, form in forms.items()}
        seconds, failed = in_turns(run.clock, calls)
        eager, _ = in_turns(run.eager, calls)
        run.models.append((name, case, seconds, eager))
        run.notes += [f"{name}, {case}, {part}: {why}." for part, why in failed.items()]
        off = float((sparse.module(feed) - whole(feed)).float().norm() / whole(feed).float().norm())
        if not off < 2e-2:
            run.notes.append(f"{name}, {case}: the sparse form is off by {off:.2g}.")
        _say(f"{name} {case}: " + ", ".join(f"{part} {1e3 * t:.3f} ms" for part, t in seconds.items()))


def _placed(make: Callable[[], torch.nn.Module], where: str, dtype: torch.dtype) -> torch.nn.Module:
    with torch.device(where):
        return make().to(dtype).eval()


def products(run: Run) -> None:
    """Every shape in fp16, then in bf16 at fewer rows and without CUTLASS."""
    groups = _TINY if run.dry else GROUPS
    plans: list[tuple[torch.dtype, Sequence[int], bool]] = [
        (torch.float16, ROWS, True),
        (torch.bfloat16, FEWER_ROWS, False),
    ]
    if run.dry:
        plans = [(torch.float32, (1, 8), True)]
    for dtype, rows, cutlass in plans:
        if cutlass and (why := refused("cutlass", dtype, run.where)):
            run.notes.append(f"CUTLASS is left out: {why}.")
            cutlass = False
        for group, shapes in groups.items():
            for k, n in shapes:
                if run.late(f"{group} {k} -> {n} in {dtype}"):
                    return
                _product(run, measure(group, k, n, dtype, rows, run.clock, run.where, cutlass))


def _product(run: Run, steps: Iterator[Product]) -> None:
    for step, product in enumerate(steps):
        if step == 0:
            run.products.append(product)
        if time.monotonic() >= run.until:
            run.notes.append(f"Time was up within {product.group} {product.k} -> {product.n} in {product.dtype}.")
            break
    ratios = {rows: f"{ratio:.2f}" for rows, ratio in product.ratios("sparse", "tuned").items()}
    _say(f"{product.group} {product.k} -> {product.n} {product.dtype}: {ratios}")


def page(run: Run) -> str:
    """The whole page in Markdown."""
    parts = [_head(run), "## Whole networks", _models_table(run)]
    for dtype in dict.fromkeys(product.dtype for product in run.products):
        parts += [f"## Single products, {dtype}", _products_table([p for p in run.products if p.dtype == dtype])]
        parts.append(_overview([p for p in run.products if p.dtype == dtype]))
    notes = run.notes + _refusals(run.products)
    parts += ["## Notes", "\n".join(f"- {note}" for note in notes)] if notes else []
    return "\n\n".join(parts) + "\n"


def _head(run: Run) -> str:
    command = " ".join(["python -m benchmarks.gpu_sparse", *sys.argv[1:]])
    return (
        f"# 2:4 on a GPU\n\n`{command}`, {datetime.now(UTC):%Y-%m-%d}, measured at {run.commit}.\n{_device(run)}.\n"
        f"{machine()}. {versions()}.\n\n"
        f"Medians of runs in turns, {run.clock.how}. Ratios are the dense time over the other; the ideal of 2:4 is 2."
        " *tuned*: cuSPARSELt's own search chose the kernel for these rows, else it is its default. *half k*, *half n*:"
        " channel pruning to the same arithmetic, dense, half the inputs or outputs gone. Weights are in as many copies"
        f" as it takes to find none in the cache. A win is {WIN} or more, at these rows and all above."
    )


def _device(run: Run) -> str:
    if run.dry:
        return "Dry run on a CPU: the figures mean nothing"
    properties = torch.cuda.get_device_properties(0)
    library = torch.backends.cusparselt.version() if torch.backends.cusparselt.is_available() else "none"
    capability = f"{properties.major}.{properties.minor}"
    return (
        f"{properties.name}, {properties.multi_processor_count} multiprocessors, compute capability {capability},"
        f" {properties.total_memory / 2**30:.0f} GiB; CUDA {torch.version.cuda}, cuSPARSELt {library}"
    )


def _models_table(run: Run) -> str:
    head = ["network", *(f"{part} ms" for part in _PARTS), "2:4", "share of 2x", "half width", "from Python: dense ms"]
    rows = []
    for name, case, seconds, eager in run.models:
        best = min((seconds[p] for p in _PARTS[1:3] if p in seconds), default=None)
        dense, half = seconds.get("dense"), seconds.get("half width")
        times = [_ms(seconds.get(part)) for part in _PARTS]
        ratio = dense / best if dense and best else None
        pruned = dense / half if dense and half else None
        cells = [_two(ratio), _share(ratio), _two(pruned), _ms(eager.get("dense")), _ms(eager.get("2:4"))]
        rows.append([f"{name}, {case}", *times, *cells])
    return table([*head, "from Python: 2:4 ms"], rows)


def _products_table(found: Sequence[Product]) -> str:
    head = ["network", "k", "n", "wins from rows", "untuned", *(f"2:4 at {rows}" for rows in _SHOWN)]
    head += ["best", "share of 2x", "CUTLASS best", "half k at 4096", "half n at 4096", "dense TFLOP/s at 4096"]
    rows = []
    for p in found:
        ratios, cutlass = p.ratios("sparse", "tuned"), p.ratios("cutlass")
        best = max(ratios.values(), default=None)
        at = [_two(ratios.get(count)) for count in _SHOWN]
        pruned = [_two(p.ratios(part).get(4096)) for part in ("half k", "half n")]
        dense = p.seconds.get("dense", {}).get(4096)
        speed = f"{2e-12 * 4096 * p.k * p.n / dense:.0f}" if dense else None
        wins = [p.wins_from("sparse", "tuned"), p.wins_from("sparse")]
        cells = [_two(best), _share(best), _two(max(cutlass.values(), default=None)), *pruned, speed]
        rows.append([p.group, p.k, p.n, *(w or "never" for w in wins), *at, *cells])
    return table(head, rows)


def _overview(found: Sequence[Product]) -> str:
    """Geometric means over the shapes of each network."""
    counts = sorted({rows for p in found for rows in p.seconds.get("dense", {})})
    rows = []
    for group in dict.fromkeys(p.group for p in found):
        means = []
        for count in counts:
            ratios = [p.ratios("sparse", "tuned").get(count) for p in found if p.group == group]
            known = [ratio for ratio in ratios if ratio]
            means.append(_two(geometric_mean(known)) if known else None)
        rows.append([group, *means])
    return "Geometric means over the shapes, by rows:\n\n" + table(["network", *map(str, counts)], rows)


def _refusals(products: Sequence[Product]) -> list[str]:
    """What could not be run or was wrong, each reason once with the first product it was given for."""
    first: dict[str, str] = {}
    count: Counter[str] = Counter()
    for product in products:
        for what, why in product.failed.items():
            first.setdefault(why, f"{product.group} {product.k} -> {product.n} {product.dtype}, {what}")
            count[why] += 1
    more = {why: f" (and {times - 1} more times)" if times > 1 else "" for why, times in count.items()}
    return [f"{where}: {why}{more[why]}." for why, where in first.items()]


def _ms(seconds: float | None) -> str | None:
    return None if seconds is None else f"{1e3 * seconds:.3f}"


def _two(ratio: float | None) -> str | None:
    return None if ratio is None else f"{ratio:.2f}"


def _share(ratio: float | None) -> str | None:
    return None if ratio is None else f"{50 * ratio:.0f} %"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _write(run: Run, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu_sparse.md").write_text(page(run))
    lines: list[Any] = [product.record() for product in run.products]
    text = ",\n".join(json.dumps(line) for line in lines)
    (folder / "gpu_sparse.json").write_text(f"[\n{text}\n]\n")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_sparse", description=__doc__)
    parser.add_argument("--seconds", type=float, default=400, help="stop measuring after so long")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "measurements", help="folder to write to")
    parser.add_argument("--dry-run", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--commit", default="", help="the commit, where there is no git to ask")
    options = parser.parse_args(arguments)
    if not options.dry_run and (lacks := sparse_module().lacking()):
        parser.exit(1, f"no GPU for 2:4 kernels: {lacks}; --dry-run goes through the script without one\n")
    torch.manual_seed(0)
    clocks = [CpuClock(), CpuClock()] if options.dry_run else [CudaClock(), CudaClock(graphs=False)]
    where = "cpu" if options.dry_run else "cuda"
    run = Run(where, *clocks, time.monotonic() + options.seconds, options.dry_run, options.commit or commit())
    with torch.inference_mode():
        for part in (models, products):
            part(run)
            _write(run, options.out)  # what is there is kept, should the rest fail
    print(page(run))


if __name__ == "__main__":
    main()
