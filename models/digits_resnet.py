"""A small residual network for 8x8 grayscale digits: the model that `make demo` prunes.

The shape is that of a ResNet for ImageNet in small: a stem, three stages of basic blocks that double the channels
and halve the picture, projection shortcuts with batch norm, global pooling and a linear classifier. So the coupling
it shows (a residual stream a stage) is the real one.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

FOLDER = Path(__file__).resolve().parent
WEIGHTS = FOLDER / "digits_resnet.safetensors"
ONNX = FOLDER / "digits_resnet.onnx"
WIDTHS = (32, 64, 96)
BLOCKS = 2


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, as in He et al. 2016."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x: Tensor) -> Tensor:
        """`[N, inputs, H, W]` to `[N, outputs, H/stride, W/stride]`."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + self.shortcut(x))


class DigitsResNet(nn.Module):
    """Pictures `[N, 1, 8, 8]` with values in 0..1 to logits `[N, 10]`."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS, blocks: int = BLOCKS) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU())
        layers: list[nn.Module] = []
        inputs = widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                layers.append(BasicBlock(inputs, width, 2 if stage > 0 and block == 0 else 1))
                inputs = width
        self.blocks = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, 10)

    def forward(self, pictures: Tensor) -> Tensor:
        """Logits of the ten digits."""
        y = self.blocks(self.stem(pictures))
        logits: Tensor = self.classifier(torch.flatten(self.pool(y), 1))
        return logits


def digits_resnet() -> DigitsResNet:
    """The trained network, in evaluation mode."""
    model = DigitsResNet()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()
