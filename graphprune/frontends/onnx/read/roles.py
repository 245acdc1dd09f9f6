"""What a free axis of an input counts, by its name and place, and the sizes that are tried for it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnx import ModelProto

Shape = tuple[int, ...]
BATCH, HEIGHT, WIDTH, OTHER = "batch", "height", "width", "other"

#: Words in the names of symbols.
_WORDS = {
    BATCH: frozenset({"batch", "batchsize", "n", "b", "bs"}),
    HEIGHT: frozenset({"height", "h", "rows"}),
    WIDTH: frozenset({"width", "w", "cols"}),
}
#: Sizes in turn: pictures (height, width), anything else (positions, samples of sound); two samples at first, then one.
_PICTURE_SIZES = (
    (224, 224), (224, 224), (64, 64), (32, 128), (48, 192), (128, 128), (320, 320), (640, 640), (32, 32), (512, 512),
    (28, 28), (96, 96), (256, 256), (384, 384), (299, 299),
)  # fmt: skip
_OTHER_SIZES = (16, 64, 256, 512, 1024, 4096, 8, 16000, 1, 32, 128, 65536, 2, 100, 576)
#: Windows of fewer positions say nothing of what they run over.
_WINDOW = 12
_MOST_WINDOWS = 8
#: Metadata that exporters write: the size of the pictures a model was made for.
_PICTURES = ("imgsz", "image_size", "input_size", "img_size")
_LARGEST = 4096


@dataclass(frozen=True)
class Free:
    """Axes of inputs, (name, axis) each, of one size, which the caller chooses; `name` is what the file calls it."""

    key: str
    name: str
    role: str
    axes: list[tuple[str, int]]


def role_of(symbol: str | int | None, axis: int, declared: Sequence[int | str | None]) -> str:
    """What an axis counts."""
    words = set(re.split(r"[^a-z]+", str(symbol or "").lower()))
    for role, names in _WORDS.items():
        if words & names and not (role != BATCH and len(declared) < 3):
            return role
    if axis == 0 or (axis == 1 and not symbol and _is_state(declared)):
        return BATCH
    if len(declared) >= 4 and axis >= 2:
        return WIDTH if axis == len(declared) - 1 else HEIGHT
    return OTHER


def _is_state(declared: Sequence[int | str | None]) -> bool:
    """Layers first, a width last: what recurrent layers hand from one run to the next."""
    first, *_, last = declared
    return len(declared) == 3 and isinstance(first, int) and first > 1 and isinstance(last, int)


def rounds(free: Sequence[Free], model: ModelProto, weights: Sequence[Shape]) -> Iterator[dict[str, int]]:
    """Sizes to try in turn, by key; what the file says of itself comes first, windows of sound after two tries."""
    stated, windows = _stated(model), _windows(weights)
    pictures = [stated, stated, *_PICTURE_SIZES] if stated else list(_PICTURE_SIZES)
    others = [*_OTHER_SIZES[:2], *windows, *_OTHER_SIZES[2:]]
    for at in range(max(len(pictures), len(others)) if free else 1):
        height, width = pictures[at % len(pictures)]
        sizes = {BATCH: 1 if at else 2, HEIGHT: height, WIDTH: width, OTHER: others[at % len(others)]}
        yield {f.key: sizes[f.role] for f in free}


def _windows(weights: Sequence[Shape]) -> list[int]:
    """The widths of long windows along one axis, and twice that: a transform of sound takes as much at least."""
    found = {shape[2] for shape in weights if len(shape) == 3 and shape[2] >= _WINDOW}
    return sorted({n for width in found for n in (width, 2 * width)})[:_MOST_WINDOWS]


def _stated(model: ModelProto) -> tuple[int, int] | None:
    """Height and width of the pictures that a model was made for, where its metadata say so."""
    for prop in model.metadata_props:
        if prop.key.lower() in _PICTURES:
            found = [int(n) for n in re.findall(r"\d+", prop.value)[:3]][-2:]
            if found and all(8 <= n <= _LARGEST for n in found):
                return found[0], found[-1]
    return None


def expression(text: str, known: Mapping[str, int]) -> int | None:
    """What a symbol such as "past + length" comes to; None where it is no expression of known symbols."""
    if not re.search(r"[+*/-]", text):
        return None
    try:
        tree = ast.parse(text.strip().replace("//", "/").replace("/", "//"), mode="eval")
    except (SyntaxError, ValueError):
        return None
    try:
        return max(1, _value(tree.body, known))
    except (ValueError, LookupError, ZeroDivisionError, RecursionError):
        return None


def _value(node: ast.expr, known: Mapping[str, int]) -> int:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name):
        return known[node.id]
    if isinstance(node, ast.BinOp):
        a, b = _value(node.left, known), _value(node.right, known)
        if isinstance(node.op, ast.Add):
            return a + b
        if isinstance(node.op, ast.Sub):
            return a - b
        if isinstance(node.op, ast.Mult):
            return a * b
        if isinstance(node.op, ast.FloorDiv):
            return a // b
    raise ValueError
