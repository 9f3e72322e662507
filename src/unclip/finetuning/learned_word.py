"""A word that a cascade's CLIP learns, in place of networks that train: by which stage, and how."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unclip.common import artifacts
from unclip.common.adapters import TOKEN
from unclip.common.artifacts import WORDS
from unclip.common.errors import UserError
from unclip.config.load import load_experiment
from unclip.data.readers.source import Source
from unclip.embeddings import words
from unclip.embeddings.clip import FrozenClip
from unclip.embeddings.tokens import Tokenizer
from unclip.finetuning.request import Request
from unclip.runs.learned_word import require_said
from unclip.stages import registry
from unclip.stages.row import CLIP, DECODER, PRIOR

LR = 1e-3  # of rows whose numbers are about 0.02


def stage_of(request: Request, trains: Sequence[str]) -> str:
    """The stage by whose loss the word is learned: the prior where there is one.

    Raises:
        UserError: it reads no text of the CLIP, several are named, or the word cannot be learned.
    """
    if len(request.stages) > 1:
        raise UserError(f"--stages {' '.join(request.stages)}: a word is learned by one stage")
    clip = _clip(request)
    part = request.stages[0] if request.stages else PRIOR if PRIOR in trains else DECODER
    path = artifacts.describe(Path(request.base) / part, key="--from").path
    resolved = load_experiment(str(path / "config.yaml"))
    if not resolved.stage.needs(resolved.config).text:
        raise UserError(
            f"--adapter token: {part} of {request.base} reads nothing that the CLIP says of "
            "captions, so it can learn no word" + f"; give --stages {PRIOR}" * (PRIOR in trains)
        )
    assert request.token is not None
    words.new_word(clip.model, request.token.split()[0], key="--token")
    initial = request.initial or request.kind
    words.first_rows(clip.model, request.vectors or 1, initial, key="--initialise-from")
    return part


def require_in_captions(request: Request, source: Source) -> None:
    """Refuse samples none of which says the word.

    Raises:
        UserError: it is in no caption that is read.
    """
    assert request.token is not None
    word, tokenize = request.token.split()[0], Tokenizer(_clip(request).model.context)
    tokenize.words = {tokenize.clean(word): [-1]}
    require_said(word, source, tokenize, key="--token")


def settings(request: Request) -> dict[str, Any]:
    """Of the stage that learns."""
    assert request.token is not None
    return {
        "adapter.kind": TOKEN,
        "adapter.token": request.token.split()[0],
        "adapter.vectors": request.vectors or 1,
        "adapter.initial": request.initial or request.kind,
        "optim.name": "adamw",
        "optim.lr": LR,
        "optim.betas": [0.9, 0.999],
        "optim.eps": 1e-8,
        "optim.weight_decay": 0.0,
    }


def write(request: Request, run: Path) -> None:
    """Put the word that ``run`` learned into the CLIP of the new cascade, beside earlier ones."""
    clip, artifact = _clip(request), artifacts.describe(run)
    file = artifacts.describe(Path(request.base) / CLIP).path / WORDS
    about = words.read(file, clip) if file.is_file() else {}
    (word,) = words.learn_from(artifact, clip.model)
    about[word] = {"sha256": artifact.sha256, "provenance": artifact.provenance}
    words.write(artifacts.describe(Path(request.out) / CLIP).path / WORDS, clip, about)


def _clip(request: Request) -> FrozenClip:
    """The CLIP of the cascade that training begins from.

    Raises:
        UserError: it has none.
    """
    path = Path(request.base) / CLIP
    if not path.is_dir():
        raise UserError(f"--adapter token: {request.base} has no CLIP, whose word it would be")
    found: FrozenClip = registry.STAGES[CLIP].load(path, key="--from")
    return found
