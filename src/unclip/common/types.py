"""Batches, results and errors that cross module boundaries, and the value ranges they carry.

Conventions of the whole project:

* an *image* is a float tensor ``[B, 3, H, W]`` with values in [-1, 1];
* an *embedding* (``z_i`` of an image, ``z_t`` of a text) is ``[B, D]``, unscaled: of unit length,
  or raw, with the length of CLIP's projection (`unclip.embeddings.lengths`);
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


class Denoiser(Protocol):
    """A network, or an analytic stand-in, as the samplers see it."""

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        """Raw output for ``x_t`` ``[B, C, ...]`` at timesteps ``t`` ``[B]``.

        The output has C channels (the prediction) or 2C (prediction, then the variance fraction v).
        """
        ...


Progress = Callable[[int, int], None]
"""Called after each sampling step with (steps done, steps in all)."""


class TextFeatures(NamedTuple):
    """A caption as the frozen CLIP sees it."""

    z_t: Tensor  # [B, D]
    tokens: Tensor  # [B, L, W] per-token features after the final norm
    mask: Tensor  # [B, L] True up to and including the end-of-text token


class Caption(NamedTuple):
    """The text conditioning of a prior or decoder: own tokens or CLIP's token features."""

    tokens: Tensor | None  # [B, L] int64
    features: Tensor | None  # [B, L, W]
    mask: Tensor  # [B, L] True = a real token
