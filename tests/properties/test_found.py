"""Networks that random search found wanting once; each failed before the fix that its name tells of."""

from __future__ import annotations

import pytest

from graphprune.pruning.budgets import targets
from tests.helpers import graph_of
from tests.properties.cases import Case
from tests.properties.checks import check
from tests.properties.programs import Program
from tests.properties.test_random_networks import prune

Found = tuple[list[tuple[str, int, int]], str, float, str, int, int, int]
FOUND: dict[str, Found] = {
    "ragged_rows_shuffled": ([("flattened", 3, 4), ("shuffle", 10, 10)], "params", 0.25, "whole", 1, 2, 351),
    "ragged_rows_copied": (
        [("flattened", 0, 9), ("copies", 0, 5), ("flattened", 10, 4)],
        *("params", 0.5, "whole", 4, 1, 1325),
    ),
    "interleaved_axes_merged": ([("flattened", 6, 1), ("pixels", 9, 2)], "channels", 0.8, "within", 4, 1, 5313),
    "counts_of_the_same_bytes": (
        [("grouped_conv", 5, 5), ("grouped_conv", 3, 1)],
        *("channels", 0.5, "within", 4, 2, 5258),
    ),
    "counts_of_repeated_labels": (
        [("copies", 8, 8), ("shuffle", 0, 9), ("group_norm", 1, 7), ("group_norm", 10, 7)],
        *("macs", 0.5, "within", 4, 2, 6795),
    ),
    "positions_before_pixel_shuffle": ([("mixer", 9, 9), ("pixels", 3, 5)], "channels", 0.5, "within", 1, 1, 6052),
    "positions_under_group_norm": ([("mixer", 9, 5), ("group_norm", 9, 10)], "channels", 0.25, "within", 4, 2, 40470),
    "pad_of_nothing_on_a_joint_axis": (
        [("factor_reduce", 3, 0), ("residual", 10, 7), ("conv", 6, 2), ("mixer", 0, 5), ("pad", 10, 0)],
        *("macs", 0.6, "whole", 2, 1, 20163),
    ),
}


@pytest.mark.parametrize("frontend", ["torch", "onnx"])
@pytest.mark.parametrize("name", list(FOUND))
def test_found(name: str, frontend: str) -> None:
    program, kind, ratio, grouped, align, batch, number = FOUND[name]
    module = Program(program, number, batch)
    graph = graph_of(module, module.example) if frontend == "torch" else graph_of(module.onnx())
    prune(graph, targets.Target(kind, ratio), grouped, align, number)


#: Found by the seeds of `make fuzz`, and shrunk.
CASES: dict[str, Case] = {
    "ragged_rows_turned_and_merged_in_part": Case("onnx", (("nested_factors", 5, 2),), number=75291, ratio=0.7),
    "slice_of_a_whole_joint_axis": Case("onnx", (("flattened", 10, 10), ("slices", 2, 10)), number=17849),
    "group_norm_of_nearly_equal_numbers": Case(
        "torch", (("linear_attention", 9, 3), ("group_norm", 11, 1)), number=86380
    ),
    "a_vector_added_to_each_group_before_they_are_summed": Case(
        "onnx", (("factor_scale", 7, 7), ("factor_reduce", 0, 4)), number=81751
    ),
    "class_that_computes_nearly_the_same_with_heads_of_half_the_width": Case(
        "torch",
        (("sorted_experts", 0, 0), ("activation", 0, 0), ("activation", 0, 0), ("attention_side_by_side", 0, 0)),
        number=0,
        ratio=0.4,
    ),
    "rows_of_a_picture_under_instance_norm": Case(
        "onnx",
        (("flattened", 9, 1), ("instance_norm", 3, 9), ("chosen_codes", 5, 11)),
        number=55488,
        ratio=0.4,
        criterion="lamp",
        align=2,
    ),
    "positions_before_a_rotary_operator": Case(
        "onnx", (("mixer", 6, 1), ("attention_side_by_side", 7, 1)), number=75798
    ),
    "masked_truth_values": Case("onnx", (("batch_of_activations", 7, 10),), number=63389, ratio=0.25),
}


@pytest.mark.parametrize("name", list(CASES))
def test_found_by_seed(name: str) -> None:
    assert check(CASES[name])["outcome"] == "pruned"
