"""Rules of names: every name has its place, changes of values are undone bit for bit."""

from __future__ import annotations

import pytest
import torch

from unclip.common.errors import UserError
from unclip.weights.maps.rules import (
    CONVOLUTION,
    DROP_FIRST,
    TRANSPOSE,
    Change,
    Rule,
    by_head,
    concatenate,
    exchange,
    prefixed,
    to_ours,
    to_theirs,
)

RULES = [
    Rule("blocks.{L}.ln.{w}", "layers.{L}.norm.{w}"),
    Rule(("blocks.{L}.q", "blocks.{L}.k"), "layers.{L}.qk", concatenate(2)),
    Rule("table", "positions", DROP_FIRST),
]


def theirs() -> dict[str, torch.Tensor]:
    shapes = {"table": (1, 3, 2)}
    for k in (0, 10):
        shapes |= {f"blocks.{k}.ln.weight": (4,), f"blocks.{k}.ln.bias": (4,)}
        shapes |= {f"blocks.{k}.q": (2, 4), f"blocks.{k}.k": (2, 4)}
    rng = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}


def expected() -> dict[str, torch.Tensor]:
    shapes = {"positions": (3, 2)}
    for k in (0, 10):
        shapes |= {f"layers.{k}.norm.weight": (4,), f"layers.{k}.norm.bias": (4,)}
        shapes |= {f"layers.{k}.qk": (4, 4)}
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def test_there_and_back_is_bit_identical():
    state = theirs()
    ours = to_ours(state, RULES, expected=expected(), source="f")
    assert set(ours) == set(expected())
    assert torch.equal(ours["layers.10.norm.bias"], state["blocks.10.ln.bias"])
    assert torch.equal(ours["layers.0.qk"][:2], state["blocks.0.q"])
    assert torch.equal(ours["layers.0.qk"][2:], state["blocks.0.k"])
    back = to_theirs(ours, RULES)
    assert {n: x.tolist() for n, x in back.items()} == {n: x.tolist() for n, x in state.items()}


def test_names_of_no_rule_and_of_no_place_are_refused_and_the_first_is_named():
    for extra in ("blocks.0.lnx.weight", "xblocks.0.q", "blocks.7.q", "blocks.00.q"):
        state = {**theirs(), extra: torch.zeros(2, 4), "z": torch.zeros(1)}
        with pytest.raises(UserError, match=rf"f: {extra} \(and 1 more\) has no place"):
            to_ours(state, RULES, expected=expected(), source="f")


def test_missing_names_are_refused_by_their_name():
    for gone in theirs():
        state = {name: x for name, x in theirs().items() if name != gone}
        with pytest.raises(UserError, match=f"f: {gone} is missing"):
            to_ours(state, RULES, expected=expected(), source="f")


def test_what_no_rule_fills_is_missing_and_what_they_cannot_name_is_refused():
    more = expected() | {"other": torch.zeros(1)}
    with pytest.raises(UserError, match=r"other \(our name\) is missing"):
        to_ours(theirs(), RULES, expected=more, source="f")
    with pytest.raises(UserError, match="our network: other has no name"):
        to_theirs({"other": torch.zeros(1)}, RULES)


@pytest.mark.parametrize("shape", [(2, 5), (3, 4), (8,), ()])
def test_a_shape_that_does_not_fit_is_refused(shape):
    with pytest.raises(UserError, match=r"f: blocks.0.q has the shape .* does not become \[4, 4\]"):
        to_ours(
            theirs() | {"blocks.0.q": torch.zeros(shape)}, RULES, expected=expected(), source="f"
        )


def test_rules_of_an_inner_module_take_prefixes():
    rules = prefixed(RULES, theirs="model.", ours="net.")
    state = {f"model.{n}": x for n, x in theirs().items()}
    ours = to_ours(
        state, rules, expected={f"net.{n}": x for n, x in expected().items()}, source="f"
    )
    assert set(to_theirs(ours, rules)) == set(state)


@pytest.mark.parametrize(
    ("change", "shape"),
    [
        (by_head(3, heads=2), (24, 5)),
        (by_head(3, heads=2), (24,)),
        (by_head(2, head_channels=4), (24, 5)),
        (exchange(4), (24, 5)),
        (exchange(4), (24,)),
        (TRANSPOSE, (2, 5)),
        (DROP_FIRST, (1, 5, 2)),
        (CONVOLUTION, (5, 2, 1)),
        (CONVOLUTION, (5,)),
        (by_head(3, heads=2, convolution=True), (24, 5, 1)),
        (by_head(3, heads=2, convolution=True), (24,)),
    ],
)
def test_changes_of_one_tensor_are_undone(change: Change, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(change.back(change.into([x]))[0], x)
    y = change.into([x])
    assert torch.equal(change.into(change.back(y)), y)


def test_heads_are_told_by_row():
    """Row (head, part, channel) goes to (part, head, channel)."""
    parts, heads, channels = 3, 2, 4
    x = torch.arange(parts * heads * channels).float()
    named = by_head(parts, heads=heads, convolution=True).into([x[:, None, None]])
    assert named.shape == (24, 1)
    for part in range(parts):
        for head in range(heads):
            for channel in range(channels):
                ours = (part * heads + head) * channels + channel
                assert named[ours, 0] == (head * parts + part) * channels + channel
    assert torch.equal(by_head(parts, head_channels=channels).into([x]), named[:, 0])


def test_token_rows_are_exchanged():
    """Row (channel, token) goes to (token, channel)."""
    x = torch.arange(12)
    assert exchange(4).into([x]).tolist() == [c * 4 + t for t in range(4) for c in range(3)]
