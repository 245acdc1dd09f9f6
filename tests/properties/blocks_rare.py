"""Blocks with positions, patches and control flow; see `blocks`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .blocks import WIDTHS, block, make_conv, make_linear, pick, tokens, untokens


@block
def routed(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Experts chosen for each token by a router, and only those run: rows of batched weights are looked up."""
    t, count, hidden = tokens(o, x), pick((3, 4, 6), a), pick(WIDTHS, b)
    n, length, c = o.shape(t)
    k = pick((2, 1), b)
    share, ids = _chosen(o, make_linear(o, t, count), k, a)
    up, down = o.weight(count, hidden, c, scale=0.3), o.weight(count, c, hidden, scale=0.3)
    if b % 3:
        y = o.unary("relu", o.matmul(o.rows(up, ids), o.reshape(t, (n, length, 1, c, 1))))
        y = o.binary("mul", o.matmul(o.rows(down, ids), y), o.reshape(share, (n, length, k, 1, 1)))
    else:  # one long batch of tokens and choices
        wide = o.expand(o.reshape(t, (n, length, 1, c)), (n, length, k, c))
        flat, many = o.reshape(ids, (n * length * k,)), n * length * k
        y = o.unary("relu", o.matmul(o.rows(up, flat), o.reshape(wide, (many, c, 1))))
        y = o.binary("mul", o.matmul(o.rows(down, flat), y), o.reshape(share, (many, 1, 1)))
        y = o.reshape(y, (n, length, k, c, 1))
    y = o.reshape(o.reduce("sum", y, (2,), False), (n, length, c))
    return o.binary("add", x, untokens(o, y, x)) if a % 2 else untokens(o, y, x)


def _chosen(o: Any, logits: Any, k: int, a: int) -> tuple[Any, Any]:
    """Shares and positions of the k best: of a softmax, or looked up where corrected scores are largest."""
    if a % 3 == 0:
        return o.best(o.softmax(logits, 2), 2, k)
    scores = o.unary("sigmoid", logits)
    if a % 3 == 1:
        _, ids = o.best(o.binary("add", scores, o.weight(o.shape(logits)[2], scale=0.5)), 2, k)
    else:
        ids = o.argmax(scores, 2, True) if k == 1 else o.best(scores, 2, k)[1]
    return o.take_along(scores, ids, 2), ids


@block
def sorted_experts(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """The same with rows of data sorted by expert."""
    t, count, hidden = tokens(o, x), pick((3, 4, 6), a), pick(WIDTHS, b)
    n, length, c = o.shape(t)
    k, rows = pick((2, 1), b), n * length
    share, ids = _chosen(o, make_linear(o, t, count), k, a)
    wide = o.reshape(o.expand(o.reshape(t, (n, length, 1, c)), (n, length, k, c)), (rows * k, c))
    up, down = o.weight(count, c, hidden, scale=0.3), o.weight(count, hidden, c, scale=0.3)
    y = o.reshape(o.by_expert(wide, o.reshape(ids, (rows * k,)), up, down), (n, length, k, c))
    return untokens(o, o.reduce("sum", o.binary("mul", y, o.reshape(share, (n, length, k, 1))), (2,), False), x)


@block
def neighbors(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Channels divided by those beside them; rows put in order."""
    return o.in_order(x, pick((2, 3), a)) if b % 2 else o.local_norm(x)


@block
def chosen_codes(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """The best row of a code book for each token, as zeros and ones times the book; or the same for the two best."""
    t, count = tokens(o, x), pick((4, 6, 8), a)
    scores = o.unary("sigmoid", make_linear(o, t, count))
    book = o.weight(count, o.shape(t)[2], scale=1.0)
    if b % 3 == 0:
        hot = o.one_hot(o.argmax(scores, 2, False), count)
    elif b % 3 == 1:
        hot = o.reduce("sum", o.one_hot(o.best(scores, 2, 2)[1], count), (2,), False)
    else:
        ids = o.best(scores, 2, 2)[1]
        hot = o.scatter_along(o.scale(scores, 0.0), ids, o.take_along(scores, ids, 2), 2)
    return untokens(o, o.binary("add", t, o.matmul(o.binary("mul", hot, scores), book)), x)


@block
def some_tokens(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """The tokens that score best are taken out, worked on, and written back (mixture of depths)."""
    t = tokens(o, x)
    n, length, c = o.shape(t)
    k = max(1, length // 2)
    _, ids = o.best(make_linear(o, t, 1), 1, k)
    ids = o.expand(ids, (n, k, c))
    some = o.take_along(t, ids, 1)
    y = o.unary("tanh", make_linear(o, some, c)) if b % 2 else o.binary("mul", some, o.weight(c, scale=1.0))
    return untokens(o, o.scatter_along(t, ids, y, 1), x)


@block
def best_token(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """One token of each picture, found by its score, modulates all."""
    t = tokens(o, x)
    n, _, c = o.shape(t)
    ids = o.reshape(o.argmax(make_linear(o, t, 1), 1, False), (n,))
    one = o.reshape(o.each_row(o.unary("tanh", t), ids), (n, c, 1, 1))
    return o.binary("mul" if a % 2 else "add", x, one)


@block
def places_of_a_table(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """A table of two axes, looked up by row and column for each position."""
    _, c, h, w = o.shape(x)
    rows, columns = np.divmod(np.arange(h * w), w)
    table = o.weight(h + 1, w + 1, c, scale=1.0)
    found = o.cells(table, h - rows if a % 2 else rows, w - columns if b % 2 else columns)
    return untokens(o, o.binary("add", tokens(o, x), found), x)


@block
def rows_filled(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Some tokens overwritten by others, made from an earlier map."""
    t = tokens(o, x)
    length, c = o.shape(t)[1:]
    near = pick([p for p in past if o.shape(p)[2:] == o.shape(x)[2:]] or [x], b)
    places = sorted({a % length, (a + b) % length, (3 * a + 1) % length})
    source = make_linear(o, o.slice(tokens(o, near), 1, 0, len(places), 1), c)
    return untokens(o, o.fill_rows(t, places, source), x)


@block
def folded(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Patches as columns, worked on channel by channel or by a matrix, and added up to an image again."""
    n, c, h, w = o.shape(x)
    columns = o.unfold(x)
    if b % 2:
        out = pick((4, 6), a)
        return o.fold(o.matmul(o.weight(out * 9, c * 9, scale=0.2), columns), h, w)
    parts = o.binary("mul", o.reshape(columns, (n, c, 9, h * w)), o.weight(c, 9, 1, scale=0.3))
    return o.fold(o.reshape(parts, (n, c * 9, h * w)), h, w)


@block
def sliding(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Windows along rows, summed up or weighed."""
    h = o.shape(x)[2]
    wide = o.window(o.pad(x, 2, 1, 0), 2, 2) if h < 8 else o.window(x, 2, 2)
    if b % 2:
        return o.reduce(pick(("max", "sum", "mean"), a), wide, (4,), False)
    n, c, rows, w, _ = o.shape(wide)
    return o.reshape(o.linear(wide, o.weight(1, 2), None), (n, c, rows, w))


@block
def branched(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """One of two ways, by the data; with weights of their own, or one shared from outside."""
    c, hidden = o.shape(x)[1], pick(WIDTHS, b)
    outer = o.weight(c, c, 1, 1) if b % 3 == 0 else None

    def then() -> Any:
        if outer is not None:
            return o.conv(o.unary("tanh", x), outer, None, 1, 0)
        return make_conv(o, o.unary("relu", make_conv(o, x, hidden)), c)

    def other() -> Any:
        if a % 3 == 0:
            return x
        return o.conv(x, outer, None, 1, 0) if outer is not None and a % 3 == 1 else make_conv(o, x, c, 3)

    return o.branch(o.inputs["x"], then, other, local=b % 2 == 1)


@block
def looped(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """A layer applied several times; perhaps all its results are used, perhaps it holds a branch."""
    t = tokens(o, x)
    c = o.shape(t)[2]
    inner = make_linear(o, t, pick((4, 6), a)) if b % 3 == 2 else None

    def body(state: Any) -> list[Any]:
        moved = o.unary("tanh", make_linear(o, state, c))
        if inner is not None:
            moved = o.binary("add", moved, make_linear(o, inner, c))
        if a % 4 == 3:
            held = moved
            moved = o.branch(o.inputs["x"], lambda: make_linear(o, held, c), lambda: held)
        after = o.binary("add", state, moved)
        return [after, o.unary("sigmoid", moved)] if a % 2 else [after]

    found = o.loop(pick((2, 3), b), [t], body, a % 2, local=b % 2 == 1)
    total = o.binary("add", found[0], o.reduce("sum", found[1], (0,), False)) if a % 2 else found[0]
    return untokens(o, total, x)


@block
def scanned(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """A recurrent layer written as a scan over the positions; a state of another width, and what each step gives."""
    t, hidden = tokens(o, x), pick((4, 6, 8), a)
    n, _, c = o.shape(t)
    start = o.unary("tanh", make_linear(o, o.reduce("mean", t, (1,), False), hidden))
    moved = make_linear(o, t, hidden) if b % 2 == 0 else t

    def body(state: Any, step: Any) -> list[Any]:
        given = step if b % 2 == 0 else make_linear(o, step, hidden)
        after = o.unary("tanh", o.binary("add", make_linear(o, state, hidden), given))
        return [after, o.binary("mul", after, state)]

    last, every = o.scan([start], moved, 1, body, 1, local=b % 3 == 1)
    y = o.binary("add", every, o.reshape(last, (n, 1, hidden)))
    return untokens(o, make_linear(o, y, c) if a % 2 else y, x)
