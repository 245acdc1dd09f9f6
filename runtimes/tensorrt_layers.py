"""What an engine's inspector tells about its layers, and which of them run sparse kernels."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from graphprune.errors import BackendError

from .base import LayerChoice
from .tensorrt_cache import Built

if TYPE_CHECKING:
    import tensorrt as trt

# As in sm80_xmma_sparse_gemm_f16f16_..._sptensor16x8x32, sm80_xmma_fprop_sparse_conv_..., ..._spmma_...
_SPARSE = re.compile(r"sparse|sptensor|spmma", re.IGNORECASE)
_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


def read_layers(engine: trt.ICudaEngine, context: trt.IExecutionContext, built: Built) -> tuple[LayerChoice, ...]:
    """The layers in order; raises `BackendError` where the inspector's answer cannot be read.

    A layer's kernel is sparse where its name says so; `HasSparseWeights`, or the builder's log, says only that the
    weights have the pattern.
    """
    import tensorrt as trt

    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        rows = json.loads(text)["Layers"]
        return tuple(_layer(row, built) for row in rows)
    except (ValueError, KeyError, TypeError) as error:
        raise BackendError(f"TensorRT's inspector tells nothing readable of the layers ({error})") from error


def sparse_note(built: Built) -> str:
    """What the builder's log said about sparse kernels, in a sentence; "" where it said nothing."""
    if built.eligible is None and built.chosen is None:
        return ""
    found, chose = (told.count if told else 0 for told in (built.eligible, built.chosen))
    return f"TensorRT found {found} layer(s) eligible for sparse kernels and chose {chose} to run so"


def _layer(row: str | Mapping[str, Any], built: Built) -> LayerChoice:
    """One entry of the inspector's list: a mapping, or the name alone (in engines built without details)."""
    if isinstance(row, str):
        return LayerChoice(row, eligible=_eligible(row, {}, built), sparse=_chosen(row, built))
    name, kernel = str(row["Name"]), str(row.get("TacticName", ""))
    return LayerChoice(
        name,
        str(row.get("LayerType", "")),
        kernel,
        _precision(row),
        bool(_SPARSE.search(kernel)) if kernel else _chosen(name, built),
        _eligible(name, row, built),
        tuple(_NODE.findall(str(row.get("Metadata", "")))),
    )


def _chosen(name: str, built: Built) -> bool:
    return built.chosen is not None and name in built.chosen.names


def _eligible(name: str, row: Mapping[str, Any], built: Built) -> bool | None:
    if "HasSparseWeights" in row:
        return bool(row["HasSparseWeights"])
    return True if built.eligible is not None and name in built.eligible.names else None


def _precision(row: Mapping[str, Any]) -> str:
    """The type of a layer's first input, as TensorRT describes its format."""
    inputs = row.get("Inputs") or [{}]
    text = str(inputs[0].get("Format/Datatype", ""))
    known = re.search(r"\b(FP32|FP16|BF16|Half|Float|Int8|FP8|FP4|Int32|Int64|Bool)\b", text, re.IGNORECASE)
    return {"half": "FP16", "float": "FP32"}.get(known[1].lower(), known[1].upper()) if known else text
