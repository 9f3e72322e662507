"""A folder of shards that a command writes so that a killed run can be resumed.

``begun.json`` says what decides the content, ``shards/N.json`` which files finished shard N has;
``manifest.json`` comes when all are there. Every file appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from unclip.common.atomic import SCRATCH_SUFFIX, atomic_write, remove_parts
from unclip.common.errors import Interrupted, UserError
from unclip.common.fields import leaves
from unclip.common.forks import not_inherited
from unclip.common.hashing import file_sha256

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
BEGUN = "begun.json"
RECORDS = "shards"


class OtherRun(UserError):
    """A folder was started with other settings than these."""


class ShardFolder(ABC):
    """The folder of one run of a command, and of the runs that resume it.

    Args:
        out: The folder.
        header: What decides the content; it opens the manifest. The same values under a name that
            ends in ``source`` are not asked for, because a source may have moved.
        shards: How many there will be.
    """

    command: ClassVar[str]  # that writes it, for messages
    subject: ClassVar[str]  # what only this command's headers have
    held: ClassVar[str]  # what a record counts that a shard is of use for
    before: ClassVar[dict[str, Any]] = {}  # values of the header that older folders do not have

    def __init__(self, out: Path, header: dict[str, Any], shards: int):
        self.out = out
        header = {"format_version": FORMAT_VERSION, **header}
        self.header: dict[str, Any] = json.loads(json.dumps(header))  # as it will be read
        self.shards = shards

    @abstractmethod
    def folders(self) -> list[str]:
        """Names of the folders, besides that of the records, that the shards' files lie in."""

    @abstractmethod
    def write_files(self, number: int, content: Any) -> dict[str, Any]:
        """Write the files of a shard; its record without ``files``, all numbers to be summed."""

    @abstractmethod
    def names(self, number: int) -> list[str]:
        """The files of a shard, relative to the folder."""

    def made_later(self) -> list[str]:
        """Patterns of further files and folders, which go too when the folder is replaced."""
        return []

    def intact(self, path: Path, recorded: dict[str, Any]) -> bool:
        """Whether a file of a finished shard is as it was written, as far as that is cheap."""
        return path.stat().st_size == recorded["bytes"]

    def check(self, *, force: bool) -> None:
        """Refuse a folder of other things, or (unless ``force``) of another run; writes nothing.

        Raises:
            UserError: It is such a folder.
        """
        begun = self.out / BEGUN
        if not self._may_be_ours(begun):
            raise self._other_things()
        if force and begun.is_file():
            return
        before = read_json(begun, self.command)
        if before is None and self.out.exists():
            # One that was killed as it began left a part of a file.
            if not self.out.is_dir() or any(p.suffix != SCRATCH_SUFFIX for p in self.out.iterdir()):
                raise self._other_things()
        elif before is not None:
            then, now = ({**self.before, **dict(leaves(each))} for each in (before, self.header))
            for name, value in now.items():
                if name.endswith("source"):  # the same data and networks may have moved
                    continue
                if (other := then.get(name)) != value:
                    raise OtherRun(
                        f"--out {self.out}: was started with {name} {other}, this is {value}; "
                        "name another folder, or replace it with --force"
                    )

    def _may_be_ours(self, begun: Path) -> bool:
        """Whether this command began the folder, or nobody can tell."""
        try:
            return self.subject in json.loads(begun.read_text())
        except (OSError, ValueError, TypeError):
            return True

    def _other_things(self) -> UserError:
        line = f"--out {self.out}: exists and is not a folder of `{self.command}`; name another"
        return UserError(line)

    def prepare(self, *, force: bool) -> None:
        """Note what this run is; with ``force`` remove what is there."""
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            if force:
                self._empty()
            for folder in (self.out, *(self.out / kind for kind in (RECORDS, *self.folders()))):
                remove_parts(folder)
            write_json(self.out / BEGUN, self.header)
        except OSError as error:
            raise self._unwritable(error) from None

    def _empty(self) -> None:
        for name in (MANIFEST, BEGUN):
            (self.out / name).unlink(missing_ok=True)
        kinds = [RECORDS, *self.folders(), *self.made_later()]
        for path in [path for kind in kinds for path in self.out.glob(kind)]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other calls out of the folder; it goes if this one fails and it holds nothing yet.

        What it was made in goes too. On a file system without locks nobody is kept out.

        Raises:
            UserError: Another call is running there, or it cannot be made.
        """
        made = [path for path in (self.out, *self.out.parents) if not path.exists()]
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.out, os.O_RDONLY)
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            self._lock(descriptor)
            with not_inherited(descriptor):
                try:
                    yield
                except Interrupted:
                    raise
                except UserError:
                    if not self.worth_keeping():
                        with contextlib.suppress(OSError):  # somebody else's files are in it
                            self._empty()
                            for path in made:
                                path.rmdir()
                    raise
        finally:
            os.close(descriptor)

    def worth_keeping(self) -> bool:
        """Whether the folder holds any work, so that a run that fails leaves it there."""
        return any(map(self._count, range(self.shards)))

    def _lock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"--out {self.out}: another `{self.command}` is writing there; wait for it, stop "
                "it, or name another folder"
            ) from None
        except OSError:  # the file system has no locks
            return

    def _count(self, shard: int) -> int:
        try:
            return int(self._record(shard)[self.held])
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def unfinished(self) -> list[int]:
        """Numbers of the shards that are yet to be written, or are not as they were written."""
        return [shard for shard in range(self.shards) if not self._whole(shard)]

    def _whole(self, shard: int) -> bool:
        try:
            files = self._record(shard)["files"]
            return set(files) == set(self.names(shard)) and all(
                self.intact(self.out / name, recorded) for name, recorded in files.items()
            )
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def write(self, number: int, content: Any) -> None:
        """Write shard ``number``; its record comes last.

        Raises:
            UserError: It cannot be written, or the folder was removed meanwhile.
        """
        if not (self.out / BEGUN).is_file():
            raise UserError(
                f"--out {self.out}: {BEGUN} is gone: the folder was removed or moved "
                "meanwhile; nothing more is saved, run the same command to start over"
            )
        try:
            record = self.write_files(number, content)
            files = {}
            for name in self.names(number):
                path = self.out / name
                files[name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
            write_json(self.out / RECORDS / f"{number}.json", {**record, "files": files})
        except OSError as error:
            raise self._unwritable(error) from None

    def finish(self) -> dict[str, Any]:
        """Write the manifest, when all shards are there; its content."""
        shards = [self._record(shard) for shard in range(self.shards)]
        names = [name for name in (shards[0] if shards else ()) if name != "files"]
        totals = {name: sum(shard[name] for shard in shards) for name in names}
        manifest = {**self.header, **totals, "shards": shards}
        try:
            self.complete(manifest)
            write_json(self.out / MANIFEST, manifest)
        except OSError as error:
            raise self._unwritable(error) from None
        return manifest

    @abstractmethod
    def complete(self, manifest: dict[str, Any]) -> None:
        """Called with all shards written, before the manifest is.

        Raises:
            UserError: They hold nothing that can be used.
        """

    def _record(self, shard: int) -> dict[str, Any]:
        return json.loads((self.out / RECORDS / f"{shard}.json").read_text())

    def _unwritable(self, error: OSError) -> UserError:
        what = error.strerror or " ".join(str(error).split())  # numpy's own have no number
        full = error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT)
        kept = "; finished shards are kept: make room and run the same command" if full else ""
        return UserError(f"--out {self.out}: cannot be written: {what}{kept}")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a .json, all at once."""
    with atomic_write(path) as part:
        part.write_text(json.dumps(content, indent=1) + "\n")


def read_json(path: Path, command: str) -> dict[str, Any] | None:
    """The content of a file that `write_json` wrote; None where there is none.

    Raises:
        UserError: It is damaged, or of another version.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
        version = content["format_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: damaged ({type(error).__name__}: {error}); copy it again, or "
            f"run `{command}` again with --force"
        ) from None
    if version != FORMAT_VERSION:
        raise UserError(
            f"{path}: format version {version}, this unclip reads {FORMAT_VERSION}; use the unclip "
            "that wrote it"
        )
    return content
