"""What a bundle is made of: names, sizes, the manifest.

A bundle is a zip or a folder. That of a run (format version 1)::

    manifest.json                        format version, checksum and size of every other file
    README.md                            the model card, which may be edited
    experiment.yaml  provenance.json  metrics.jsonl  summary.json  samples/step_*.png
    artifact/                            with the weights, if they were shared
    parents/clip/  parents/pca/          experiment.yaml, provenance.json, artifact/

That of a cascade (format version 2) has the files of a run for each stage::

    manifest.json  README.md
    clip/  prior/  decoder/  ...         each as above; ``clip: parents/clip`` is clip/
    parents/pca/                         only where the AR prior's PCA is not pca/
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from unclip.common import artifacts, json_text
from unclip.common.errors import UserError
from unclip.sharing.reading import Refused

FORMAT = "unclip-bundle"
RUN_VERSION, CASCADE_VERSION = 1, 2
MANIFEST, CARD = "manifest.json", "README.md"
EXPERIMENT, PROVENANCE = "experiment.yaml", "provenance.json"
METRICS, SUMMARY = "metrics.jsonl", "summary.json"
WEIGHTS = "artifact/weights.safetensors"
RUN = "run"
PARENTS = ("clip", "pca")
INIT = "init"  # the weights that a run began from are never inside: their checksum names them
OTHER_PCA = "parents/pca"  # in a cascade
MAX_FILES = 256
MAX_SAMPLES = 8
MAX_BYTES = {
    ".json": 4 << 20,
    ".jsonl": 64 << 20,
    ".yaml": 256 << 10,
    ".md": 1 << 20,
    ".txt": 16 << 20,
    ".png": 32 << 20,
    ".safetensors": 64 << 30,
}
_ARTIFACT = "|".join(re.escape(n) for n in (*artifacts.FILES, *artifacts.MORE))
_PART = rf"{re.escape(EXPERIMENT)}|{re.escape(PROVENANCE)}|artifact/(?:{_ARTIFACT})"
_RUN_PART = rf"{_PART}|{re.escape(METRICS)}|{re.escape(SUMMARY)}|samples/step_[0-9]{{1,12}}\.png"
_TOP = rf"{re.escape(MANIFEST)}|{re.escape(CARD)}"
STAGE = r"(?:clip|pca|prior|ar_prior|decoder|upsampler(?:_\w{1,40})?)"
"""A folder of a cascade."""
_MEMBER = {
    RUN_VERSION: rf"{_TOP}|{_RUN_PART}|parents/(?:{'|'.join(PARENTS)})/(?:{_PART})",
    CASCADE_VERSION: rf"{_TOP}|{STAGE}/(?:{_RUN_PART})|{OTHER_PCA}/(?:{_PART})",
}
_NAME = re.compile(r"[\w-]{1,50}/[\w.-]{1,100}", re.ASCII)
_HEX = re.compile(r"[0-9a-f]{64}")


def check_name(bundle: str, name: str, version: int | None = None) -> None:
    """Refuse a member that no bundle (of a ``version``) has: nothing is outside, hidden or code."""
    patterns = [_MEMBER[version]] if version else _MEMBER.values()
    if not any(re.fullmatch(pattern, name, re.ASCII) for pattern in patterns):
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

    experiment: str  # kind/name; of a cascade, cascade/name
    weights: dict[str, str]  # part -> sha256 of its weights, inside or not
    files: dict[str, File]
    version: int = RUN_VERSION

    @property
    def cascade(self) -> bool:
        """Whether it is of a cascade, not of one run."""
        return self.version == CASCADE_VERSION

    def prefix(self, part: str) -> str:
        """Where the files of ``part`` begin: `run`, `clip` or `pca`; a cascade's folder."""
        if self.cascade:
            return f"{part}/"
        return "" if part == RUN else f"parents/{part}/"

    @property
    def parts(self) -> list[str]:
        """The run and the parents that are inside; the stages of a cascade, parents first."""
        known = in_order(self.weights) if self.cascade else (RUN, *PARENTS)
        return [p for p in known if p == RUN or self.prefix(p) + EXPERIMENT in self.files]

    def as_json(self) -> dict[str, Any]:
        """As it is written."""
        return {
            "format": FORMAT,
            "format_version": self.version,
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
        if type(version) is not int or version not in _MEMBER:
            raise ValueError(
                f"has format version {version!r}, this unclip reads {RUN_VERSION} and "
                f"{CASCADE_VERSION}; use a newer unclip, or share the run again"
            )
        known = {"format", "format_version", "experiment", "weights", "files"}
        if set(content) != known:
            odd = ", ".join(sorted(set(content) ^ known))
            raise ValueError(f"has unknown fields or lacks some: {odd}")
        manifest = Manifest(
            _word(content["experiment"], _NAME, "experiment"),
            {part: _word(v, _HEX, "weights") for part, v in _object(content, "weights").items()},
            {name: _file(entry, name) for name, entry in _object(content, "files").items()},
            version,
        )
        _check_parts(manifest)
    except ValueError as error:
        raise Refused(bundle, MANIFEST, str(error)) from None
    _check_files(manifest, bundle)
    return manifest


def in_order(parts: Iterable[str]) -> list[str]:
    """A cascade's parts, parents before what depends on them."""
    parents = ["clip", OTHER_PCA, "pca"]
    return sorted(parts, key=lambda p: (parents.index(p) if p in parents else len(parents), p))


def _check_parts(manifest: Manifest) -> None:
    """ValueError unless the weights are those of a run and its parents, or of a cascade."""
    names = set(manifest.weights)
    if not manifest.cascade and not {RUN} <= names <= {RUN, *PARENTS}:
        raise ValueError(f"weights: must have {RUN}, and may have {', '.join(PARENTS)}")
    if manifest.cascade:
        odd = [n for n in names if n != OTHER_PCA and not re.fullmatch(STAGE, n, re.ASCII)]
        if odd or not {"clip", "decoder"} <= names:
            raise ValueError("weights: must have clip and decoder, and nothing but stages")
        if missing := names - set(manifest.parts):
            raise ValueError(f"weights: {sorted(missing)[0]} has no {EXPERIMENT}")


def _check_files(manifest: Manifest, bundle: str) -> None:
    if len(manifest.files) > MAX_FILES:
        raise UserError(f"{bundle}: {MANIFEST}: names more than {MAX_FILES} files")
    for name, file in manifest.files.items():
        check_name(bundle, name, manifest.version)
        if name in (MANIFEST, CARD):
            raise Refused(bundle, MANIFEST, f"must not list {name}")
        if not 0 <= file.size <= limit_of(name):
            raise Refused(bundle, name, f"has {file.size:,} bytes, the most is {limit_of(name):,}")
    for part in manifest.parts:
        begin = manifest.prefix(part)
        found = {name.removeprefix(begin) for name in manifest.files if name.startswith(begin)}
        wanted = {EXPERIMENT, PROVENANCE}
        if any(name.startswith("artifact/") for name in found):
            wanted |= {f"artifact/{name}" for name in artifacts.FILES}
        for name in sorted(wanted - found):
            raise Refused(bundle, begin + name, "is missing from the bundle")
        _check_twins(manifest, part, bundle)
    begins = tuple(manifest.prefix(p) for p in manifest.parts if p != RUN)
    for name in manifest.files:
        if (manifest.cascade or name.startswith("parents/")) and not name.startswith(begins):
            raise Refused(bundle, name, f"has no {EXPERIMENT} beside it")


def _check_twins(manifest: Manifest, part: str, bundle: str) -> None:
    """An artifact repeats its run's files, so that what holds for these holds for it."""
    files, begin = manifest.files, manifest.prefix(part)
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
