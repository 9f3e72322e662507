"""Random numbers by purpose: every draw comes from a generator of (seed, purpose, position).

Nothing depends on how many workers or processes there are, nor on what was drawn before, so an
interrupted run continues with the same bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from any number of integers and words; different parts, unrelated seeds."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh torch generator seeded from ``parts`` (see `derive_seed`)."""
    import torch

    return torch.Generator(device=device).manual_seed(derive_seed(*parts))


class SampleNoise:
    """Normal noise with one stream per sample, so that sample k is the same in any batch split.

    Drawn on the CPU and moved, so that the same seeds give the same noise on every device.
    """

    def __init__(self, seeds: Sequence[int]):
        self._generators = [generator("sample", seed) for seed in seeds]

    def __len__(self) -> int:
        return len(self._generators)

    def __call__(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """Float32 noise of ``shape``, whose first dimension must be the number of seeds."""
        import torch

        from unclip.common.upload import upload

        return upload(self._rows(torch.randn, shape), device)

    def uniform(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        """Float32 numbers in [0, 1) of ``shape``, from the same streams."""
        import torch

        from unclip.common.upload import upload

        return upload(self._rows(torch.rand, shape), device)

    def _rows(self, draw: Callable[..., Tensor], shape: Sequence[int]) -> Tensor:
        import torch

        if shape[0] != len(self._generators):
            raise ValueError(
                f"noise for {shape[0]} samples, but there are {len(self._generators)} seeds"
            )
        return torch.stack([draw(tuple(shape[1:]), generator=g) for g in self._generators])
