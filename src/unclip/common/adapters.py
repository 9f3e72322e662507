"""Adapters: what is trained in place of a network's own weights. Imports no torch.

LoRA (arXiv 2106.09685): a layer's weight W becomes W + (α/r) B A with B zero at first, A and B of
rank r; W itself does not train. A token (textual inversion, arXiv 2208.01618) is a new word: rows
of the frozen CLIP's token table, and no network changes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from unclip.common.checks import require, require_choices

AdapterKind = Literal["none", "lora", "token"]
LORA, TOKEN = "lora", "token"
A, B = ".lora_A.weight", ".lora_B.weight"
"""How the weights of an adapter end, after the name of the layer that they change."""
WORD = "learned_word"
"""The weight of a token: rows ``[vectors, W]``."""
_FIELDS = {LORA: ("rank", "alpha", "dropout", "targets"), TOKEN: ("token", "vectors", "initial")}


@dataclass(kw_only=True)
class AdapterConfig:
    """The section ``adapter`` of a stage: only the adapter trains, and is exported."""

    kind: AdapterKind = "none"  # lora: of the network's layers; token: a word of the CLIP
    rank: int = 8  # r
    alpha: float | None = None  # α, the adapter counts α/r times; null takes the rank
    dropout: float = 0.0  # of what goes into A, in [0, 1)
    targets: list[str] | None = None  # patterns of layers; null: all linear and conv ones of blocks
    token: str | None = None  # the new word, as captions have it
    vectors: int = 1  # rows of the token table that the word stands for
    initial: str | None = None  # words that it begins as; null: the mean of the table

    @property
    def scale(self) -> float:
        """How often the adapter counts."""
        return 1.0 if self.alpha is None else self.alpha / self.rank

    def validate(self) -> None:
        """Refuse values out of range, and what has no effect."""
        require_choices(self, "adapter")
        for kind, names in _FIELDS.items():
            for name in names:
                plain = getattr(self, name) == getattr(AdapterConfig, name)
                require(
                    plain or self.kind == kind,
                    f"adapter.{name}",
                    f"has no effect without adapter.kind={kind}",
                )
        require(self.vectors >= 1, "adapter.vectors", "must be at least 1")
        require(
            self.kind != TOKEN or self.token is not None,
            "adapter.token",
            "must be the new word, as <sks>",
        )
        require(self.rank >= 1, "adapter.rank", "must be at least 1")
        require(self.alpha is None or self.alpha > 0, "adapter.alpha", "must be above 0")
        require(0 <= self.dropout < 1, "adapter.dropout", "must be in [0, 1)")
        named = self.targets is None or (self.targets and all(self.targets))
        require(
            bool(named), "adapter.targets", "has no pattern or an empty one; give layers or null"
        )


def adapts(experiment: Any) -> bool:
    """Whether ``experiment`` trains an adapter; a CLIP's cannot."""
    config = getattr(experiment, "adapter", None)
    return config is not None and config.kind != "none"


def learns_word(experiment: Any) -> bool:
    """Whether what trains is a word of the frozen CLIP, and nothing of the network."""
    return adapts(experiment) and experiment.adapter.kind == TOKEN
