"""Batches, results and errors that cross module boundaries, and the value ranges they carry.

Conventions of the whole project:

* an *image* is a float tensor ``[B, 3, H, W]`` with values in [-1, 1];
* an *embedding* (``z_i`` of an image, ``z_t`` of a text) is ``[B, D]``, L2-normalised, unscaled;
* a *mask* is boolean, True = keep;
* *tokens* are ``[B, L]`` int64;
* a diffusion *timestep* is ``[B]`` int64 in [0, T), always of the original (unrespaced) chain.

This module imports no torch at run time, so configs and the command line may use it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class UserError(Exception):
    """Something the user can mend: one line that names the place, the problem and the fix.

    The command line prints it without a trace and exits with status 2.
    """


class Interrupted(UserError):
    """A run was told to stop and has saved itself.

    The command line exits with status 75 (EX_TEMPFAIL: try again), so that a queue can requeue it.
    """


class Denoiser(Protocol):
    """A network, or an analytic stand-in, as the samplers see it."""

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Raw output for ``x_t`` ``[B, C, ...]`` at timesteps ``t`` ``[B]``.

        The output has C channels (the prediction) or 2C (prediction, then the variance fraction v).
        """
        ...


Progress = Callable[[int, int], None]
"""Called after each sampling step with (steps done, steps in all)."""


class ClipBatch(NamedTuple):
    """Images with their captions, for CLIP."""

    image: Tensor  # [B, 3, S, S] in [-1, 1]
    tokens: Tensor  # [B, L]
    captions: list[str]
    keys: list[str]


class PriorBatch(NamedTuple):
    """What the prior's stage needs to have (z_i, z_t, caption) triples by the frozen CLIP."""

    clip_image: Tensor | None  # [B, 3, S, S] in [-1, 1], at the CLIP's own size; None with z_i
    clip_tokens: Tensor | None  # [B, L]; None where captions play no part
    tokens: Tensor | None  # [B, L'] for the prior's own caption encoder; None likewise
    captions: list[str]  # none where z_i come from disk and are not to be looked at
    keys: list[str]
    z_i: Tensor | None = None  # [B, D] as stored: float16 or float32, perhaps not normalised
    z_t: Tensor | None = None  # the same


class DecoderBatch(NamedTuple):
    """Images at the decoder's size, what the CLIP says or is to say of them, and caption tokens."""

    image: Tensor  # [B, 3, H, W] in [-1, 1]
    clip_image: Tensor | None  # [B, 3, S, S] in [-1, 1], at the CLIP's own size; None with z_i
    clip_tokens: Tensor  # [B, L]
    tokens: Tensor  # [B, L'] for the decoder's own caption encoder
    captions: list[str]
    keys: list[str]
    z_i: Tensor | None = None  # [B, D] as stored: float16 or float32, perhaps not normalised


class UpsamplerBatch(NamedTuple):
    """High-resolution crops; the low-resolution condition is made from them on the device."""

    image: Tensor  # [B, 3, H, W] in [-1, 1]
    captions: list[str]
    keys: list[str]


class TextFeatures(NamedTuple):
    """A caption as the frozen CLIP sees it."""

    z_t: Tensor  # [B, D], L2-normalised
    tokens: Tensor  # [B, L, W] per-token features after the final norm
    mask: Tensor  # [B, L] True up to and including the end-of-text token


class Caption(NamedTuple):
    """The text conditioning of a prior or decoder: own tokens or CLIP's token features."""

    tokens: Tensor | None  # [B, L] int64
    features: Tensor | None  # [B, L, W]
    mask: Tensor  # [B, L] True = a real token
