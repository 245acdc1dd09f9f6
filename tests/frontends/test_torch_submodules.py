"""Models that torch cannot export whole, as detectors are: a named part is captured, pruned, and put in its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import graphprune as gp
from graphprune.cli import run
from graphprune.errors import InputError


class Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out_channels = 24
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 24, 1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"0": self.body(self.stem(x))}


class Detector(nn.Module):
    """Takes a list of images of any size, and gives of each as many boxes as score above zero."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.head = nn.Conv2d(self.backbone.out_channels, 5, 1)

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        height, width = (max(sizes) for sizes in zip(*(i.shape[-2:] for i in images), strict=True))
        batch = torch.zeros(len(images), 3, height, width)
        for at, image in enumerate(images):
            batch[at, :, : image.shape[1], : image.shape[2]] = image
        return [self.boxes(found) for found in self.head(self.backbone(batch)["0"])]

    def boxes(self, found: Tensor) -> dict[str, Tensor]:
        rows = found.flatten(1).t()
        rows = rows[rows[:, 4] > 0]
        if rows.numel() == 0:
            return {"boxes": rows[:, :4], "scores": rows[:, 4]}
        best = rows[rows[:, 4].argsort(descending=True)[:10]]
        return {"boxes": best[:, :4], "scores": best[:, 4]}


def made() -> tuple[Detector, tuple[list[Tensor]]]:
    """A detector and what it is called with; also a factory for the command line."""
    torch.manual_seed(0)
    images = [torch.randn(3, 32, 32), torch.randn(3, 24, 28)]
    return Detector().eval(), (images,)


def test_whole_it_is_refused_with_the_line_that_decides_and_what_helps() -> None:
    net, images = made()
    with pytest.raises(InputError, match=r"test_torch_submodules.py:\d+: if rows.numel\(\) == 0.*--submodule NAME"):
        gp.capture(net, images)


def test_a_part_is_pruned_in_its_place() -> None:
    net, images = made()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    result = gp.prune(net, images, target=gp.channels(0.5), submodule="backbone")
    assert type(result.model) is Detector and result.report.proof is not None and result.report.proof.passed
    assert result.model.backbone.stem[0].out_channels == 8 and result.model.head.in_channels == 24
    assert any("only 'backbone' of Detector was captured" in note for note in result.report.notes)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    keep = {group.size: sorted(set(range(group.size)) - set(group.keep[0])) for group in result.plan.groups}
    with torch.no_grad():
        net.backbone.stem[1].weight[keep[16]], net.backbone.stem[1].bias[keep[16]] = 0, 0  # type: ignore[index, union-attr]
        net.backbone.body[0].weight[keep[32]], net.backbone.body[0].bias[keep[32]] = 0, 0  # type: ignore[index, union-attr]
        for expected, found in zip(net(*images), result.model(*images), strict=True):
            torch.testing.assert_close(found["boxes"], expected["boxes"])
    model = result.model.train()
    model(*images)[0]["boxes"].sum().backward()
    assert model.backbone.stem[0].weight.grad is not None


def test_parts_within_parts_and_through_plans(tmp_path: Path) -> None:
    net, images = made()
    graph = gp.capture(net, images, submodule="backbone.body")
    small = gp.apply(graph, gp.plan(graph, "channels=0.5"))
    model = gp.emit(small)
    assert isinstance(model, Detector) and model.backbone.body[0].out_channels == 16
    gp.save(small, tmp_path / "small.safetensors")
    assert load_file(tmp_path / "small.safetensors").keys() == net.state_dict().keys()


class Tied(nn.Module):
    """The table is read in the part, and where classes come out."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Embedding(12, 16), nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 12, bias=False)
        self.head.weight = self.encoder[0].weight  # type: ignore[assignment]

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.encoder(ids)
        return self.head(hidden * hidden.sum().sign() if hidden.sum().item() > 0 else hidden)  # type: ignore[no-any-return]


def test_weights_that_the_rest_of_the_model_shares_stay_and_stay_shared() -> None:
    torch.manual_seed(0)
    net, ids = Tied().eval(), torch.arange(12).view(2, 6)
    result = gp.prune(net, (ids,), target=gp.channels(0.5), submodule="encoder")
    assert result.model.encoder[1].weight.shape == (16, 16) and result.model.encoder[0].weight.shape == (12, 16)
    assert result.model.head.weight is result.model.encoder[0].weight


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("backbon", "Detector has no sub-module 'backbon': did you mean 'backbone'"),
        ("xyz", "has no sub-module 'xyz': it has backbone, head"),
        ("unused", "'unused' is not called when Detector runs"),
    ],
)
def test_parts_that_are_not_there_or_not_called(path: str, said: str) -> None:
    net, images = made()
    if path == "unused":
        net.unused = nn.Linear(2, 2)
    with pytest.raises(InputError, match=said):
        gp.capture(net, images, submodule=path)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    factory = f"{__name__}:made"
    target = tmp_path / "small.safetensors"
    plan, again = tmp_path / "plan.json", tmp_path / "again.safetensors"
    options = ["--target", "channels=0.5", "--submodule", "backbone", "--json", "--plan-out", str(plan)]
    assert run(["prune", factory, "-o", str(target), *options]) == 0
    assert "backbone" in " ".join(json.loads(capsys.readouterr().out)["notes"])
    state = load_file(target)
    assert state["backbone.stem.0.weight"].shape == (8, 3, 3, 3) and state["head.weight"].shape == (5, 24, 1, 1)
    assert run(["apply", factory, "--plan", str(plan), "-o", str(again), "--submodule", "backbone"]) == 0
    assert again.read_bytes() == target.read_bytes()
    assert run(["inspect", factory, "--submodule", "nothing"]) == 2
    assert "has no sub-module 'nothing'" in capsys.readouterr().err
    assert run(["inspect", "models/digits_resnet.onnx", "--submodule", "nothing"]) == 2


class Asking(Detector):
    """Reads a size inside its backbone that pruning changes; or fails anyway, behind it."""

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        self.head(self.backbone(images[0][None])["0"])
        if self.backbone.stem[0].out_channels != 16 or self.head.bias is None:
            raise RuntimeError("a stem of 16 channels, please")
        return []


def test_a_model_that_does_not_run_with_the_pruned_part_is_told() -> None:
    _, images = made()
    with pytest.raises(
        InputError, match=r"Asking does not run with the pruned 'backbone': a stem of 16.*submodules.py"
    ):
        gp.prune(Asking().eval(), images, target=gp.channels(0.5), submodule="backbone")
    broken = Asking().eval()
    broken.head.bias = None  # it never ran to its end: nothing can be said of that
    assert gp.prune(broken, images, target=gp.channels(0.5), submodule="backbone").model.head.bias is None
