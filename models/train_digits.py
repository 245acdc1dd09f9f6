"""Train the demo model and write `digits_resnet.safetensors` and `digits_resnet.onnx`.

    python -m models.train_digits

About a minute and a half on one CPU core. Training pulls the scales of the batch norms towards zero (network
slimming, Liu et al. 2017) by a group lasso over each coupled group, so that half of the network can go in one shot at
little loss.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models.digits_data import load_digits
from models.digits_resnet import ONNX, WEIGHTS, DigitsResNet
from models.export_digits import export

SEED = 0


def shift(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Move each picture by up to one pixel each way, filling with background."""
    padded = nn.functional.pad(pictures, (1, 1, 1, 1))
    offsets = torch.randint(0, 3, (len(pictures), 2), generator=generator)
    rows = offsets[:, 0, None] + torch.arange(8)
    columns = offsets[:, 1, None] + torch.arange(8)
    index = torch.arange(len(pictures))[:, None, None]
    return padded[index, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


@dataclass
class Coupled:
    """Channels that live and die together: the layers that write them, their batch norms, the layers that read them."""

    writers: list[nn.Module] = field(default_factory=list)
    norms: list[nn.BatchNorm2d] = field(default_factory=list)
    readers: list[nn.Module] = field(default_factory=list)

    @torch.no_grad()
    def lengths(self) -> Tensor:
        """The norm of every channel's scales and shifts taken as one vector."""
        return torch.stack([p for norm in self.norms for p in (norm.weight, norm.bias)]).norm(dim=0)

    @torch.no_grad()
    def shrink(self, amount: float) -> None:
        """One proximal step of the group lasso: every channel's vector moves towards zero by `amount`."""
        factor = (1 - amount * len(self.norms) ** 0.5 / self.lengths().clamp(min=1e-12)).clamp(min=0)
        for norm in self.norms:
            norm.weight.mul_(factor)
            norm.bias.mul_(factor)

    @torch.no_grad()
    def clear(self) -> None:
        """Zero the weights around channels that are zero anyway, so that criteria that look at weights see it too."""
        dead = self.lengths() == 0
        for layer in self.writers:
            layer.weight[dead] = 0
        for layer in self.readers:
            layer.weight[:, dead] = 0


def coupled_groups(model: DigitsResNet) -> list[Coupled]:
    """One group a residual stream, and one a block for its inner channels."""
    streams = [Coupled([model.stem[0]], [model.stem[1]])]
    inner: list[Coupled] = []
    for block in model.blocks:
        streams[-1].readers.append(block.conv1)
        if isinstance(block.shortcut, nn.Sequential):
            streams[-1].readers.append(block.shortcut[0])
            streams.append(Coupled([block.shortcut[0]], [block.shortcut[1]]))
        streams[-1].writers.append(block.conv2)
        streams[-1].norms.append(block.bn2)
        inner.append(Coupled([block.conv1], [block.bn1], [block.conv2]))
    streams[-1].readers.append(model.classifier)
    return streams + inner


def train(model: DigitsResNet, epochs: int, slimming: float) -> None:
    """SGD with momentum on the training part; the learning rate follows one cycle."""
    pictures, labels = (torch.from_numpy(a) for a in load_digits("train"))
    generator = torch.Generator().manual_seed(SEED)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3)
    steps = epochs * -(-len(pictures) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(sgd, 0.1, total_steps=steps, pct_start=0.2)
    groups = coupled_groups(model)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(pictures), generator=generator).split(64):
            logits = model(shift(pictures[batch], generator))
            loss = nn.functional.cross_entropy(logits, labels[batch], label_smoothing=0.05)
            loss.backward()
            sgd.step()
            sgd.zero_grad()
            for group in groups:
                group.shrink(slimming * schedule.get_last_lr()[0])
            schedule.step()
    for group in groups:
        group.clear()
    model.eval()


def accuracy(model: nn.Module) -> float:
    """Share of the held-out pictures that are classified correctly."""
    pictures, labels = load_digits("test")
    with torch.no_grad():
        guesses = model(torch.from_numpy(pictures)).argmax(1).numpy()
    return float(np.mean(guesses == labels))


def main() -> None:
    """Train, say how good it is, and write both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--slimming", type=float, default=0.025, help="weight of the group lasso on batch-norm scales")
    options = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # the same sums in the same order everywhere
    model = DigitsResNet()
    start = time.perf_counter()
    train(model, options.epochs, options.slimming)
    score = accuracy(model)
    print(f"held-out accuracy {score:.2%} after {time.perf_counter() - start:.0f} s")
    if score < 0.97:
        raise SystemExit("below 97 %: nothing written")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, WEIGHTS)
    export(model, ONNX)


if __name__ == "__main__":
    main()
