"""What is known of when NVIDIA's libraries run a product on sparse tensor cores: rules as data, each with its source.

Sources were read in stored copies of the pages named: issues of github.com/NVIDIA/TensorRT by number, NVIDIA's
TensorRT developer guide ("Sparsity"; for 10.16 docs.nvidia.com/.../io-formats-sparsity.html, for 11
.../data-formats-tensors.html), the header NvInfer.h, and torch/sparse/semi_structured.py of torch 2.13.
"""

from __future__ import annotations

from dataclasses import dataclass

GUIDE = "TensorRT developer guide, Sparsity"


@dataclass(frozen=True)
class Rule:
    """One thing that decides. `level`: "never" rules a weight out, "missing" can be put right, "doubt" says that a
    sparse kernel may exist and still lose against the dense one.
    """

    name: str
    level: str
    says: str
    sources: tuple[str, ...]


_RULES = (
    Rule(
        "operator",
        "never",
        "Sparse kernels exist for convolutions and products with a constant matrix (MatMul, Gemm). TensorRT 8 took"
        " MatMul only in int8; logs of newer versions list MatMul as eligible in float16.",
        (GUIDE, "#2169", "#2271", "#4054"),
    ),
    Rule("groups", "never", "TensorRT does not consider sparse kernels for grouped convolutions.", ("#4054",)),
    Rule(
        "length",
        "never",
        "The axis that is summed over must be a multiple of 4 long (for convolutions the input channels, at each kernel"
        " position).",
        (GUIDE,),
    ),
    Rule("pattern", "missing", "Of each four neighbours along that axis at least two must be zero.", (GUIDE,)),
    Rule(
        "precision",
        "missing",
        "Sparse kernels take float16, bfloat16 and int8. Networks of TensorRT 11 are strongly typed: a float32 graph"
        " must be cast (pass cast-precision).",
        (GUIDE, "TensorRT 10 to 11 migration guide", "issue 4 of this project (bfloat16)"),
    ),
    Rule(
        "quantised output",
        "missing",
        "With int8, a sparse kernel is taken only where the product's output is quantised, too.",
        ("issue 4 of this project; no public page found that says it",),
    ),
    Rule("stored bits", "never", "Weights of other than 8 bits are unpacked before the product.", ("no kernel known",)),
    Rule(
        "alignment",
        "doubt",
        "Kernels read channels in groups of 16 (the layout 'channel % 16 == 0'); other counts are filled up.",
        ("#4056",),
    ),
    Rule(
        "channels",
        "doubt",
        "Sparse convolutions win with more than 256 input and output channels; a 3x3 kernel multiplies the input"
        " channels by 9.",
        ("#3849", "#4065"),
    ),
    Rule(
        "quantised",
        "doubt",
        "With Q/DQ nodes around a layer the sparse choice may vanish, though its weights are recognised.",
        ("#4694",),
    ),
    Rule("batch", "doubt", "A batch of matrices: nothing public says that sparse kernels take one.", ()),
    Rule("left", "doubt", "The weight is the left operand: nothing public says that sparse kernels take it.", ()),
    Rule(
        "rows", "doubt", "The product has fewer rows than sparse kernels were measured to need.", ("gpu_sparse.json",)
    ),
)
RULES = {rule.name: rule for rule in _RULES}

#: What holds for every layer.
NOTES = (
    "eligible is not picked: TensorRT times dense and sparse kernels and keeps the faster one (developer guide; #1403,"
    " #2169, #4056)",
    "with STRICT_NANS beside SPARSE_WEIGHTS only what cannot hide a NaN runs sparse (NvInfer.h, BuilderFlag)",
)

#: Input and output channels from which sparse kernels win, by TensorRT's engineers (#3849).
CHANNELS = 256
ALIGNMENT = 16

#: `torch.sparse.to_sparse_semi_structured`: rows (outputs) and columns of a weight must be multiples of these.
SEMI_STRUCTURED: dict[str, dict[str, tuple[int, int]]] = {
    "cusparselt": {
        "float8_e4m3fn": (32, 32),
        "int8": (32, 32),
        "float16": (16, 16),
        "bfloat16": (16, 16),
    },
    "cutlass": {
        "int8": (16, 128),
        "float16": (32, 64),
        "bfloat16": (32, 64),
        "float32": (32, 32),
    },
}


def semi_structured(dtype: str, rows: int, columns: int, backend: str = "cusparselt") -> str:
    """Why torch cannot store a matrix as semi-structured; empty where it can."""
    known = SEMI_STRUCTURED[backend]
    if dtype not in known:
        return f"{backend} takes {', '.join(known)}, not {dtype}"
    least = known[dtype]
    if rows % least[0] or columns % least[1]:
        return f"{rows}x{columns} is not a multiple of {least[0]}x{least[1]}, as {backend} needs in {dtype}"
    return ""
