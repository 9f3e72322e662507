"""`unclip data inspect`: from a source to its report and its sheets."""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image

from unclip.data.inspect.report import Report, make_report, suspects
from unclip.data.inspect.scan_samples import scan_source
from unclip.data.inspect.sheets import contact_sheet, evenly_spaced, suspects_sheet
from unclip.data.readers.source import Source
from unclip.embeddings.tokens import Tokenizer


class Inspection(NamedTuple):
    """What was found."""

    report: Report
    sheets: dict[str, Image.Image | None]  # by file name; None where there is nothing to show


def inspect(
    source: Source, *, held_out: int, name: str, limit: int | None, context: int, workers: int
) -> Inspection:
    """Go over a source.

    Args:
        source: All of its samples.
        held_out: How many of them are kept for validation.
        name: What the report calls it.
        limit: Samples to look at, evenly spread; None is all.
        context: Tokens that the CLIP reads.
        workers: Processes that read and measure.
    """
    indices = evenly_spaced(len(source), limit or len(source))
    scanned = scan_source(source, indices, tokenizer=Tokenizer(context), workers=workers)
    found = suspects(scanned)
    sheets = {
        "contact_sheet.png": contact_sheet(source, scanned.images["index"]),
        "suspects.png": suspects_sheet(source, found, scanned.problems),
    }
    report = make_report(source, scanned, found, name=name, held_out=held_out, context=context)
    return Inspection(report, sheets)
