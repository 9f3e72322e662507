"""What comes of a probe: a sheet of images, a table, and what has to be said of them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from unclip.common import tables
from unclip.common.atomic import atomic_write
from unclip.common.images import Array
from unclip.data.scenes.render import Scene
from unclip.evaluation.oracle.oracle import check


@dataclass(frozen=True)
class Probe:
    """A sheet of images with what was counted in them."""

    sheet: Image.Image
    records: list[dict[str, Any]]  # the lines of a table, all with the same keys; may be none
    notes: list[str] = field(default_factory=list)  # parts left out, and why

    @property
    def lines(self) -> list[list[str]]:
        """The table as text, titles first; empty without records."""
        titles = [list(record) for record in self.records[:1]]
        return titles + [[_cell(v) for v in record.values()] for record in self.records]

    def json(self) -> str:
        """Records and notes."""
        return json.dumps({"records": self.records, "notes": self.notes}, indent=2)

    def save(self, folder: Path, name: str) -> Path:
        """Write ``name``.png into ``folder``, and of a table .json, .csv and .md as well."""
        if self.records:
            sheet = io.StringIO()
            writer = csv.DictWriter(sheet, list(self.records[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.records)
            texts = {
                "json": self.json() + "\n",
                "csv": sheet.getvalue(),
                "md": tables.markdown(self.lines),
            }
            for suffix, text in texts.items():
                with atomic_write(folder / f"{name}.{suffix}") as scratch:
                    scratch.write_text(text, encoding="utf-8")
        with atomic_write(folder / f"{name}.png") as scratch:
            self.sheet.save(scratch, "png")
        return folder / f"{name}.png"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def count_right(images: Sequence[Array], scenes: Sequence[Scene]) -> int:
    """How many images (``uint8 [S, S, 3]``) show the colours and shapes of their scenes."""
    return sum(check(image, s).shows(("colour", "shape")) for image, s in zip(images, scenes))
