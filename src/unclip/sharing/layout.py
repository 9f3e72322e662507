"""What a bundle is made of: names, sizes, the manifest.

A bundle is a zip or a folder::

    manifest.json                        format version, checksum and size of every other file
    README.md                            the model card, which may be edited
    experiment.yaml  provenance.json  metrics.jsonl  summary.json  samples/step_*.png
    artifact/                            with the weights, if they were shared
    parents/clip/  parents/pca/          experiment.yaml, provenance.json, artifact/
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from unclip.common import artifacts, json_text
from unclip.common.errors import UserError
from unclip.sharing.reading import Refused

FORMAT = "unclip-bundle"
FORMAT_VERSION = 1
MANIFEST, CARD = "manifest.json", "README.md"
EXPERIMENT, PROVENANCE = "experiment.yaml", "provenance.json"
METRICS, SUMMARY = "metrics.jsonl", "summary.json"
WEIGHTS = "artifact/weights.safetensors"
RUN = "run"
PARENTS = ("clip", "pca")
MAX_FILES = 64
MAX_SAMPLES = 8
MAX_BYTES = {
    ".json": 4 << 20,
    ".jsonl": 64 << 20,
    ".yaml": 256 << 10,
    ".md": 1 << 20,
    ".png": 32 << 20,
    ".safetensors": 64 << 30,
}
_ARTIFACT = "|".join(re.escape(name) for name in (*artifacts.FILES, artifacts.X0_ERRORS))
_PART = rf"{re.escape(EXPERIMENT)}|{re.escape(PROVENANCE)}|artifact/(?:{_ARTIFACT})"
_MEMBER = re.compile(
    rf"{re.escape(MANIFEST)}|{re.escape(CARD)}|{re.escape(METRICS)}|{re.escape(SUMMARY)}"
    rf"|samples/step_[0-9]{{1,12}}\.png|(?:parents/(?:{'|'.join(PARENTS)})/)?(?:{_PART})"
)
_NAME = re.compile(r"[\w-]{1,50}/[\w.-]{1,100}", re.ASCII)
_HEX = re.compile(r"[0-9a-f]{64}")


def prefix(part: str) -> str:
    """Where the files of ``part`` (`run`, `clip` or `pca`) begin."""
    return "" if part == RUN else f"parents/{part}/"


def check_name(bundle: str, name: str) -> None:
    """Refuse a member that no bundle has; so nothing can be outside, hidden or code."""
    if not _MEMBER.fullmatch(name):
        raise Refused(bundle, name, "is not a file of a bundle")


def limit_of(name: str) -> int:
    """The most bytes that the member ``name`` may have."""
    return MAX_BYTES[PurePosixPath(name).suffix]


@dataclass(frozen=True)
class File:
    """What the manifest says of a member."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """The table of contents."""

    experiment: str  # kind/name
    weights: dict[str, str]  # part -> sha256 of its weights, inside or not
    files: dict[str, File]

    @property
    def parts(self) -> list[str]:
        """The run and the parents that are inside."""
        return [RUN, *(p for p in PARENTS if prefix(p) + EXPERIMENT in self.files)]

    def as_json(self) -> dict[str, Any]:
        """As it is written."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "experiment": self.experiment,
            "weights": self.weights,
            "files": {name: vars(file) for name, file in self.files.items()},
        }


def read_manifest(path: Path, bundle: str) -> Manifest:
    """The manifest in ``path``, every field checked.

    Raises:
        UserError: it is damaged, of another format version, or names what no bundle has.
    """
    try:
        content = json_text.read_object(path)
        if content.get("format") != FORMAT:
            raise ValueError(f"is not of a bundle (format: must be {FORMAT})")
        version = content.get("format_version")
        if version != FORMAT_VERSION or type(version) is not int:
            raise ValueError(
                f"has format version {version!r}, this unclip reads {FORMAT_VERSION}; use a newer "
                "unclip, or share the run again"
            )
        known = {"format", "format_version", "experiment", "weights", "files"}
        if set(content) != known:
            odd = ", ".join(sorted(set(content) ^ known))
            raise ValueError(f"has unknown fields or lacks some: {odd}")
        manifest = Manifest(
            _word(content["experiment"], _NAME, "experiment"),
            {part: _word(v, _HEX, "weights") for part, v in _object(content, "weights").items()},
            {name: _file(entry, name) for name, entry in _object(content, "files").items()},
        )
        if not {RUN} <= set(manifest.weights) <= {RUN, *PARENTS}:
            raise ValueError(f"weights: must have {RUN}, and may have {', '.join(PARENTS)}")
    except ValueError as error:
        raise Refused(bundle, MANIFEST, str(error)) from None
    _check_files(manifest, bundle)
    return manifest


def _check_files(manifest: Manifest, bundle: str) -> None:
    if len(manifest.files) > MAX_FILES:
        raise UserError(f"{bundle}: {MANIFEST}: names more than {MAX_FILES} files")
    for name, file in manifest.files.items():
        check_name(bundle, name)
        if name in (MANIFEST, CARD):
            raise Refused(bundle, MANIFEST, f"must not list {name}")
        if not 0 <= file.size <= limit_of(name):
            raise Refused(bundle, name, f"has {file.size:,} bytes, the most is {limit_of(name):,}")
    for part in manifest.parts:
        begin = prefix(part)
        found = {name.removeprefix(begin) for name in manifest.files if name.startswith(begin)}
        wanted = {EXPERIMENT, PROVENANCE}
        if any(name.startswith("artifact/") for name in found):
            wanted |= {f"artifact/{name}" for name in artifacts.FILES}
        for name in sorted(wanted - found):
            raise Refused(bundle, begin + name, "is missing from the bundle")
        _check_twins(manifest, part, bundle)
    stray = [
        n for p in PARENTS if p not in manifest.parts for n in manifest.files if prefix(p) in n
    ]
    if stray:
        raise Refused(bundle, stray[0], f"has no {EXPERIMENT} beside it")


def _check_twins(manifest: Manifest, part: str, bundle: str) -> None:
    """An artifact repeats its run's files, so that what holds for these holds for it."""
    files, begin = manifest.files, prefix(part)
    if part not in manifest.weights:
        raise Refused(bundle, MANIFEST, f"weights: {part} is missing")
    if begin + WEIGHTS not in files:
        return
    for name, twin in ((EXPERIMENT, "config.yaml"), (PROVENANCE, "provenance.json")):
        if files[begin + name] != files[f"{begin}artifact/{twin}"]:
            raise Refused(bundle, f"{begin}artifact/{twin}", f"differs from {begin}{name}")
    if files[begin + WEIGHTS].sha256 != manifest.weights[part]:
        raise Refused(bundle, begin + WEIGHTS, f"is not what {MANIFEST} has under weights")


def _object(content: dict[str, Any], key: str) -> dict[str, Any]:
    value = content[key]
    if not isinstance(value, dict):
        raise ValueError(f"{key}: must be an object")
    return value


def _word(value: Any, pattern: re.Pattern[str], key: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise ValueError(f"{key}: {str(value)[:50]!r} is not of its form")
    return value


def _file(entry: Any, name: str) -> File:
    if not isinstance(entry, dict) or set(entry) != {"sha256", "size"}:
        raise ValueError(f"files: {name[:100]!r} must have sha256 and size, nothing else")
    if type(entry["size"]) is not int:
        raise ValueError(f"files: {name[:100]!r}: size must be an integer")
    return File(_word(entry["sha256"], _HEX, "sha256"), entry["size"])
