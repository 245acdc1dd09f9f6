"""What tools make of an ONNX file: converters, simplifiers, optimisers and quantisers. Each writes the file anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

SAMPLES = 2  # random inputs that a static quantiser sees
_KINDS = (
    "bert",
    "bart",
    "gpt2",
    "t5",
    "clip",
    "vit",
    "swin",
    "phi",
    "gpt_neox",
    "conformer",
)  # not those for GPUs only


def change(name: str, path: Path) -> None:
    """Apply one of `CHANGES` to a file, in its place."""
    CHANGES[name](path)


def _convert(path: Path) -> None:
    onnx.save(onnx.version_converter.convert_version(onnx.load(path), 21), path)


def _simplify(path: Path) -> None:
    import onnxsim

    onnx.save(onnxsim.simplify(onnx.load(path))[0], path)


def _session(level: str) -> Callable[[Path], None]:
    """What onnxruntime saves after its own optimisation."""

    def write(path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])

    return write


def _transformer(level: int) -> Callable[[Path], None]:
    """onnxruntime's transformer optimizer: fusions written in Python, after its own optimisation where level > 0."""

    def write(path: Path) -> None:
        from onnxruntime.transformers import optimizer

        known = (kind for kind in _KINDS if kind in path.stem)
        made = optimizer.optimize_model(str(path), max(known, key=len, default="bert"), opt_level=level)
        made.save_model_to_file(str(path))

    return write


def _static(form: str, **options: Any) -> Callable[[Path], None]:
    """Integers everywhere, with ranges seen on random inputs."""

    def write(path: Path) -> None:
        from onnxruntime.quantization import QuantFormat, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        feeds = _feeds(path)
        quant_pre_process(path, path, skip_symbolic_shape=True)
        quantize_static(path, path, feeds, quant_format=QuantFormat[form], **options)

    return write


def _feeds(path: Path) -> Any:
    """A calibration data reader: random inputs of the sizes that the file says, or that it is bound to."""
    from onnxruntime.quantization import CalibrationDataReader

    import graphprune as gp
    from graphprune.calibration.random_inputs import random_inputs

    graph = gp.load(path)
    feeds = iter([random_inputs(graph, seed) for seed in range(SAMPLES)])

    class Reader(CalibrationDataReader):
        def get_next(self) -> Any:
            return next(feeds, None)

    return Reader()


def _dynamic(path: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic

    quantize_dynamic(path, path)


def _four_bits(path: Path) -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(onnx.load(path), block_size=16, is_symmetric=True)
    quantizer.process()
    quantizer.model.save_model_to_file(str(path))


def _half(path: Path) -> None:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    onnx.save(convert_float_to_float16(onnx.load(path)), path)


CHANGES: dict[str, Callable[[Path], None]] = {
    "converted-21": _convert,
    "simplified": _simplify,
    "ort-basic": _session("BASIC"),
    "ort-extended": _session("EXTENDED"),
    **{f"optimizer-{level}": _transformer(level) for level in (0, 1, 2)},
    "qdq": _static("QDQ"),
    "qdq-per-channel": _static("QDQ", per_channel=True),
    "qoperator": _static("QOperator"),
    "dynamic": _dynamic,
    "int4": _four_bits,
    "float16": _half,
}
