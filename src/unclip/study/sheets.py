"""Votes as CSV: pairs handed out as sheets to be filled in, and sheets and votes read back.

A row names a pair, the images on its left and right, and the answer. Names of images do not tell
whose they are, so a sheet does not either; which arm was meant follows from the study.
"""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from random import Random

from unclip.common.atomic import atomic_write
from unclip.common.errors import UserError
from unclip.common.seeding import derive_seed
from unclip.study.order import arm_on, left_arm
from unclip.study.questions import QUESTIONS, SIDES, UNSURE
from unclip.study.study import Pair, Study
from unclip.study.votes import Vote, Votes, name_of_rater

COLUMNS = ("pair", "question", "caption", "left", "right", "answer", "rater")
NEEDED = ("pair", "left", "right", "answer")
IMAGES = "images"
MOST_BYTES = 256 << 20


def sheet_name(number: int) -> str:
    """The file of a sheet."""
    return f"sheet_{number:03d}.csv"


def write_sheets(study: Study, folder: Path, sheets: int, images_at: str) -> None:
    """Every pair once on each of some sheets, shuffled and with sides of its own; and the images.

    Args:
        study: The study.
        folder: Where the sheets go, and their images in a folder.
        sheets: How many; one per rater.
        images_at: What stands before the names of images in a sheet.
    """
    images = folder / IMAGES
    images.mkdir(parents=True, exist_ok=True)
    for name in {name for pair in study.pairs.values() for name in (pair.a, pair.b)}:
        with atomic_write(images / f"{name}.png") as part:
            shutil.copyfile(study.image(name), part)
    for number in range(1, sheets + 1):
        pairs = list(study.pairs.values())
        Random(derive_seed("sheet", study.seed, number)).shuffle(pairs)
        rows = [_row(study, pair, f"sheet {number}", images_at) for pair in pairs]
        _write(folder / sheet_name(number), rows)


def write_votes(study: Study, votes: Iterable[Vote], file: Path) -> int:
    """What raters said, in the form of a filled sheet; how many votes."""
    rows = []
    for vote in votes:
        if pair := study.pairs.get(vote.pair):
            side = UNSURE if vote.answer == UNSURE else SIDES[vote.answer != vote.left]
            left, right = (pair.image(arm_on(side, vote.left)) for side in SIDES)
            row = [pair.id, QUESTIONS[pair.question].ask, pair.caption, left, right, side]
            rows.append([*row, vote.rater])
    _write(file, rows)
    return len(rows)


def _row(study: Study, pair: Pair, sheet: str, images_at: str) -> list[str]:
    question, left = QUESTIONS[pair.question], left_arm(study, sheet, pair)
    images = [f"{images_at}{pair.image(arm_on(side, left))}.png" for side in SIDES]
    caption = pair.caption if question.shows_caption else ""
    return [pair.id, question.ask, caption, *images, "", ""]


def _write(file: Path, rows: list[list[str]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    writer.writerows([[_harmless(cell) for cell in row] for row in rows])
    with atomic_write(file) as part:
        part.write_text(text.getvalue(), encoding="utf-8", newline="")


_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def _harmless(cell: str) -> str:
    """Text that no spreadsheet takes for a formula."""
    return f"'{cell}" if cell.lstrip("'").startswith(_FORMULA) else cell


def _meant(cell: str) -> str:
    """What `_harmless` has made of a text."""
    return cell[1:] if cell[:1] == "'" and cell.lstrip("'").startswith(_FORMULA) else cell


def read_sheet(study: Study, file: Path, rater: str | None = None) -> list[Vote]:
    """The votes on a filled sheet; rows without an answer are left out.

    Args:
        study: That the pairs are of.
        file: CSV with at least the columns `NEEDED`; separated by commas, semicolons or tabs.
        rater: Who filled it in, where a row does not say.

    Raises:
        UserError: it cannot be read, or a row is of no use; names the line.
    """
    try:
        if file.stat().st_size > MOST_BYTES:
            raise UserError(f"{file}: is larger than {MOST_BYTES >> 20} MiB; split it")
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: is not UTF-8 text; save it as CSV UTF-8") from None
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    found: dict[tuple[str, str], Vote] = {}
    try:
        names = [name.strip().lower() for name in next(rows, [])]
        for name in NEEDED if rater is not None else (*NEEDED, "rater"):
            if names.count(name) != 1:
                has = ", ".join(filter(None, names)) or "none"
                hint = ", or give --rater NAME" if name == "rater" else ""
                raise UserError(f"{file}: needs one column {name}{hint}; it has {has[:200]}")
        for row in rows:
            where = f"{file} line {rows.line_num}"
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(names):
                raise UserError(f"{where}: has {len(row)} fields, the first line {len(names)}")
            cells = {name: cell.strip() for name, cell in zip(names, row)}
            vote = _vote(study, cells, rater, where)
            if vote is None:
                continue
            before = found.setdefault((vote.pair, vote.rater.casefold()), vote)
            if before.answer != vote.answer:
                raise UserError(
                    f"{where}: {vote.rater} has another answer for pair {vote.pair} above; keep one"
                )
    except csv.Error as error:
        raise UserError(f"{file} line {rows.line_num}: is not CSV ({error})") from None
    if not found:
        raise UserError(f"{file}: no row has an answer; fill in left, right or unsure")
    return list(found.values())


def _vote(study: Study, cells: dict[str, str], rater: str | None, where: str) -> Vote | None:
    answer = cells["answer"].casefold()
    if not answer:
        return None
    if answer not in (*SIDES, UNSURE):
        raise UserError(f"{where}: answer {answer[:50]!r} must be left, right or unsure")
    pair = study.pairs.get(cells["pair"])
    if pair is None:
        raise UserError(f"{where}: pair {cells['pair'][:50]!r} is none of {study.folder}")
    sides = [PurePosixPath(cells[side]).name.removesuffix(".png") for side in SIDES]
    if sorted(sides) != sorted((pair.a, pair.b)):
        raise UserError(
            f"{where}: left and right are not the images of pair {pair.id}; leave these columns as "
            "they were"
        )
    try:
        name = name_of_rater(_meant(cells.get("rater", "")) or rater or "")
    except ValueError as error:
        raise UserError(f"{where}: rater: {error}") from None
    left = "a" if sides[0] == pair.a else "b"
    said = UNSURE if answer == UNSURE else arm_on(answer, left)
    return Vote(pair.id, name, said, left)


def read_votes(study: Study, votes: Votes, files: Iterable[Path], rater: str | None) -> list[Vote]:
    """The votes on several sheets, of which none contradicts another, or one that is recorded.

    Raises:
        UserError: as `read_sheet`, or names what is contradicted.
    """
    names = {name.casefold(): name for name in votes.raters()}
    known = {(vote.pair, vote.rater): vote.answer for vote in votes.all()}
    found: dict[tuple[str, str], Vote] = {}
    for file in files:
        for vote in read_sheet(study, file, rater):
            own = names.setdefault(vote.rater.casefold(), vote.rater)
            vote = vote._replace(rater=own)
            key = (vote.pair, own)
            if known.setdefault(key, vote.answer) != vote.answer:
                raise UserError(
                    f"{file}: {own} has voted otherwise on pair {vote.pair} already; remove that "
                    "row, or give the rater another name"
                )
            found[key] = vote
    return list(found.values())
