"""What `unclip experiments list` shows: each experiment's head, read without torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from unclip.common.errors import UserError
from unclip.common.terminal import visible
from unclip.config.cascades import cascade_files, read_cascade
from unclip.config.files import missing_roots, shipped_experiments, yaml_files
from unclip.config.load import Head, read_head
from unclip.config.text import opening
from unclip.stages import registry
from unclip.stages.row import KINDS

CASCADE = "cascade"  # where the others have their stage


@dataclass(frozen=True, kw_only=True)
class Entry:
    """An experiment or published cascade in a listing; what its opening comment omits is None."""

    name: str  # kind/name
    stage: str  # or `CASCADE`
    parameters: int | None
    about: str
    hardware: str | None
    time: str | None
    parent: str | None  # what it extends
    file: str
    shipped: bool  # comes with unclip
    hides: list[str]  # files of the same name, later on the search path


class Listing(NamedTuple):
    """Every experiment that can be found, and what is odd about the others."""

    entries: list[Entry]
    remarks: list[str]


def listing() -> Listing:
    """Read the heads of all experiments and published cascades; a broken file becomes a remark."""
    entries = []
    remarks = [f"$UNCLIP_EXPERIMENTS: {p} is not a folder" for p in missing_roots()]
    for kind in KINDS:
        for name, paths in yaml_files(kind).items():
            try:
                entries.append(_entry(name, read_head(paths[0]), *paths))
            except UserError as error:
                remarks.append(f"not listed: {error}")
            remarks += [f"{paths[0]} hides {path}" for path in paths[1:]]
    for name, paths in cascade_files().items():
        try:
            found = read_cascade(paths[0]).published
            about = f"{found.about} ({found.download}, {found.licence})"
            entries.append(_entry(name, Head(CASCADE, about, None), *paths))
        except UserError as error:
            remarks.append(f"not listed: {error}")
        remarks += [f"{paths[0]} hides {path}" for path in paths[1:]]
    return Listing(entries, remarks)


def _entry(name: str, head: Head, path: Path, *hidden: Path) -> Entry:
    notes = opening(path)
    count = notes.get("parameters", "").replace(",", "")
    return Entry(
        name=name,
        stage=head.stage,
        parameters=int(count) if count.isdecimal() else None,
        about=head.about,
        hardware=notes.get("hardware"),
        time=notes.get("time"),
        parent=head.parent,
        file=str(path),
        shipped=path.resolve().is_relative_to(shipped_experiments().resolve()),
        hides=[str(p) for p in hidden],
    )


def matching(entries: Sequence[Entry], word: str) -> list[Entry]:
    """Those with ``word`` in their name, stage or about, in any case; with a slash, in the name."""
    word = word.lower()
    if "/" in word:
        return [e for e in entries if word in e.name.lower()]
    return [e for e in entries if word in f"{e.name}\n{e.stage}\n{e.about}".lower()]


def short(count: int | None) -> str:
    """A number of parameters in three digits: ``159M``."""
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if count and count >= 0.9995 * size:
            return f"{count / size:.3g}{unit}"
    return "-" if count is None else str(count)


def plain(entries: Sequence[Entry]) -> list[str]:
    """A line each, for pipes: name, stage, parameters, hardware, parent, about."""
    return aligned(
        [
            (e.name, e.stage, short(e.parameters), e.hardware or "-", e.parent or "-", _about(e))
            for e in entries
        ]
    )


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines, the columns two spaces apart."""
    shown = [[visible(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown)]
    return ["  ".join(f"{c:<{w}}" for c, w in zip(row, widths)).rstrip() for row in shown]


def print_tables(entries: Sequence[Entry]) -> None:
    """A table per stage, for terminals; long cells go on in the next line."""
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, emoji=False, highlight=False)
    width = max(len(e.name) for e in entries)
    for stage, about, members in _by_stage(entries):
        console.print(f"\n{stage}: {about}", style="bold")
        table = Table(box=None, pad_edge=False, show_header=False)
        table.add_column(min_width=width, no_wrap=True)
        table.add_column(min_width=5, justify="right")
        table.add_column(min_width=17, max_width=17)
        table.add_column()
        for e in members:
            extends = f" (extends {e.parent})" if e.parent else ""
            cells = e.name, short(e.parameters), e.hardware or "-", _about(e) + extends
            table.add_row(*map(visible, cells))
        console.print(table)


def _by_stage(entries: Sequence[Entry]) -> Iterator[tuple[str, str, list[Entry]]]:
    abouts = {stage.name: stage.about for stage in registry.STAGES.values()}
    for stage, about in {**abouts, CASCADE: "published, fetched by `--pipeline NAME`"}.items():
        members = [e for e in entries if e.stage == stage]
        if members:
            yield stage, about, members


def _about(entry: Entry) -> str:
    """What it is for; where it is, if it is the user's own."""
    return entry.about if entry.shipped else f"{entry.about} [{entry.file}]"
