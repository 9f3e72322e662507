"""Words that a frozen CLIP learns: rows behind its token table (arXiv 2208.01618).

Their tokens are below zero, so that neither the vocabulary nor the place of the end of the text,
which open_clip takes for the largest token, changes. Captions without them have the same bits as
before.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from unclip.common.adapters import WORD
from unclip.common.artifacts import Artifact
from unclip.common.atomic import atomic_write
from unclip.common.blank import is_blank
from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.embeddings.clip import Clip, FrozenClip
from unclip.embeddings.tokens import Tokenizer

Rows = Callable[[], Tensor]


class Table(nn.Embedding):
    """A CLIP's token table with the rows of learned words; token -1 is the first of them.

    ``trained`` gives those of the word that trains, behind all others.
    """

    rows: Tensor

    def __init__(self, known: nn.Embedding):
        size, width = known.weight.shape
        super().__init__(size, width, _weight=known.weight, _freeze=True)
        self.register_buffer("rows", known.weight.detach()[:0].clone(), persistent=False)
        self.trained: Rows | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        """``[B, L, W]`` of tokens ``[B, L]``."""
        known, rows = super().forward(tokens.clamp(min=0)), self.rows
        if self.trained is not None:
            rows = torch.cat([rows, self.trained().to(rows)])
        learned = F.embedding((-1 - tokens).clamp(min=0), rows)
        return torch.where(tokens.unsqueeze(-1) < 0, learned, known)


def table_of(clip: Clip) -> nn.Embedding:
    """The CLIP's token table ``[V, W]``."""
    model: Any = clip.model
    found: nn.Embedding = model.token_embedding
    return found


def teach(clip: Clip, word: str, rows: Tensor) -> None:
    """Let ``clip`` know ``word`` as ``rows`` ``[n, W]``."""
    table = _begin(clip, word, len(rows))
    table.rows = torch.cat([table.rows, rows.to(table.rows)])


def teach_while_training(clip: Clip, word: str, count: int, rows: Rows) -> None:
    """Let ``clip`` know ``word`` as the ``count`` rows that ``rows`` gives at each call."""
    _begin(clip, word, count).trained = rows


def _begin(clip: Clip, word: str, count: int) -> Table:
    table = table_of(clip)
    if not isinstance(table, Table):
        model: Any = clip.model
        table = model.token_embedding = Table(table)
    first = len(table.rows)
    clip.tokenize.words[word] = [-1 - first - k for k in range(count)]
    return table


def learned(clip: Clip) -> dict[str, Tensor]:
    """The words that ``clip`` has learned, with their rows ``[n, W]``."""
    table = table_of(clip) if isinstance(clip.tokenize, Tokenizer) else None
    if not isinstance(table, Table):
        return {}
    words: dict[str, list[int]] = clip.tokenize.words
    return {
        word: table.rows[[-1 - token for token in tokens]].cpu()
        for word, tokens in words.items()
        if -1 - tokens[-1] < len(table.rows)
    }


def digest(clip: Clip) -> str:
    """A hash of the words that ``clip`` has learned; "" if there are none."""
    words = learned(clip)
    state = hashlib.sha256()
    for word, rows in sorted(words.items()):
        state.update(json.dumps([word, list(rows.shape)]).encode())
        state.update(rows.float().contiguous().numpy().tobytes())
    return state.hexdigest() if words else ""


def new_word(clip: Clip, word: str, *, key: str) -> str:
    """``word`` as captions are read.

    Raises:
        UserError: the CLIP knows it, or it is none; ``key`` names the setting.
    """
    tokenize = clip.tokenize
    if not isinstance(tokenize, Tokenizer):
        raise UserError(f"{key}: this CLIP's tokenizer cannot take new words")
    if is_blank(word) or any(c.isspace() for c in word):
        raise UserError(f"{key}={word!r}: must be one word without spaces, as <sks>")
    found = tokenize.clean(word)
    if found in tokenize.words:
        raise UserError(f"{key}={word}: this CLIP has learned it already; give another word")
    pieces = tokenize.pieces(found)
    if len(pieces) == 1:
        raise UserError(f"{key}={word}: is a word that CLIP knows; give a new one, as <{word}>")
    if not pieces or tokenize.clean(found) != found or min(pieces) < 0:
        raise UserError(f"{key}={word}: cannot be told from other text; give a word as <sks>")
    return found


def first_rows(clip: Clip, count: int, initial: str | None, *, key: str) -> Tensor:
    """Rows ``[count, W]`` to begin with: those of ``initial`` in turn, or the table's mean.

    Raises:
        UserError: ``initial`` has more tokens than ``count``, or none; ``key`` names the setting.
    """
    weight = table_of(clip).weight.detach()
    if initial is None:
        return weight.mean(dim=0, keepdim=True).repeat(count, 1)
    pieces = clip.tokenize.pieces(initial)
    if not pieces or is_blank(initial):
        raise UserError(f"{key}: must be words, as dog")
    if len(pieces) > count:
        raise UserError(
            f"{key}={initial}: has {len(pieces)} tokens, and the word {counted(count, 'vector')}; "
            "give one word, or more vectors"
        )
    some = torch.tensor([pieces[k % len(pieces)] for k in range(count)])
    return table_of(clip)(some.to(weight.device)).detach().clone()


def read(file: Path, clip: FrozenClip) -> dict[str, Any]:
    """Teach ``clip`` the words in ``file``; returns what it says about each.

    Raises:
        UserError: it cannot be read, or is of another CLIP.
    """
    try:
        with safe_open(file, "pt") as stored:
            metadata = stored.metadata() or {}
            found = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        about = json.loads(metadata.get("words", "{}"))
        if not isinstance(about, dict) or about.keys() != found.keys():
            raise ValueError("its list of words is not that of its tensors")
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read: {error}") from None
    if metadata.get("clip") != clip.fingerprint:
        raise UserError(
            f"{file}: has words of another CLIP ({str(metadata.get('clip'))[:12]}) than this one "
            f"({clip.fingerprint[:12]}); remove it"
        )
    for word in about:  # in the order in which they were learned
        teach_checked(clip.model, word, found[word], where=str(file))
    return about


def teach_checked(clip: Clip, word: str, rows: Tensor, *, where: str) -> None:
    """Teach a word that comes from a file, named ``where``.

    Raises:
        UserError: the rows do not fit, or the CLIP knows the word as something else.
    """
    width = table_of(clip).embedding_dim
    if rows.ndim != 2 or not len(rows) or rows.shape[1] != width or not rows.is_floating_point():
        raise UserError(f"{where}: {word}: has the shape {list(rows.shape)}, not [n, {width}]")
    if not rows.isfinite().all():
        raise UserError(f"{where}: {word}: has a NaN or infinite value")
    known = learned(clip).get(word)
    if known is not None and torch.equal(known, rows.float()):
        return
    teach(clip, new_word(clip, word, key=where), rows)


def learn_from(artifact: Artifact, clip: Clip) -> list[str]:
    """Teach ``clip`` what the runs learned that ``artifact`` is of or has; returns the words."""
    found = []
    for each in artifact.learned_words:
        config = each.adapter
        assert config is not None
        assert config.token is not None
        file = str(each.path / "weights.safetensors")
        weights = each.weights()
        if [*weights] != [WORD]:
            raise UserError(f"{file}: is not a learned word: has {', '.join(weights)[:80]}")
        found.append(clip.tokenize.clean(config.token))
        teach_checked(clip, found[-1], weights[WORD], where=file)
    return found


def write(file: Path, clip: FrozenClip, about: Mapping[str, Any]) -> None:
    """Write the words that ``clip`` has learned, with what is to be said ``about`` each."""
    words = learned(clip.model)
    told = {word: about.get(word, {}) for word in words}
    metadata = {"format": "pt", "clip": clip.fingerprint, "words": json.dumps(told)}
    with atomic_write(file) as scratch:
        save_file({w: rows.contiguous() for w, rows in words.items()}, scratch, metadata=metadata)
