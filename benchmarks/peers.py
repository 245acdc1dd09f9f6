"""Drivers for the tools that graphprune is measured against, each used the way its own documentation shows.

    python -m benchmarks.peers --models 'resnet18,mobilenet_v3_small'

- Torch-Pruning: `BasePruner`, group L2 importance, ratio 0.5, the classifier ignored, as in its README. For attention,
  as in its scripts over timm and torchvision models: `num_heads` for layers that hold a fused QKV, head counts and
  hidden sizes written back afterwards, the output projection of `nn.MultiheadAttention` ignored.
- onnxsim: `apply_structured_pruning` and then `apply_attention_head_pruning`, sparsity 0.5.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import common, zoo
from benchmarks.random_weights import call, tensors

RATIO = 0.5
TOOLS = ("torch-pruning", "onnxsim")


def classifiers(model: nn.Module, example: Any) -> list[nn.Module]:
    """The layers whose outputs are the classes."""
    shapes = [shape for shape in zoo.shapes(call(model, example)) if len(shape) > 1]
    classes = {shape[-1] if len(shape) == 3 else shape[1] for shape in shapes}  # of sequences, features come last
    wide = [(m, getattr(m, "out_features", getattr(m, "out_channels", None))) for m in model.modules()]
    return [m for m, size in wide if isinstance(m, nn.Linear | nn.Conv2d) and size in classes]


def fused_attention(model: nn.Module) -> dict[nn.Module, int]:
    """Head counts by fused QKV layer: modules with `qkv` and `num_heads`, as timm and torchvision write them."""
    return {m.qkv: m.num_heads for m in model.modules() if isinstance(getattr(m, "qkv", None), nn.Linear)}


def output_transform(output: Any) -> Any:
    """The tensors of an output in a list, which is what Torch-Pruning can trace back from."""
    return output if isinstance(output, Tensor) else tensors(output)


def torch_pruner(model: nn.Module, example: Any) -> Any:
    """Build Torch-Pruning's pruner (this traces the model and builds its dependency graph)."""
    import torch_pruning as tp

    special = nn.modules.linear.NonDynamicallyQuantizableLinear
    return tp.pruner.BasePruner(
        model,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=RATIO,
        ignored_layers=classifiers(model, example) + [m for m in model.modules() if isinstance(m, special)],
        num_heads=fused_attention(model),
        output_transform=output_transform,
    )


def write_back(model: nn.Module, pruner: Any) -> None:
    """Update the sizes that forward functions repeat, as Torch-Pruning's scripts do after pruning."""
    for module in model.modules():
        qkv = getattr(module, "qkv", None)
        if qkv in pruner.num_heads:
            module.num_heads = pruner.num_heads[qkv]
            module.head_dim = qkv.out_features // (3 * module.num_heads)
    if isinstance(model, zoo.torchvision().models.VisionTransformer):
        model.hidden_dim = model.conv_proj.out_channels


def time_torch_pruning(model: nn.Module, example: Tensor) -> tuple[float, float, Any]:
    """Seconds to build and to prune (in place), and the pruner."""
    build_s, pruner = common.clock(lambda: torch_pruner(model, example))
    prune_s, _ = common.clock(pruner.step)
    write_back(model, pruner)
    return build_s, prune_s, pruner


def torch_pruning(model: nn.Module, example: Any) -> None:
    """Prune a model in place, tell times, size and whether it still runs with outputs of the same shapes."""
    before, expected = zoo.parameters(model), zoo.shapes(call(model, example))
    build_s, pruner = common.clock(lambda: torch_pruner(model, example))
    common.tell(build_s=round(build_s, 3))
    prune_s, _ = common.clock(pruner.step)
    write_back(model, pruner)
    common.tell(prune_s=round(prune_s, 3), params_ratio=round(zoo.parameters(model) / before, 4))
    common.tell(valid=zoo.shapes(call(model, example)) == expected)


def onnxsim_prune(model: Any) -> Any:
    """Both of onnxsim's structured pruners, one after the other."""
    from onnxsim import apply_attention_head_pruning, apply_structured_pruning

    return apply_attention_head_pruning(apply_structured_pruning(model, sparsity=RATIO), sparsity=RATIO)


def onnx_parameters(model: Any) -> int:
    """Elements of all floating-point initializers."""
    from onnx import TensorProto

    kinds = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
    return sum(int(np.prod(t.dims)) for t in model.graph.initializer if t.data_type in kinds)


def onnx_shapes(path: Path) -> list[tuple[int, ...]]:
    """Shapes of the outputs of one run on onnxruntime with ones as inputs (dynamic axes 1)."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    sizes = {i.name: [n if isinstance(n, int) else 1 for n in i.shape] for i in session.get_inputs()}
    feed = {name: np.ones(shape, np.float32) for name, shape in sizes.items()}
    return [tuple(output.shape) for output in session.run(None, feed)]


def onnxsim(name: str, cache: Path) -> None:
    """Prune an exported model, tell time, size, whether it runs as before, and what the checker says."""
    import tempfile

    import onnx

    source = zoo.exported(name, cache)
    model = onnx.load(source)
    before = onnx_parameters(model)
    prune_s, pruned = common.clock(lambda: onnxsim_prune(model))
    common.tell(prune_s=round(prune_s, 3), params_ratio=round(onnx_parameters(pruned) / before, 4))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "pruned.onnx")
        onnx.save(pruned, path, save_as_external_data=pruned.ByteSize() > 1.9e9, location="pruned.data")
        common.tell(valid=onnx_shapes(path) == onnx_shapes(source))
        try:
            onnx.checker.check_model(path, full_check=True)
        except Exception as error:
            common.tell(checker=" ".join(str(error).split())[:160])


def run(tool: str, name: str, cache: Path) -> None:
    """One tool on one model."""
    torch.set_num_threads(1)
    if tool == "torch-pruning":
        torch_pruning(zoo.build(name), zoo.example(name))
    else:
        onnxsim(name, cache)


def row(case: str, result: dict[str, Any]) -> list[Any]:
    """A line of the table."""
    tool, name = case.split("/")
    facts = [result.get(key) for key in ("build_s", "prune_s", "params_ratio")]
    runs = "yes" if result.get("valid") else "no"
    return [name, tool, *facts, runs, result.get("error", result.get("checker"))]


def main() -> None:
    """Both peers over the chosen models."""
    options = common.parser("peers", "What the peers reach at ratio 0.5.").parse_args()
    if options.case:
        tool, name = options.case.split("/")
        common.child(options, lambda _: run(tool, name, options.cache))
        return
    models = common.chosen(zoo.names(), options.models)
    results = common.run_cases(options, [f"{tool}/{name}" for name in models for tool in TOOLS])
    head = ["model", "tool", "build s", "prune s", "parameters kept", "runs", "error or checker's complaint"]
    common.publish(options, "Peers at ratio 0.5", [common.table(head, [row(c, r) for c, r in results.items()])])


if __name__ == "__main__":
    main()
