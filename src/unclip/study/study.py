"""A study's folder: the pairs that raters judge, and the images that they are shown.

``manifest.json`` says what decides the pairs; ``pairs.jsonl`` has the pairs; ``shown/`` the images,
under names that tell nobody whose they are; ``votes.sqlite`` what raters said.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from unclip.common.errors import UserError
from unclip.common.hashing import file_sha256
from unclip.data.shard_folder import BEGUN, MANIFEST, read_json
from unclip.study.questions import ARMS, QUESTIONS

COMMAND = "unclip study new"
PAIRS = "pairs.jsonl"
SHOWN = "shown"
VOTES = "votes.sqlite"


class Pair(NamedTuple):
    """Two images, or grids, of one caption, and the question that is asked about them."""

    id: str
    question: str
    key: str  # of the caption
    caption: str
    a: str  # names of the images
    b: str
    catch: bool  # the answer is known: a

    def image(self, arm: str) -> str:
        """Of ``a`` or ``b``."""
        return self.a if arm == "a" else self.b


@dataclass(frozen=True)
class Study:
    """A finished study's folder."""

    folder: Path
    manifest: dict[str, Any]
    pairs: dict[str, Pair]  # by their ids

    @property
    def id(self) -> str:
        """Differs from study to study."""
        return self.manifest["pairs_sha256"][:12]

    @property
    def seed(self) -> int:
        """What sides and orders are derived from."""
        return self.manifest["study"]["seed"]

    @property
    def questions(self) -> list[str]:
        """In the order in which they were named."""
        return self.manifest["study"]["questions"]

    def of(self, question: str, *, catch: bool) -> list[Pair]:
        """Pairs of a question."""
        return [p for p in self.pairs.values() if p.question == question and p.catch is catch]

    def title(self, arm: str) -> str:
        """What an arm is called in reports."""
        return self.manifest["arms"][arm]["source"]

    def image(self, name: str) -> Path:
        """The file of an image of a pair."""
        return self.folder / SHOWN / f"{name}.png"


def name_of(*parts: int | str) -> str:
    """A name that tells nothing."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()


def load_study(folder: Path) -> Study:
    """Read a study and check that it is whole.

    Raises:
        UserError: it is not there, not finished, or damaged.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; `{COMMAND} --out {folder}` makes a study")
    manifest = read_json(folder / MANIFEST, COMMAND)
    if manifest is None:
        if (folder / BEGUN).is_file():
            raise UserError(f"{folder}: is not finished; run the same `{COMMAND}` again")
        raise UserError(f"{folder}: is not a study; `{COMMAND}` makes one")
    again = f"run the same `{COMMAND}` again, which keeps votes"
    if not _is_whole(manifest):
        raise UserError(f"{folder / MANIFEST}: damaged, or of another version; {again}")
    try:
        if file_sha256(folder / PAIRS) != manifest["pairs_sha256"]:
            raise ValueError("is not as it was written")
        lines = (folder / PAIRS).read_text(encoding="utf-8").split("\n")
        pairs = [Pair(**json.loads(line)) for line in lines if line]
        study = Study(folder, manifest, {pair.id: pair for pair in pairs})
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{folder / PAIRS}: damaged ({why}); {again}") from None
    for pair in pairs:
        for arm in ARMS:
            if not study.image(pair.image(arm)).is_file():
                raise UserError(
                    f"{study.image(pair.image(arm))}: is missing; run the same `{COMMAND}` again, "
                    "which keeps votes"
                )
    return study


def _is_whole(manifest: dict[str, Any]) -> bool:
    """Whether a manifest says all that the pages and reports need."""
    try:
        questions, seed = (manifest["study"][name] for name in ("questions", "seed"))
        titles = [manifest["arms"][arm]["source"] for arm in ARMS]
    except (KeyError, TypeError):
        return False
    named = isinstance(questions, list) and questions and all(q in [*QUESTIONS] for q in questions)
    texts = all(isinstance(text, str) for text in (*titles, manifest.get("pairs_sha256")))
    return bool(named) and texts and type(seed) is int and seed >= 0
