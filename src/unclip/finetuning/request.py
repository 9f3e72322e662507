"""What `unclip finetune` was asked for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Found:
    """The user's samples, as they will be split."""

    training: int
    held_out: float  # share
    small: bool  # few enough to be protected from


@dataclass(frozen=True, kw_only=True)
class Request:
    """What was asked for."""

    source: str  # of images, as data.source
    base: str  # folder of the cascade that training begins from
    out: str  # folder of the new cascade
    caption: str | None = None  # of images without one
    captioner: str | None = None  # a model that captions those images instead
    token: str | None = None  # what the images show; its first word is new, its last their kind
    stages: tuple[str, ...] = ()  # folders in the cascade; none: its decoder and its prior
    adapter: str = "auto"  # auto | lora | none | token
    vectors: int | None = None  # that a learned word stands for; None: one
    initial: str | None = None  # words that it begins as; None: the kind
    steps: int | None = None  # of each stage
    preserve: float | None = None  # share of each batch that the base has drawn; None: chosen
    preserve_captions: str | None = None  # a file of captions for these; None: the base's own
    device: str = "cpu"  # cpu | cuda | mps
    overrides: tuple[str, ...] = ()  # key=value for every stage

    @property
    def kind(self) -> str | None:
        """Of what the images show, if the token says it."""
        words = (self.token or "").split()[1:]
        return words[-1] if words else None
