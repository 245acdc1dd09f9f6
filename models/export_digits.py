"""Export the digits network, dense or pruned, to ONNX.

python -m models.export_digits    # writes digits_resnet.onnx again from the safetensors
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from onnxscript import optimizer
from torch import nn

from models.digits_resnet import ONNX, digits_resnet


def export(model: nn.Module, path: Path) -> None:
    """Write one self-contained ONNX file with a dynamic batch.

    The exporter's own optimizer would fold the batch norms into the convolutions, and with them the scales that the
    `bn-scale` criterion reads; so only constants are folded.
    """
    warnings.filterwarnings("ignore", category=FutureWarning)  # torch's exporter warns about torch's own calls
    program = torch.onnx.export(
        model,
        (torch.zeros(2, 1, 8, 8),),
        dynamo=True,
        optimize=False,
        opset_version=18,
        input_names=["pictures"],
        output_names=["logits"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    if program is None:
        raise SystemExit("the exporter returned no model")
    optimizer.fold_constants(program.model)
    optimizer.remove_unused_nodes(program.model)
    for part in (program.model, program.model.graph, *program.model.graph):
        part.metadata_props.clear()  # stack traces of this machine
    program.save(path, external_data=False)


if __name__ == "__main__":
    export(digits_resnet(), ONNX)
