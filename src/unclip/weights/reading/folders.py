"""The files of a folder of weights: which there are, and the tensors of one component."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from torch import Tensor

from unclip.common import json_text
from unclip.common.errors import UserError
from unclip.common.terminal import visible
from unclip.weights.reading.tensors import ENDINGS, SAFE, read_file, state_of

MOST_FILES = 2_000
MERGES = ("merges.txt", "vocab.bpe")  # GPT-2's, by the names that its own files have
BESIDE = ("config.json", "prior_config.json", *MERGES)
"""What belongs to a single file of weights next to it: its configuration, GPT-2's merges."""
_SHARD = re.compile(r"-\d+-of-\d+\.")
_INDEX = ".index"


class Source:
    """Files by name, wherever they are; a file is fetched when it is first asked for.

    Args:
        label: What errors call the whole.
        names: Relative, with slashes.
        fetch: The path of a file on this disk.
        origin: Where it comes from, for provenance: source, revision, licence.
        base: What errors about one file begin with, if not ``label``.
    """

    def __init__(
        self,
        label: str,
        names: Iterable[str],
        fetch: Callable[[str], Path],
        origin: dict[str, Any],
        base: str = "",
    ):
        self._base = base or label
        self.label, self.names, self._fetch, self.origin = label, sorted(names), fetch, origin
        self.used: dict[str, Path] = {}

    def path(self, name: str) -> Path:
        """A file of the source.

        Raises:
            UserError: there is none of this name.
        """
        if name not in self.names:
            raise UserError(f"{self.where(name)}: is missing; fetch the source again")
        if name not in self.used:
            self.used[name] = self._fetch(name)
        return self.used[name]

    def where(self, name: str) -> str:
        """How errors about a file begin."""
        return f"{self._base}/{name}" if name else self.label

    def folders(self) -> list[str]:
        """Those with files, the source's own as an empty text."""
        return sorted({_folder(name) for name in self.names})

    def inside(self, folder: str) -> list[str]:
        """The names of the files in a folder, not of those below it."""
        return [name for name in self.names if _folder(name) == folder]

    def json(self, name: str) -> dict[str, Any]:
        """The object in a JSON file."""
        try:
            return json_text.read_object(self.path(name))
        except (OSError, ValueError) as error:
            raise UserError(f"{self.where(name)}: {error}; fetch it again") from None

    def state(self, folder: str, *, half: bool) -> dict[str, Tensor]:
        """The state dict in a folder, of one file or of shards with an index.

        Of several formats safetensors are taken, and the variant ``.fp16.`` if ``half`` asks for
        it or there is no other.

        Raises:
            UserError: there is none, or the index and its shards do not agree.
        """
        files = [name for name in self.inside(folder) if _is_weights(name)]
        if not files:
            raise UserError(f"{self.where(folder)}: its weights are missing; fetch them again")
        first = min(
            files,
            key=lambda n: (not _is_safe(n), not _is_model(n), (".fp16." in n) != half, len(n), n),
        )
        if _INDEX in first:
            return self._sharded(folder, first)
        return self.state_in(first)

    def state_in(self, name: str) -> dict[str, Tensor]:
        """The state dict in a file."""
        where = self.where(name)
        return state_of(read_file(self.path(name), where), where)

    def _sharded(self, folder: str, index: str) -> dict[str, Tensor]:
        placed = self.json(index).get("weight_map")
        if not isinstance(placed, dict) or not all(isinstance(v, str) for v in placed.values()):
            raise UserError(
                f"{self.where(index)}: weight_map: is not a table of names; fetch it again"
            )
        names: dict[str, str] = {}  # of the source's files, by those of the table
        for shard in dict.fromkeys(placed.values()):
            if PurePosixPath(shard).name != shard or "\\" in shard:
                raise UserError(
                    f"{self.where(index)}: weight_map: {shard[:80]!r} leads out of the folder; "
                    "fetch it again"
                )
            if not shard.endswith(ENDINGS):
                raise UserError(
                    f"{self.where(index)}: weight_map: {shard[:80]!r} is not a file of weights; "
                    "fetch it again"
                )
            names[shard] = f"{folder}/{shard}" if folder else shard
            self.path(names[shard])  # all are there before any is read
        found: dict[str, Tensor] = {}
        for shard, name in names.items():
            state = self.state_in(name)
            for key in state:
                if placed.get(key) != shard:
                    raise UserError(
                        f"{self.where(name)}: {key} is not placed there by {index}; "
                        "fetch both again, of one revision"
                    )
            found |= state
        for key in placed:
            if key not in found:
                raise UserError(
                    f"{self.where(index)}: {key} is not in {placed[key]}; fetch both "
                    "again, of one revision"
                )
        return found


def local(path: Path) -> Source:
    """A folder, or a file with those of `BESIDE` that are beside it.

    A folder may be a snapshot in the hub's cache, whose files are links to its blobs. Other
    symbolic links are refused.

    Raises:
        UserError: there is nothing, a link, or a mixture of downloaded revisions.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    require_utf8(path)
    folder = path if path.is_dir() else path.parent
    blobs = folder.resolve().parent.parent / "blobs"
    snapshot = folder.resolve().parent.name == "snapshots"
    if path.is_dir():
        files = _walk(path, blobs if snapshot else None)
    else:
        if path.is_symlink():
            raise UserError(f"{path}: is a symbolic link; name the file itself")
        if not path.name.endswith((*ENDINGS, *MERGES)):
            raise UserError(
                f"{path}: is not a file of weights, which end in {', '.join(ENDINGS)}; name its "
                "folder"
            )
        if _SHARD.search(path.name):
            raise UserError(f"{path}: is one shard of several; name their folder")
        near = [path, *(folder / name for name in BESIDE)]
        files = {f.name: f for f in near if f.is_file() and not f.is_symlink()}
    origin: dict[str, Any] = {"source": visible(path.name)}
    if snapshot:
        origin["revision"] = visible(folder.resolve().name)
    revisions = _revisions(folder)

    def fetch(name: str) -> Path:
        return files[name]

    source = Source(str(path), files, fetch, origin, base=str(folder))
    used = {revisions[name] for name in files if name in revisions}
    if len(used) > 1:
        one, two, *_ = sorted(used)
        raise UserError(
            f"{path}: its files are of different revisions ({one[:12]}, {two[:12]}); download all "
            "of one"
        )
    if used:
        origin["revision"] = used.pop()
    return source


def require_utf8(path: Path) -> None:
    """Refuse a name of bytes that are no text, which safetensors does not open."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UserError(f"{path}: its name is not UTF-8; rename it") from None


def _walk(root: Path, blobs: Path | None) -> dict[str, Path]:
    found: dict[str, Path] = {}
    folders = [root]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                name = Path(entry.path).relative_to(root).as_posix()
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink():
                    real = Path(os.path.realpath(entry.path))  # of a loop, the link itself
                    if blobs is None or real.parent != blobs or not real.is_file():
                        raise UserError(f"{root}/{name}: is a symbolic link; put the file there")
                    found[name] = Path(entry.path)
                elif entry.is_dir():
                    folders.append(Path(entry.path))
                elif entry.is_file():
                    found[name] = Path(entry.path)
                if len(found) + len(folders) > MOST_FILES:
                    raise UserError(
                        f"{root}: holds more than {MOST_FILES:,} files; name the "
                        "folder of the weights"
                    )
    return found


def _revisions(folder: Path) -> dict[str, str]:
    """What the hub's client noted of files that it has put into a folder: their commits."""
    notes = folder / ".cache" / "huggingface" / "download"
    found = {}
    for note in sorted(notes.rglob("*.metadata"))[:MOST_FILES] if notes.is_dir() else []:
        with note.open(errors="replace") as file:
            commit = file.readline(100).strip()
        if re.fullmatch("[0-9a-f]{6,64}", commit):
            found[note.relative_to(notes).as_posix().removesuffix(".metadata")] = commit
    return found


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _is_safe(name: str) -> bool:
    return any(part in name for part in SAFE)


def _is_model(name: str) -> bool:
    """Named as a model's weights, not as an optimizer's or whatever else is beside them."""
    return name.rpartition("/")[2].startswith(("diffusion_pytorch_model", "model", "pytorch_model"))


def _is_weights(name: str) -> bool:
    """A file of weights or the index of its shards, not a shard."""
    if name.endswith(".json"):
        return _INDEX in name and any(ending + _INDEX in name for ending in ENDINGS)
    return name.endswith(ENDINGS) and not _SHARD.search(name)
