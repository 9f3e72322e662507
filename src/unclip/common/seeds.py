"""The one range of seeds, wherever one is read. Imports no torch."""

from __future__ import annotations

from numbers import Integral

from unclip.common.errors import UserError

MAX_SEED = 2**32 - 1
"""The largest seed anywhere: what numpy, torch and Lightning can all be seeded with."""


def require_seed(seed: object, key: str, count: int = 1) -> None:
    """Refuse a ``seed``, the first of ``count`` successive ones, that is not in [0, `MAX_SEED`].

    Raises:
        UserError: it begins with ``key``, as "--seed".
    """
    if not isinstance(seed, Integral) or isinstance(seed, bool):
        raise UserError(f"{key}: {seed!r} must be a whole number from 0 to {MAX_SEED}")
    seed = int(seed)
    if not 0 <= seed <= MAX_SEED:
        raise UserError(f"{key}: {seed} must be from 0 to {MAX_SEED}")
    if seed > MAX_SEED - count + 1:
        last = f"the last of {count} from {seed}"
        raise UserError(f"{key}: {last} must be at most {MAX_SEED}; give a smaller one")


def seeds_from(first: int, count: int, key: str) -> list[int]:
    """``count`` successive seeds, checked as `require_seed` does."""
    require_seed(first, key, count)
    return [first + k for k in range(count)]
