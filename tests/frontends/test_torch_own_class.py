"""The caller's own class where its sizes are held in places of all kinds; and why, in words, where it will not do."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as nf
from torch import nn

import graphprune as gp


def half(module: nn.Module, *inputs: torch.Tensor) -> Any:
    """Pruned to half of the channels, and proven."""
    torch.manual_seed(0)
    return gp.prune(module, inputs, target="channels=0.5")


def comes_back(module: nn.Module, *inputs: torch.Tensor) -> Any:
    """The same in its own class, which runs in both modes and gives what has the original's shapes."""
    result = half(module, *inputs)
    assert result.report.output_form == "own class", result.report.output_reason
    assert type(result.model) is type(module)
    for training in (False, True):
        expected, got = module.train(training)(*inputs), result.model.train(training)(*inputs)
        assert shapes(got) == shapes(expected)
    return result


def shapes(outputs: Any) -> list[tuple[int, ...]]:
    return [tuple(t.shape) for t in torch.utils._pytree.tree_leaves(outputs)]


class Down(nn.Module):
    """A module that owns no tensor and checks the sizes that pass."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.channels, self.out_channels = ins, outs
        self.conv = nn.Conv2d(ins, outs, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[1] == self.channels
        x = self.conv(x)
        assert x.shape[1] == self.out_channels
        return x


class Encoder(nn.Module):
    """Several of them, of equal sizes before and of unequal ones after pruning."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.downs = nn.ModuleList([Down(16, 16), Down(16, 32), Down(32, 16)])
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for down in self.downs:
            x = nf.silu(down(x))
        return self.last(x)


def test_sizes_that_a_parent_checks() -> None:
    result = comes_back(Encoder(), torch.randn(2, 3, 16, 16))
    assert [(d.channels, d.out_channels) for d in result.model.downs] == [(8, 8), (8, 16), (16, 8)]


def test_sizes_that_a_parent_checks_where_they_go_apart() -> None:
    torch.manual_seed(0)
    module, overrides = Encoder(), {"first.weight[0]": 0.25, "downs.1.conv.weight[0]": 0.75}
    result = gp.prune(module, torch.randn(2, 3, 16, 16), target="channels=0.5", overrides=overrides)
    assert result.report.output_form == "own class", result.report.output_reason
    assert [(d.channels, d.out_channels) for d in result.model.downs] == [(4, 8), (8, 24), (24, 8)]


class Translator(nn.Module):
    """`nn.Transformer` keeps its width itself, and checks it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(5, 16), nn.Linear(16, 3)
        self.body = nn.Transformer(16, 4, 1, 1, 32, batch_first=True)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.embed(x), self.embed(y)))


def test_the_width_of_a_transformer() -> None:
    result = comes_back(Translator(), torch.randn(2, 4, 5), torch.randn(2, 3, 5))
    assert result.model.body.d_model == 8


class Rearrange(nn.Module):
    """As layers of einops are: sizes by the letters of a pattern, in a dict and in pairs, copied by building anew."""

    def __init__(self, pattern: str, **sizes: int) -> None:
        super().__init__()
        self.pattern, self.sizes = pattern, sizes
        self._pairs = tuple(sizes.items())

    def __getstate__(self) -> dict[str, Any]:
        return {"pattern": self.pattern, "sizes": self.sizes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["pattern"], **state["sizes"])  # type: ignore[misc]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.pattern == "b n (h d) -> b h n d":
            return x.unflatten(-1, (dict(self._pairs)["h"], -1)).transpose(1, 2)
        return x.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Attention whose number of heads only such a layer knows."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 96, bias=False), nn.Linear(32, 16)
        self.split = Rearrange("b n (h d) -> b h n d", h=4)
        self.merge = Rearrange("b h n d -> b n (h d)")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (self.split(t) for t in self.qkv(x).chunk(3, -1))
        return x + self.out(self.merge((q @ k.transpose(-1, -2) / 8**0.5).softmax(-1) @ v))


def test_heads_in_layers_of_einops() -> None:
    module = nn.Sequential(nn.Linear(5, 16), Attention(), Attention(), nn.Linear(16, 3)).eval()
    result = comes_back(module, torch.randn(2, 6, 5))
    assert [result.model[at].split._pairs for at in (1, 2)] == [(("h", 2),)] * 2
    assert not result.model[1].split.training or result.model.training


class Literal(nn.Module):
    """The number of heads stands in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 48), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 4, -1).permute(2, 0, 3, 1, 4)
        return self.out(nf.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Checks(nn.Module):
    """A number in a check."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.a(x))
        assert h.shape[1] == 16
        return self.b(h)


@pytest.mark.parametrize(
    ("module", "shape", "why"),
    [
        (Literal(), (2, 5, 8), r"Literal writes sizes into its code: `q, k, v = self.qkv.* gives \[2, 5, 3, 4, 2\], "),
        (Checks(), (4, 6), r"Checks stops at `assert h.shape\[1\] == 16` \(line \d+ of test_torch_own_class.py\): "),
        (nn.Sequential(Checks(), nn.Linear(3, 2)), (4, 6), r"does not do: Checks \(0\) stops at `assert"),
    ],
)
def test_the_cause_in_words(module: nn.Module, shape: tuple[int, ...], why: str) -> None:
    report = half(module, torch.randn(shape)).report
    assert report.output_form == "fx GraphModule"
    assert re.search(why, report.output_reason), report.output_reason


class OneHead(nn.Module):
    """A single head: only its width can go, and the scale of the scores follows it."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.fused = fused

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        if self.fused:
            return x + self.out(nf.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None]).squeeze(1))
        return x + self.out((q @ k.transpose(1, 2) * q.shape[-1] ** -0.5).softmax(-1) @ v)


class OneHeadOfPixels(nn.Module):
    """The same over the pixels of an image; a batch norm or a layer norm makes the queries."""

    def __init__(self, *, batch: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Conv2d(16, 16, 1) for _ in range(4))
        self.batch, self.norm = batch, nn.BatchNorm2d(16) if batch else nn.LayerNorm(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        k, v = (layer(x).flatten(2).transpose(1, 2)[:, None] for layer in (self.k, self.v))
        q = (self.norm(self.q(x)) if self.batch else self.q(x)).flatten(2).transpose(1, 2)[:, None]
        q = q if self.batch else self.norm(q)
        return x + self.out(nf.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(x.shape[0], -1, 4, 4))


@pytest.mark.parametrize("batch", [True, False])
def test_a_scale_that_follows_the_width_of_a_head_behind_a_norm(batch: bool) -> None:
    result = comes_back(OneHeadOfPixels(batch=batch).eval(), 3 * torch.randn(2, 16, 4, 4))
    assert "since the scale of attention follows the width of a head" in result.report.output_reason


@pytest.mark.parametrize("fused", [True, False])
def test_a_scale_that_follows_the_width_of_a_head(fused: bool) -> None:
    module, x = nn.Sequential(nn.Linear(5, 16), OneHead(fused=fused), nn.Linear(16, 3)), torch.randn(2, 6, 5)
    result = comes_back(module, x)
    assert result.model[1].q.out_features < 16
    assert "since the scale of attention follows the width of a head" in result.report.output_reason


class WindowAttention(nn.Module):
    """As many heads as a window is wide."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = self.window = 4
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.bias = nn.Parameter(torch.randn(4, 16, 16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.qkv(x).reshape(x.shape[0], x.shape[1], 3, self.heads, -1)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        bias = self.bias.view(-1, self.window**2, self.window**2)
        weights = (q @ k.transpose(2, 3) / 3 + bias).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class Windows(nn.Module):
    """The module above it takes windows of the same size."""

    def __init__(self) -> None:
        super().__init__()
        self.window, self.attention = 4, WindowAttention()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, h, w, c = x.shape
        size, rows, columns = self.window, h // self.window, w // self.window
        parts = x.view(b, rows, size, columns, size, c).transpose(2, 3).reshape(-1, size * size, c)
        parts = self.attention(parts).view(b, rows, columns, size, size, -1)
        return x + parts.transpose(2, 3).reshape(b, h, w, -1)


class Distances(nn.Module):
    """Attention that sees distances up to a number, in units of another: both equal sizes that change."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.most, self.unit = 4, 8, 32
        self.q, self.k, self.v, self.out = (nn.Linear(32, 32) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, t, _ = x.shape
        q, k, v = (
            layer(x).view(b, t, self.heads, -1).transpose(1, 2).reshape(b * self.heads, t, -1)
            for layer in (self.q, self.k, self.v)
        )
        places = torch.arange(t, device=x.device)
        away = (places[:, None] - places).abs().clamp(max=self.most) / self.unit
        mixed = (q @ k.transpose(1, 2) - 9 * away).softmax(-1) @ v
        return x + self.out(mixed.view(b, self.heads, t, -1).transpose(1, 2).reshape(b, t, -1))


def test_numbers_that_equal_a_size_in_two_modules() -> None:
    result = comes_back(Windows(), torch.randn(2, 8, 8, 32))
    assert (result.model.window, result.model.attention.window, result.model.attention.heads) == (4, 4, 2)


def test_two_numbers_that_equal_sizes() -> None:
    result = comes_back(Distances(), torch.randn(2, 16, 32))
    assert (result.model.heads, result.model.most, result.model.unit) == (2, 8, 32)


class FusedHeads(nn.Module):
    """Heads are fused to the width of the stream that they are added to, which may be written into the code."""

    def __init__(self, *, literal: bool = False) -> None:
        super().__init__()
        self.heads, self.literal = 4, literal
        self.first, self.last = nn.Linear(5, 84), nn.Linear(84, 3)
        self.qkv, self.out = nn.Linear(84, 252), nn.Linear(84, 84)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 4, 1).unbind(0)
        mixed = (nf.normalize(q, dim=-1) @ nf.normalize(k, dim=-1).transpose(2, 3)).softmax(-1) @ v
        assert c == 84 or not self.literal
        return self.last(x + self.out(mixed.permute(0, 3, 1, 2).reshape(b, n, c)))


def test_counts_are_not_rounded_where_that_loses_the_class() -> None:
    result = comes_back(FusedHeads(), torch.randn(2, 7, 5))
    assert (result.model.heads, result.model.first.out_features) == (2, 42)
    assert any("the very share" in note for note in result.report.notes)


def test_counts_are_rounded_where_the_class_is_lost_anyway() -> None:
    result = half(FusedHeads(literal=True), torch.randn(2, 7, 5))
    assert result.report.output_form == "fx GraphModule"
    assert result.graph.weights()["first.weight"].sizes[0] == 40


class Norm(nn.Module):
    """A norm without tensors, which holds the size that it takes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.shape = (width,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nf.layer_norm(x, self.shape)


def test_sizes_held_by_modules_without_tensors() -> None:
    result = comes_back(nn.Sequential(nn.Linear(6, 16), Norm(16), nn.Linear(16, 3)), torch.randn(4, 6))
    assert result.model[1].shape == (8,)


class SentenceEncoder(nn.Module):
    """A pooler whose result nobody uses."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.layer, self.head = nn.Embedding(30, 16), nn.Linear(16, 16), nn.Linear(16, 4)
        self.pool = nn.Linear(16, 16)

    def encode(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.embed(ids)
        h = h + torch.relu(self.layer(h))
        return h, torch.tanh(self.pool(h[:, 0]))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.encode(ids)[0].mean(1))


def test_a_pooler_that_nobody_uses() -> None:
    result = comes_back(SentenceEncoder().eval(), torch.randint(0, 30, (2, 7)))
    assert result.model.pool.in_features == result.model.embed.embedding_dim == 8


class Stack(nn.Module):
    """A WaveNet: what the last layer hands to a next one that is not there is still computed, and added."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv1d(1, 16, 1), nn.Conv1d(12, 2, 1)
        self.gates = nn.ModuleList([nn.Conv1d(16, 40, 3, padding=2**i, dilation=2**i) for i in range(3)])
        self.on = nn.ModuleList([nn.Conv1d(20, 16, 1) for _ in range(3)])
        self.skips = nn.ModuleList([nn.Conv1d(20, 12, 1) for _ in range(3)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, total = self.first(x), 0.0
        for gate, on, skip in zip(self.gates, self.on, self.skips, strict=True):
            a, b = gate(x).chunk(2, 1)
            z = a.tanh() * b.sigmoid()
            total = total + skip(z)
            x = x + on(z)
        return self.last(torch.relu(total))


@pytest.mark.parametrize("training", [True, False])
def test_the_last_convolution_of_a_stack(training: bool) -> None:
    result = comes_back(Stack().train(training), torch.randn(2, 1, 20))
    assert [conv.out_channels for conv in result.model.on] == [8, 8, 8]


class Centred(nn.Module):
    """Running means kept by hand."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("other", torch.zeros(channels))
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return x
        with torch.no_grad():
            now = x.mean((0, 2, 3))
            self.mean.mul_(0.9).add_(now, alpha=0.1)
            self.other = 0.9 * self.other + 0.1 * now
            self.steps += 1
        return x - now[:, None, None]


def test_running_means_kept_by_hand() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), Centred(8), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()
    result = comes_back(module, torch.randn(2, 3, 8, 8))
    assert result.model[1].mean.shape == result.model[1].other.shape == (4,)


class Quantizer(nn.Module):
    """The codebook of a VQ-VAE, which follows its codes by moving averages, some of them written through `.data`."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.randn(count, width))
        self.register_buffer("sizes", torch.zeros(count))
        self.register_buffer("sums", self.codes.clone())

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = x.movedim(1, -1).reshape(-1, x.shape[1])
        distances = rows.pow(2).sum(1, keepdim=True) - 2 * rows @ self.codes.t() + self.codes.pow(2).sum(1)
        ids = distances.argmin(1)
        found = nf.embedding(ids, self.codes).view(x.movedim(1, -1).shape).movedim(-1, 1)
        if self.training:
            hits = nf.one_hot(ids, self.codes.shape[0]).type_as(rows)
            self.sizes.data.mul_(0.9).add_(hits.sum(0), alpha=0.1)
            self.sums.data.mul_(0.9).add_(hits.t() @ rows.detach(), alpha=0.1)
            self.codes.data.copy_(self.sums / (self.sizes + 1e-5)[:, None])
        return x + (found - x).detach(), (found.detach() - x).pow(2).mean()


class Autoencoder(nn.Module):
    """Around it, two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 16, 4, 2, 1), nn.ReLU(), nn.Conv2d(16, 8, 1))
        self.codebook = Quantizer(12, 8)
        self.decoder = nn.Sequential(nn.Conv2d(8, 16, 1), nn.ReLU(), nn.ConvTranspose2d(16, 3, 4, 2, 1))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z, loss = self.codebook(self.encoder(x))
        return self.decoder(z), loss


def test_the_codebook_of_a_vq_vae() -> None:
    result = comes_back(Autoencoder().eval(), torch.randn(2, 3, 16, 16))
    book = result.model.codebook
    assert book.codes.shape == book.sums.shape and book.codes.shape[1] == 4
    assert book.sizes.shape[0] == book.codes.shape[0]


class Deep(nn.Module):
    """In training, a second head and the features before it are handed out."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 12)
        self.aux, self.head = nn.Linear(12, 3), nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> Any:
        a = torch.relu(self.a(x))
        b = torch.relu(self.b(a))
        return (self.head(b), self.aux(b), a) if self.training else self.head(b)


def test_results_of_training_keep_their_sizes() -> None:
    result = comes_back(Deep(), torch.randn(5, 6))
    assert (result.model.a.out_features, result.model.b.out_features) == (8, 6)


class DeepLiteral(Deep):
    """Its class cannot hold other sizes."""

    def forward(self, x: torch.Tensor) -> Any:
        b = torch.relu(self.b(torch.relu(self.a(x)))).view(-1, 12)
        return (self.head(b), self.aux(b)) if self.training else self.head(b)


def test_a_graph_module_says_what_training_loses() -> None:
    report = half(DeepLiteral(), torch.randn(5, 6)).report
    assert report.output_form == "fx GraphModule"
    assert report.alerts == [
        "The result is a GraphModule without what only training computes (aux.weight and 1 more),"
        " and its training gives 1 more results"
    ]


class LiteralInTraining(nn.Module):
    """A size in code that only training runs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.a(x))
        return self.b(h + torch.zeros(16) if self.training else h)


def test_a_class_that_cannot_train_says_so() -> None:
    module, x = LiteralInTraining(), torch.randn(4, 6)
    report = half(module, x).report
    assert report.output_form == "own class"
    (alert,) = report.alerts
    assert alert.startswith(
        "The pruned LiteralInTraining is for inference only: its train() forward and backward fail:"
    )
    assert "`return self.b(h + torch.zeros(16) if self.training else h)`" in alert
    with pytest.raises(gp.errors.OwnClassError, match="for inference only"):
        gp.prune(module, x, target="channels=0.5", own_class="require")


class Tracked(nn.Module):
    """A size that only training reads, of an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.width = 16
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.a(x))
        return self.b(h + torch.zeros(self.width) if self.training else h)


def test_attributes_that_only_training_reads() -> None:
    assert comes_back(Tracked(), torch.randn(4, 6)).model.width == 8


def test_own_class_required() -> None:
    with pytest.raises(gp.errors.OwnClassError, match=r"'Checks' cannot keep its own class: .*assert h.shape"):
        gp.prune(Checks(), torch.randn(4, 6), target="channels=0.5", own_class="require")
    with pytest.raises(gp.errors.InputError, match="own_class must be one of prefer, require, not 'maybe'"):
        gp.prune(Checks(), torch.randn(4, 6), target="channels=0.5", own_class="maybe")
    gp.prune(Tracked(), torch.randn(4, 6), target="channels=0.5", own_class="require")


class OneBatch(nn.Module):
    """A literal batch."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x)).view(2, 2, 16).flip(0).view(4, 16))


def test_a_graph_module_for_one_batch_says_so() -> None:
    notes = half(OneBatch(), torch.randn(4, 6)).report.notes
    assert "the GraphModule takes inputs of the example's sizes only, its batch included" in notes
