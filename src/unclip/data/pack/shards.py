"""One shard of packed samples: a webdataset tar or a Hugging Face parquet file, byte by byte."""

from __future__ import annotations

import io
import itertools
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from unclip.data.keys import printable

_ROW_GROUP = 100  # rows that are read together
_TEXT = {"dtype": "string", "_type": "Value"}
_TEXTS = {"feature": _TEXT, "_type": "Sequence"}


class SampleRow(NamedTuple):
    """A sample as it is stored."""

    name: str  # a `safe_name`, unique in its shard
    ending: str  # of the image file, without a dot
    image: bytes
    captions: list[str]
    facts: dict[str, Any] | None = None  # further ones, for a tar
    z_i: list[float] | None = None  # that the image was drawn from, for a tar


class SeveralCaptions(Exception):
    """A sample has more than one caption, but the column holds one text a row."""


def safe_name(key: str) -> str:
    """``key`` as a name in an archive, which `key_of` gives back.

    It is ``key`` itself, unless it has control characters, its last part has a dot (there keys
    end), or it leads out of a folder: then it is percent-encoded.

    >>> safe_name("birds/0001"), safe_name("../v1.5")
    ('birds/0001', '%2E%2E%2Fv1%2E5')
    """
    parts = key.split("/")
    plain = all(part not in ("", ".", "..") for part in parts) and printable(key) == key
    if plain and "." not in parts[-1]:
        return key
    return quote(key, safe="").replace(".", "%2E")


def write_tar(path: Path, rows: Iterable[SampleRow]) -> int:
    """NAME.jpg with NAME.txt; how many rows.

    Several captions, or one with a z_i, are in NAME.json, {"caption": [...], "z_i": [...]}, and in
    no NAME.txt. Further facts about a sample are in its NAME.json too.
    """
    count = 0
    with tarfile.open(path, "w") as archive:
        for row in rows:
            _add(archive, f"{row.name}.{row.ending}", row.image)
            facts: dict[str, Any] = dict(row.facts or {})
            if len(row.captions) == 1 and row.z_i is None:
                _add(archive, f"{row.name}.txt", row.captions[0].encode())
            else:
                facts = {"caption": row.captions, **facts}
            if row.z_i is not None:
                facts["z_i"] = row.z_i
            if facts:
                text = json.dumps(facts, ensure_ascii=False)
                _add(archive, f"{row.name}.json", text.encode())
            count += 1
    return count


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # owner and time are 0
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def write_parquet(path: Path, rows: Iterable[SampleRow], *, lists: bool) -> int:
    """Columns image {bytes, path} and caption; how many rows.

    Args:
        path: The file.
        rows: What it holds.
        lists: Whether a caption is a list of texts.

    Raises:
        SeveralCaptions: A row has several, and ``lists`` is not set.
    """
    features = {"image": {"_type": "Image"}, "caption": _TEXTS if lists else _TEXT}
    schema = pa.schema(
        {
            "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
            "caption": pa.list_(pa.string()) if lists else pa.string(),
        },
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    rows, count = iter(rows), 0
    # Images are compressed already, and none occurs twice.
    with pq.ParquetWriter(path, schema, compression="none", use_dictionary=False) as writer:
        while group := list(itertools.islice(rows, _ROW_GROUP)):
            if not lists and any(len(row.captions) > 1 for row in group):
                raise SeveralCaptions
            images = [{"bytes": row.image, "path": f"{row.name}.{row.ending}"} for row in group]
            captions = [row.captions if lists else row.captions[0] for row in group]
            writer.write_table(pa.table({"image": images, "caption": captions}, schema=schema))
            count += len(group)
    return count
