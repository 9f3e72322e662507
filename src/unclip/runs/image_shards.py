"""The folder of `unclip sample --devices`: images in shards, each with its caption and seed."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from unclip.common.atomic import atomic_write
from unclip.common.hashing import file_sha256
from unclip.common.images import save
from unclip.common.png_record import Record, chunks
from unclip.data.pack.shards import SampleRow, write_tar
from unclip.data.shard_folder import ShardFolder
from unclip.evaluation.features.images import SAMPLES

FORMATS = ("png", "tar")
IMAGES = "images"


class PlannedImage(NamedTuple):
    """An image to be sampled."""

    key: str  # its file's name, without the ending
    caption: str
    seed: int


class Drawn(NamedTuple):
    """What has become of it."""

    image: np.ndarray  # uint8 [H, W, 3]
    z_i: list[float] | None  # [D] that it was drawn from, if that is kept


class ImageShards(ShardFolder):
    """``images/N/KEY.png`` and one `SAMPLES`, or ``N.tar`` in webdataset's form.

    Args:
        out: The folder.
        header: As of `ShardFolder`.
        shards: The images of each shard.
        form: One of `FORMATS`.
        recorder: Makes what an image's file says of it from its caption and seed.
    """

    command = "unclip sample --devices"
    subject = "cascade"
    held = "images"
    before = {"settings.keep_z_i": False, "settings.compile": "none"}

    def __init__(
        self,
        out: Path,
        header: dict[str, Any],
        shards: list[list[PlannedImage]],
        form: str,
        recorder: Callable[..., Record],
    ):
        super().__init__(out, header, len(shards))
        self.planned = shards
        self._form = form
        self._recorder = recorder
        self._width = max(5, len(str(len(shards))))

    def _number(self, number: int) -> str:
        return f"{number:0{self._width}d}"

    def folders(self) -> list[str]:
        """One per shard of PNGs."""
        if self._form == "tar":
            return []
        return [f"{IMAGES}/{self._number(number)}" for number in range(self.shards)]

    def made_later(self) -> list[str]:
        """The list of all images, and shards of either format."""
        return [SAMPLES, IMAGES, "[0-9][0-9][0-9][0-9][0-9]*.tar"]

    def names(self, number: int) -> list[str]:
        """A tar, or every PNG."""
        if self._form == "tar":
            return [f"{self._number(number)}.tar"]
        return [self._png(number, planned) for planned in self.planned[number]]

    def _png(self, number: int, planned: PlannedImage) -> str:
        return f"{IMAGES}/{self._number(number)}/{planned.key}.png"

    def intact(self, path: Path, recorded: dict[str, Any]) -> bool:
        """By checksum: images are read much faster than they are sampled."""
        return super().intact(path, recorded) and file_sha256(path) == recorded["sha256"]

    def write_files(self, number: int, content: Iterable[Drawn]) -> dict[str, Any]:
        """Write the shard's images as they come."""
        planned = self.planned[number]
        if self._form == "tar":
            with atomic_write(self.out / self.names(number)[0]) as part:
                write_tar(part, self._rows(planned, content))
        else:
            for one, drawn in zip(planned, content, strict=True):
                save(drawn.image, self.out / self._png(number, one), self._record_of(one))
        return {"images": len(planned)}

    def complete(self, manifest: dict[str, Any]) -> None:
        """List all PNGs; a tar has caption and seed beside each image."""
        if self._form == "tar":
            return
        with atomic_write(self.out / SAMPLES) as part, part.open("w", encoding="utf-8") as file:
            for number, planned in enumerate(self.planned):
                for one in planned:
                    row = {"file": self._png(number, one), **one._asdict()}
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")

    def _record_of(self, one: PlannedImage) -> Record:
        return self._recorder(caption=one.caption, seed=one.seed)

    def _rows(self, planned: list[PlannedImage], content: Iterable[Drawn]) -> Iterator[SampleRow]:
        for one, drawn in zip(planned, content, strict=True):
            png = io.BytesIO()
            Image.fromarray(drawn.image).save(png, "png", pnginfo=chunks(self._record_of(one)))
            facts = {"seed": one.seed}
            yield SampleRow(one.key, "png", png.getvalue(), [one.caption], facts, drawn.z_i)
