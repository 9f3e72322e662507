"""The folder of a study while it is made: shards of pairs, which a killed command can resume."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from unclip.common.atomic import atomic_write
from unclip.common.checks import require
from unclip.common.hashing import file_sha256
from unclip.common.images import save
from unclip.common.seeding import derive_seed
from unclip.common.seeds import require_seed
from unclip.data.readers.captions import Caption
from unclip.data.shard_folder import BEGUN, MANIFEST, ShardFolder, read_json
from unclip.study.arms import Arm
from unclip.study.catches import mosaic, ruined
from unclip.study.questions import ARMS, QUESTIONS
from unclip.study.study import COMMAND, PAIRS, SHOWN, Pair, name_of

SHARD = 20  # captions whose images are written together


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """What decides the pairs, besides captions and images."""

    questions: list[str]  # of `QUESTIONS`
    n: int  # pairs per question
    catch: int | None = None  # pairs per question whose answer is known; None: 1 in 20
    seed: int = 0  # of sides, orders, catch pairs, and of the first image that is sampled
    size: int | None = None  # pixels a side to which all images are brought; None: as they are

    def __post_init__(self) -> None:
        if self.catch is None:
            object.__setattr__(self, "catch", min(self.n, max(3, self.n // 20)))

    @property
    def images(self) -> int:
        """Per caption and side."""
        return max(QUESTIONS[name].images for name in self.questions)

    def validate(self) -> None:
        """Refuse values out of range."""
        require(self.questions != [], "--questions", "name at least one")
        for name in self.questions:
            known = ", ".join(QUESTIONS)
            require(name in QUESTIONS, f"--questions {name}", f"must be of {known}")
        require(
            len(set(self.questions)) == len(self.questions), "--questions", "has one of them twice"
        )
        require(1 <= self.n <= 1_000_000, "--n", f"is {self.n}, must be from 1 to 1,000,000")
        assert self.catch is not None
        require(0 <= self.catch <= self.n, "--catch", f"is {self.catch}, must be from 0 to --n")
        require(self.size is None or 8 <= self.size <= 4096, "--size", "must be in [8, 4096]")
        require_seed(self.seed, "--seed")


class StudyFolder(ShardFolder):
    """The folder while it is made: a shard has the images of some captions."""

    command = COMMAND
    subject = "study"
    held = "pairs"

    def __init__(
        self, out: Path, header: dict[str, Any], config: StudyConfig, captions: list[Caption]
    ):
        super().__init__(out, header, -(-len(captions) // SHARD))
        self._config, self._captions = config, captions
        dice = Random(derive_seed("catch", config.seed))
        self._pairs = [
            pair
            for question in config.questions
            for pair in self._pairs_of(question, set(dice.sample(captions, config.catch or 0)))
        ]

    def _pairs_of(self, question: str, caught: set[Caption]) -> Iterator[Pair]:
        form, seed = QUESTIONS[question].images, self._config.seed
        for catch, captions in ((False, self._captions), (True, self._captions)):
            for one in captions:
                if catch and one not in caught:
                    continue
                a, b = (
                    name_of("image", seed, f"catch {arm}" if catch else arm, form, one.key)
                    for arm in ARMS
                )
                found = name_of("pair", seed, question, one.key, str(catch))
                yield Pair(found, question, one.key, one.text, a, b, catch)

    def folders(self) -> list[str]:
        """Of the images."""
        return [SHOWN]

    def made_later(self) -> list[str]:
        """The list of pairs. Votes are never removed."""
        return [PAIRS]

    def worth_keeping(self) -> bool:
        """Sampled images are work too."""
        return super().worth_keeping() or any((self.out / arm / BEGUN).exists() for arm in ARMS)

    def _shard(self, number: int) -> list[Pair]:
        keys = {one.key for one in self._captions[number * SHARD : (number + 1) * SHARD]}
        return [pair for pair in self._pairs if pair.key in keys]

    def names(self, number: int) -> list[str]:
        """Two images of each pair; those of a caption are shared by questions."""
        images = [image for pair in self._shard(number) for image in (pair.a, pair.b)]
        return [f"{SHOWN}/{image}.png" for image in dict.fromkeys(images)]

    def intact(self, path: Path, recorded: dict[str, Any]) -> bool:
        """By checksum."""
        return super().intact(path, recorded) and file_sha256(path) == recorded["sha256"]

    def write_files(self, number: int, content: dict[str, Arm]) -> dict[str, Any]:
        """Write the images of some captions, from the arms ``content``."""
        written: set[str] = set()
        for pair in self._shard(number):
            form = QUESTIONS[pair.question].images
            for arm in ARMS:
                name = pair.image(arm)
                if name in written:
                    continue
                written.add(name)
                source = self._caught_arm(pair) if pair.catch else arm
                images = content[source].first(pair.caption, form)
                if pair.catch and arm == "b":
                    images = self._caught(images, pair)
                save(mosaic(images), self.out / SHOWN / f"{name}.png")
        return {"pairs": len(self._shard(number))}

    def _caught_arm(self, pair: Pair) -> str:
        """Whose images a catch pair is made of; either's, so that it gives no other pair away."""
        form = QUESTIONS[pair.question].images
        return ARMS[derive_seed("catch arm", self._config.seed, form, pair.key) & 1]

    def _caught(self, images: list[np.ndarray], pair: Pair) -> list[np.ndarray]:
        """What nobody who looks would choose: one image over and over, or a ruined one."""
        if len(images) > 1:
            return [images[0]] * len(images)
        return [ruined(images[0], derive_seed("ruin", self._config.seed, pair.key))]

    def complete(self, manifest: dict[str, Any]) -> None:
        """List the pairs."""
        with atomic_write(self.out / PAIRS) as part, part.open("w", encoding="utf-8") as file:
            for pair in self._pairs:
                file.write(json.dumps(pair._asdict(), ensure_ascii=False) + "\n")
        sampled = {arm: read_json(self.out / arm / MANIFEST, COMMAND) for arm in ARMS}
        manifest["sampled"] = {
            arm: {name: found[name] for name in ("cascade", "settings")}
            for arm, found in sampled.items()
            if found is not None
        }
        manifest["pairs_sha256"] = file_sha256(self.out / PAIRS)
