"""`unclip study new`: pairs of images of the same captions, from two cascades or folders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from unclip.common.checks import require
from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.common.progress import bar_interval
from unclip.data.readers.captions import Caption, choose_captions, digest_captions
from unclip.study.arms import Arm, open_arm, shared_captions
from unclip.study.folder import SHARD, StudyConfig, StudyFolder
from unclip.study.questions import ARMS
from unclip.study.study import VOTES
from unclip.study.votes import Votes


@dataclass(frozen=True)
class ArmSource:
    """Where the images of a side come from."""

    option: str  # --a or --b
    source: str  # as it was given
    sample: Callable[[list[Caption], Path, int, int], None] | None = None
    """Samples images of captions into a folder: so many of each, from a first seed on; None where
    the source is a folder of images."""


def make_study(
    sources: dict[str, ArmSource],
    captions: list[Caption] | None,
    out: Path,
    config: StudyConfig,
    *,
    force: bool = False,
) -> dict[str, Any]:
    """Write the study's folder, or what is still missing there; its manifest.

    Args:
        sources: Of the arms ``a`` and ``b``.
        captions: Those to choose from; None for all that the folders of images have.
        out: The folder.
        config: What else decides the pairs.
        force: Replace another study that nobody has voted in.

    Raises:
        UserError: captions, images or folder are not as they should be.
        Interrupted: A signal said so while images were sampled, which are kept.
    """
    config.validate()
    if force:
        require_no_votes(out)
    count = config.images
    ready = {
        arm: open_arm(each.source, option=each.option, size=config.size)
        for arm, each in sources.items()
        if each.sample is None
    }
    found = shared_captions(captions, {sources[arm].option: ready[arm] for arm in ready}, count)
    if len(found) < config.n:
        raise UserError(
            f"--n {config.n:,}: is more than the {counted(len(found), 'different caption')} that "
            f"can be used; --n {len(found)}"
        )
    chosen = choose_captions(found, config.n)
    header = {
        "study": asdict(config),
        "captions": {"fingerprint": digest_captions(chosen), "count": len(chosen)},
        "arms": {
            arm: {
                "source": each.source,
                "images": ready[arm].digest(chosen, count) if arm in ready else "sampled",
            }
            for arm, each in sources.items()
        },
    }
    folder = StudyFolder(out, header, config, chosen)
    folder.check(force=force)
    with folder.alone():
        folder.prepare(force=force)
        for arm, each in sources.items():
            if each.sample is not None:
                place = out / arm
                each.sample(chosen, place, count, config.seed)
                ready[arm] = open_arm(str(place), option=each.option, size=config.size)
        _check_alike(ready, chosen)
        todo = folder.unfinished()
        for number in tqdm(
            todo, "pairs", unit="shard", disable=not todo, mininterval=bar_interval(), delay=1
        ):
            folder.write(number, ready)
        return folder.finish()


def _check_alike(arms: dict[str, Arm], captions: list[Caption]) -> None:
    """Refuse arms that raters could tell apart at a glance, or not at all."""
    first = {
        arm: [each.first(one.text, 1)[0] for one in captions[:SHARD]] for arm, each in arms.items()
    }
    a, b = (len(first[arm][0]) for arm in ARMS)
    require(
        a == b,
        "--size",
        f"images of --a have {a} pixels a side, of --b {b}; --size {max(a, b)} brings both to one",
    )
    same = all(np.array_equal(x, y) for x, y in zip(first["a"], first["b"]))
    require(not same, "--b", "has the same images as --a; there is nothing to compare")


def require_no_votes(out: Path) -> None:
    """Refuse to replace a study in which people have voted: nothing brings that back."""
    if not (out / VOTES).exists():
        return
    opened = Votes(out / VOTES, read_only=True)
    votes = len(opened.all())
    opened.close()
    if votes:
        raise UserError(
            f"--out {out}: holds {counted(votes, 'vote')}, which --force does not replace; name "
            "another folder"
        )
