"""Every operator of the newest opset has a lowering, or a reason why not: so that new ones show."""

from __future__ import annotations

from onnx import defs

from graphprune.frontends import onnx as frontend  # noqa: F401  (registers the lowerings)
from graphprune.frontends.onnx.lower.registry import lowered_operators
from graphprune.frontends.onnx.read.control import BODIES

#: Sizes, and numbers made from them: evaluated while loading, or left in the file as they are.
SHAPE_ARITHMETIC = {"Constant", "ConstantOfShape", "Range", "Shape", "Size"}

_SEQUENCE = "makes or takes sequences or optional values, which have no axes"
_KNOWN_SEQUENCE = (
    "is taken apart while loading where all of the sequence is known (sequences.py); has no axes elsewhere"
)
_DATA = "what comes out has a size that depends on the data"
_TEXT = "works on strings"
_LOSS = "is a training loss: all classes are needed"
_NEW = "is newer than every runtime here: nothing could be proven"
UNKNOWN = {
    "AffineGrid": "makes coordinates from few numbers, all of which are needed",
    "CausalConvWithState": _NEW,
    "Compress": _DATA,
    "ConcatFromSequence": _KNOWN_SEQUENCE,
    "Det": "needs whole square matrices",
    "ImageDecoder": "decodes bytes",
    "LinearAttention": _NEW,
    "MaxUnpool": "its indices count through channels, which removal would shift",
    "NegativeLogLikelihoodLoss": _LOSS,
    "NonMaxSuppression": _DATA,
    "NonZero": _DATA,
    "Optional": _SEQUENCE,
    "OptionalGetElement": _SEQUENCE,
    "OptionalHasElement": _SEQUENCE,
    "RegexFullMatch": _TEXT,
    "STFT": "cuts time into frames of another rank; all samples are needed",
    "SequenceAt": _KNOWN_SEQUENCE,
    "SequenceConstruct": _KNOWN_SEQUENCE,
    "SequenceEmpty": _SEQUENCE,
    "SequenceErase": _SEQUENCE,
    "SequenceInsert": _SEQUENCE,
    "SequenceLength": _KNOWN_SEQUENCE,
    "SequenceMap": _SEQUENCE,
    "SoftmaxCrossEntropyLoss": _LOSS,
    "SplitToSequence": _KNOWN_SEQUENCE,
    "StringConcat": _TEXT,
    "StringNormalizer": _TEXT,
    "StringSplit": _TEXT,
    "SwiGLU": _NEW,
    "TensorScatter": "writes to a cache in place; its positions are needed",
    "TfIdfVectorizer": "counts words of a fixed vocabulary",
    "Unique": _DATA,
}


def newest() -> set[str]:
    """The operators of the default domain in the newest opset that the onnx package knows."""
    return {schema.name for schema in defs.get_all_schemas() if schema.domain == "" and not schema.deprecated}


def test_every_operator_is_lowered_or_unknown_on_purpose() -> None:
    known = {*lowered_operators(), *BODIES, *SHAPE_ARITHMETIC, *UNKNOWN}
    assert not newest() - known, "operators without a lowering and without a reason"


def test_no_operator_is_in_two_groups() -> None:
    assert not UNKNOWN.keys() & {*lowered_operators(), *BODIES, *SHAPE_ARITHMETIC}
    assert UNKNOWN.keys() <= newest()
