"""Rules that rename the tensors of another project into ours, and back, bit for bit.

In a pattern ``{w}`` stands for "weight" or "bias", any other ``{FIELD}`` for a number; a field has
the same value in all patterns of a rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from unclip.common.errors import UserError

_FIELD = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Change:
    """A reversible change of values: their tensors, in the order of the rule, and our single one.

    Either function raises ValueError or RuntimeError for a shape that it cannot change.
    """

    into: Callable[[Sequence[Tensor]], Tensor]
    back: Callable[[Tensor], Sequence[Tensor]]


def of_one(into: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]) -> Change:
    """A change of one tensor into one."""
    return Change(lambda tensors: into(tensors[0]), lambda tensor: [back(tensor)])


def concatenate(parts: int) -> Change:
    """``parts`` tensors of equally many rows, one below the other."""

    def back(tensor: Tensor) -> list[Tensor]:
        return [part.clone() for part in tensor.unflatten(0, (parts, -1)).unbind()]

    return Change(lambda tensors: torch.cat(list(tensors)), back)


def by_head(
    parts: int, *, heads: int | None = None, head_channels: int = 0, convolution: bool = False
) -> Change:
    """Rows ordered (head, part, channel), ours (part, head, channel).

    The number of heads is given, or follows from ``head_channels``; with ``convolution`` their
    weights have the last dimension that `CONVOLUTION` drops.
    """

    def count(rows: int) -> int:
        return heads or rows // (parts * head_channels)

    def into(x: Tensor) -> Tensor:
        x = CONVOLUTION.into([x]) if convolution else x
        return x.unflatten(0, (count(len(x)), parts, -1)).transpose(0, 1).flatten(0, 2)

    def back(x: Tensor) -> Tensor:
        x = x.unflatten(0, (parts, count(len(x)), -1)).transpose(0, 1).flatten(0, 2)
        return CONVOLUTION.back(x)[0] if convolution else x

    return of_one(into, back)


def exchange(inner: int) -> Change:
    """Rows ordered (outer, inner), ours (inner, outer), with ``inner`` of the inner ones."""
    return of_one(
        lambda x: x.unflatten(0, (-1, inner)).transpose(0, 1).flatten(0, 1),
        lambda x: x.unflatten(0, (inner, -1)).transpose(0, 1).flatten(0, 1),
    )


SAME = of_one(lambda x: x, lambda x: x)
TRANSPOSE = of_one(lambda x: x.t(), lambda x: x.t())
DROP_FIRST = of_one(lambda x: x.squeeze(0), lambda x: x.unsqueeze(0))
"""``[1, ...]`` as ``[...]``."""
CONVOLUTION = of_one(
    lambda x: x.squeeze(-1) if x.ndim == 3 else x, lambda x: x.unsqueeze(-1) if x.ndim == 2 else x
)
"""A 1×1 convolution's weight ``[out, in, 1]`` as a linear layer's; its bias stays."""


@dataclass(frozen=True)
class Rule:
    """One of our tensors, what it is called by them, and how its values change."""

    theirs: str | tuple[str, ...]  # several are changed into one
    ours: str
    change: Change = SAME

    @property
    def sources(self) -> tuple[str, ...]:
        """Their patterns."""
        return (self.theirs,) if isinstance(self.theirs, str) else self.theirs

    @cached_property
    def their_regexes(self) -> tuple[re.Pattern[str], ...]:
        """Each of their patterns as a regular expression."""
        return tuple(_regex(pattern) for pattern in self.sources)

    @cached_property
    def our_regex(self) -> re.Pattern[str]:
        """Our pattern as a regular expression."""
        return _regex(self.ours)


Source = str | Callable[[str], str]
"""What errors begin with: the file or folder, of all tensors or by a tensor's name."""


def prefixed(rules: Iterable[Rule], *, theirs: str = "", ours: str = "") -> list[Rule]:
    """The rules of a module that stands inside another on either side."""
    return [
        replace(r, theirs=tuple(theirs + s for s in r.sources), ours=ours + r.ours) for r in rules
    ]


def to_ours(
    state: Mapping[str, Tensor],
    rules: Sequence[Rule],
    *,
    expected: Mapping[str, Tensor],
    source: Source,
) -> dict[str, Tensor]:
    """Their tensors under our names.

    Args:
        state: Theirs.
        rules: Of all of them.
        expected: Every name that our network has, with a tensor of its shape; may be on "meta".
        source: What errors begin with: the file or folder, of all or by a tensor's name.

    Raises:
        UserError: a name without a place in our network, one that is missing, or a shape that
            does not fit.
    """
    groups: dict[str, tuple[Rule, dict[int, str]]] = {}
    unused = []
    for name in state:
        found = _place(name, rules)
        if found is None or found[0] not in expected:
            unused.append(name)
            continue
        ours, rule, part = found
        groups.setdefault(ours, (rule, {}))[1][part] = name
    _refuse(unused, source, "has no place in this network")
    _refuse(list(_missing(expected, groups, rules)), source, "is missing")
    result: dict[str, Tensor] = {}
    for ours in expected:
        rule, parts = groups[ours]
        names = [parts[k] for k in range(len(rule.sources))]
        result[ours] = _changed([state[n] for n in names], rule, expected[ours], names[0], source)
    return result


def to_theirs(
    state: Mapping[str, Tensor], rules: Sequence[Rule], *, source: str = "our network"
) -> dict[str, Tensor]:
    """Our tensors under their names: the inverse of `to_ours`, bit for bit.

    Raises:
        UserError: a tensor of ours that they have no name for.
    """
    result: dict[str, Tensor] = {}
    unused = []
    for name, tensor in state.items():
        for rule in rules:
            if found := rule.our_regex.fullmatch(name):
                names = [_fill(pattern, found.groupdict()) for pattern in rule.sources]
                tensors = rule.change.back(tensor)
                result.update(zip(names, (x.contiguous() for x in tensors), strict=True))
                break
        else:
            unused.append(name)
    _refuse(unused, source, "has no name in their layout")
    return result


def _regex(pattern: str) -> re.Pattern[str]:
    pieces = _FIELD.split(pattern)  # text, field, text, ...
    for k in range(0, len(pieces), 2):
        pieces[k] = re.escape(pieces[k])
    for k in range(1, len(pieces), 2):
        kind = "weight|bias" if pieces[k] == "w" else "0|[1-9][0-9]*"
        pieces[k] = f"(?P<{pieces[k]}>{kind})"
    return re.compile("".join(pieces))


def _fill(pattern: str, fields: Mapping[str, str]) -> str:
    return _FIELD.sub(lambda field: fields[field[1]], pattern)


def _place(name: str, rules: Sequence[Rule]) -> tuple[str, Rule, int] | None:
    """Our name of one of theirs, its rule, and which of the rule's tensors it is."""
    for rule in rules:
        for part, regex in enumerate(rule.their_regexes):
            if found := regex.fullmatch(name):
                return _fill(rule.ours, found.groupdict()), rule, part
    return None


def _missing(
    expected: Iterable[str],
    groups: Mapping[str, tuple[Rule, dict[int, str]]],
    rules: Sequence[Rule],
) -> Iterable[str]:
    """Their names of what our network has and they lack."""
    for ours in expected:
        there = groups[ours][1] if ours in groups else {}
        for rule in rules:
            if found := rule.our_regex.fullmatch(ours):
                for part, pattern in enumerate(rule.sources):
                    if part not in there:
                        yield _fill(pattern, found.groupdict())
                break
        else:
            yield f"{ours} (our name)"


def _changed(
    tensors: Sequence[Tensor], rule: Rule, expected: Tensor, name: str, source: Source
) -> Tensor:
    try:
        result = rule.change.into(tensors).contiguous()
    except (ValueError, RuntimeError):
        result = None
    if result is None or result.shape != expected.shape:
        shapes = " and ".join(str(list(x.shape)) for x in tensors)
        raise UserError(
            f"{_place_of(name, source)}: {name} has the shape {shapes}, which does not become "
            f"{list(expected.shape)}; it is a network of another size"
        )
    return result


def _refuse(names: Sequence[str], source: Source, problem: str) -> None:
    if names:
        more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        place = _place_of(names[0], source)
        raise UserError(f"{place}: {names[0]}{more} {problem}; it is another kind of network")


def _place_of(name: str, source: Source) -> str:
    return source if isinstance(source, str) else source(name)
