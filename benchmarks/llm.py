"""Large language models: capturing without weights, and slicing a checkpoint that is larger than what it may take.

    python -m benchmarks.llm [--folder SCRATCH]

Capture: the real configurations of Qwen3-8B and Llama-3.1-8B (sizes only, no weights), captured, coupled and planned at
params=0.5, uniform over layers; seconds and peak memory. Slice: a Qwen3-8B checkpoint of random bfloat16 weights is
written to disk once (16 GB), pruned by L2 and written as a checkpoint again; the rewriting and writing is set against
`cp -r` of the same folder in the same run. Prove: all that `graphprune prune FOLDER -o FOLDER` does, with the proof,
which takes three inputs of 2 x 16 tokens through the masked original and the pruned model. Memory is the peak of the
process less what it holds with all libraries imported; CPU seconds are those of the process, which other work on the
machine does not lengthen.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import common, zoo

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3-8b": (
        "Qwen3",
        {
            "vocab_size": 151936,
            "hidden_size": 4096,
            "intermediate_size": 12288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 40960,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
            "tie_word_embeddings": False,
        },
    ),
    "llama-3.1-8b": (
        "Llama",
        {
            "vocab_size": 128256,
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
            "tie_word_embeddings": False,
        },
    ),
}
TARGET = "params=0.5"
CASES = ("capture/qwen3-8b", "capture/llama-3.1-8b", "slice/qwen3-8b", "prove/qwen3-8b")


def config_of(name: str) -> Any:
    """A configuration as published; its sizes are facts, no weights come with it."""
    zoo.torchvision()
    import transformers

    family, sizes = CONFIGS[name]
    config = getattr(transformers, f"{family}Config")(**sizes, dtype="bfloat16")
    config.architectures = [f"{family}ForCausalLM"]
    getattr(transformers, f"{family}ForCausalLM")  # imported before memory is first looked at
    return config


def peak_gb() -> float:
    """Peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def capture(name: str) -> None:
    """Capture, couple and plan without weights."""
    import graphprune as gp
    from graphprune.frontends.checkpoint import from_config

    config = config_of(name)
    start = peak_gb()
    seconds, graph = common.clock(lambda: from_config(config))
    common.tell(capture_s=round(seconds, 2), nodes=len(graph.nodes), parameters=graph.parameter_count())
    seconds, coupled = common.clock(lambda: gp.couple(graph))
    common.tell(couple_s=round(seconds, 2), groups=len(coupled))
    seconds, _ = common.clock(lambda: gp.plan(coupled, TARGET, "random", uniform=True))
    common.tell(plan_s=round(seconds, 2), memory_gb=round(peak_gb() - start, 2))


def write_checkpoint(name: str, folder: Path) -> None:
    """A checkpoint of random weights, shard by shard."""
    from safetensors.numpy import save_file

    from graphprune.frontends.checkpoint.skeleton import class_of, skeleton

    config = config_of(name)
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    shapes = {n: tuple(p.shape) for n, p in skeleton(config, class_of(config, name)).named_parameters()}
    places: dict[str, str] = {}
    shard: dict[str, np.ndarray] = {}
    generator = np.random.default_rng(0)
    for i, (tensor, shape) in enumerate(shapes.items()):
        shard[tensor] = random_bfloat16(shape, generator)
        if sum(a.nbytes for a in shard.values()) > 2 << 30 or i + 1 == len(shapes):
            file = f"model-{len(set(places.values())) + 1:05}.safetensors"
            save_file(shard, partial / file, metadata={"format": "pt"})
            places |= dict.fromkeys(shard, file)
            shard = {}
    (partial / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    config.save_pretrained(partial)
    partial.replace(folder)


def random_bfloat16(shape: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
    """Values between 0.01 and 0.04 of either sign: random bits under a fixed exponent, which takes little time."""
    import ml_dtypes

    bits = np.frombuffer(generator.bytes(2 * int(np.prod(shape))), np.uint16)
    return ((bits & 0x80FF) | 0x3C00).view(ml_dtypes.bfloat16).reshape(shape)


def slice_checkpoint(name: str, scratch: Path) -> None:
    """Score, rewrite and write; and what `cp` needs for the same folder."""
    import graphprune as gp
    from graphprune import frontends

    source, target, copied = scratch / name, scratch / f"{name}-pruned", scratch / f"{name}-copied"
    for folder in (target, copied):
        shutil.rmtree(folder, ignore_errors=True)
    common.tell(input_gb=size_gb(source), cp_s=common.clock(lambda: copy(source, copied))[0])
    shutil.rmtree(copied)
    config_of(name)
    start = peak_gb()
    seconds, graph = common.clock(lambda: gp.load(source))
    common.tell(load_s=seconds)
    seconds, plan = common.clock(lambda: gp.plan(graph, TARGET, "l2", uniform=True))
    common.tell(plan_s=seconds)
    seconds, pruned = common.clock(lambda: gp.apply(graph, plan))
    common.tell(apply_s=seconds)
    seconds, emitted = common.clock(lambda: frontends.emit(pruned))
    common.tell(fit_s=seconds, form=emitted.form, config=emitted.reason)
    seconds, _ = common.clock(lambda: frontends.save(pruned, target, emitted))
    common.tell(write_s=seconds, output_gb=size_gb(target), memory_gb=peak_gb() - start)
    load_again(target)


def prove(name: str, scratch: Path) -> None:
    """Prune a folder to a folder with the proof, as the command does."""
    import graphprune as gp

    source, target = scratch / name, scratch / f"{name}-pruned"
    shutil.rmtree(target, ignore_errors=True)
    config_of(name)
    start, worked = peak_gb(), time.process_time()
    seconds, result = common.clock(lambda: gp.prune(source, target=TARGET, uniform=True))
    common.tell(**{f"{STAGES[stage]}_s": spent for stage, spent in result.report.seconds.items() if stage in STAGES})
    proof = result.report.proof
    assert proof is not None
    common.tell(largest_error=proof.max_error, allowed=proof.tolerance, form=result.report.output_form)
    written, _ = common.clock(lambda: result.save(target))
    common.tell(write_s=written, all_s=seconds + written, cpu_s=time.process_time() - worked)
    common.tell(input_gb=size_gb(source), output_gb=size_gb(target), memory_gb=peak_gb() - start)
    shutil.rmtree(target)


def copy(source: Path, target: Path) -> None:
    """What `cp -r` does, to the disk."""
    subprocess.run(["cp", "-r", source, target], check=True)


def size_gb(folder: Path) -> float:
    """Size of a folder's files in 10^9 bytes."""
    return sum(file.stat().st_size for file in folder.iterdir()) / 1e9


def load_again(folder: Path) -> None:
    """Whether transformers builds the result as it builds any other checkpoint, from memory-mapped weights."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    with torch.no_grad():
        logits = model(input_ids=torch.arange(8)[None]).logits
    common.tell(loads=bool(torch.isfinite(logits).all()))


def run(case: str, scratch: Path) -> None:
    """One case."""
    what, name = case.split("/")
    if what == "capture":
        capture(name)
    elif what == "write":
        write_checkpoint(name, scratch / name)
    elif what == "prove":
        prove(name, scratch)
    else:
        slice_checkpoint(name, scratch)


CAPTURED = ("nodes", "parameters", "capture_s", "couple_s", "plan_s", "memory_gb", "error")
SLICED = ("input_gb", "output_gb", "cp_s", "load_s", "plan_s", "apply_s", "fit_s", "write_s", "memory_gb")
PROVEN = (
    "input_gb", "output_gb", "load_s", "plan_s", "fit_s", "verify_s", "write_s", "all_s", "cpu_s", "memory_gb",
)  # fmt: skip
STAGES = {"reading the model": "load", "planning": "plan", "writing the model": "fit", "verifying": "verify"}


def tables(results: dict[str, dict[str, Any]]) -> list[str]:
    """What was captured, and what slicing took."""
    rows: dict[str, list[list[Any]]] = {"capture": [], "slice": [], "prove": []}
    notes = []
    for case, r in results.items():
        what, name = case.split("/")
        if what == "capture":
            rows[what].append([name, *map(r.get, CAPTURED)])
        elif what == "prove":
            errors = [common.number(r.get(key), 3) for key in ("largest_error", "allowed")]
            rows[what].append([name, *(common.number(r.get(key), 1) for key in PROVEN), *errors, r.get("error")])
        else:
            rows[what].append([name, *(common.number(r.get(key), 1) for key in SLICED), r.get("loads"), r.get("error")])
            notes += [speed(r)] if r.get("write_s") else []
    captured = common.table([title(key) for key in ("model", *CAPTURED)], rows["capture"])
    sliced = common.table([title(key) for key in ("model", *SLICED, "from_pretrained runs it", "error")], rows["slice"])
    proven = common.table(
        [title(key) for key in ("model", *PROVEN, "largest error", "allowed", "error")], rows["prove"]
    )
    parts = ["## Capture, couple and plan, without weights", captured, "## Slicing a checkpoint", sliced, *notes]
    return [*parts, "## Folder to folder, with the proof", proven]


def title(key: str) -> str:
    """A column's title from a fact's name."""
    return key.replace("_gb", " GB").replace("_", " ")


def speed(result: dict[str, Any]) -> str:
    """Slicing and writing against `cp`, in words."""
    ratio = result["cp_s"] / (result["apply_s"] + result["write_s"])
    return f"Slicing and writing went at {ratio:.2f} times the speed of `cp`; {result['form']}: {result['config']}."


def main() -> None:
    """The cases one after the other; the checkpoint is written first, if it is not there."""
    made = common.parser("llm", "Large language models.", limit=1800)
    made.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "graphprune-llm")
    options = made.parse_args()
    if options.case:
        common.child(options, lambda case: run(case, options.folder))
        return
    cases = common.chosen(CASES, options.models)
    missing = sorted({c.split("/")[1] for c in cases if not c.startswith("capture")})
    common.run_cases(options, [f"write/{name}" for name in missing if not (options.folder / name).exists()])
    results = common.run_cases(options, cases)
    common.publish(options, "Large language models", tables(results))


if __name__ == "__main__":
    main()
