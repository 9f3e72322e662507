"""How many samples a test needs, and what so many can tell: alpha 0.05 two-sided, 80 % power.

Normal approximations (Fleiss, Levin and Paik, Statistical Methods for Rates and Proportions, 2003,
chapter 4; for pairs Connor, Biometrics 43, 1987).
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, sqrt

Z_ALPHA, Z_BETA = 1.959964, 0.841621


def n_for_shares(p1: float, p2: float) -> int:
    """Samples in each of two independent arms whose shares are ``p1`` and ``p2``."""
    _different(p1, p2)
    middle = (p1 + p2) / 2
    spread = Z_ALPHA * sqrt(2 * middle * (1 - middle))
    spread += Z_BETA * sqrt(p1 * (1 - p1) + p2 * (1 - p2))
    return ceil(spread**2 / (p1 - p2) ** 2)


def n_for_pairs(discordant: float, difference: float) -> int:
    """Pairs, where exactly one arm is right in a share ``discordant`` and they differ so much."""
    _different(difference, 0)
    if abs(difference) > discordant:
        raise ValueError(f"a difference of {difference} in {discordant} discordant pairs")
    spread = Z_ALPHA * sqrt(discordant) + Z_BETA * sqrt(discordant - difference**2)
    return ceil(spread**2 / difference**2)


def n_for_preference(p: float) -> int:
    """Judgements that tell a share ``p`` from a half."""
    _different(p, 0.5)
    spread = Z_ALPHA / 2 + Z_BETA * sqrt(p * (1 - p))
    return ceil(spread**2 / (p - 0.5) ** 2)


def n_for_means(effect: float) -> int:
    """Samples in each of two independent arms, for an effect in standard deviations."""
    _different(effect, 0)
    return ceil(2 * (Z_ALPHA + Z_BETA) ** 2 / effect**2)


def n_for_paired_means(effect: float, correlation: float = 0.0) -> int:
    """Pairs whose members correlate so, for an effect in standard deviations of one member."""
    _different(effect, 0)
    return ceil(2 * (1 - correlation) * (Z_ALPHA + Z_BETA) ** 2 / effect**2)


def resolves(needed: Callable[[float], int], n: int, *, largest: float) -> float | None:
    """The least difference that ``n`` samples tell, by a rule from difference to samples.

    None where not even ``largest`` is told. ``resolves(lambda d: n_for_preference(0.5 + d), 1000,
    largest=0.5)`` is 0.044.
    """
    if needed(largest) > n:
        return None
    low, high = 0.0, largest
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if middle <= 0 or needed(middle) > n else (low, middle)
    return high


def _different(a: float, b: float) -> None:
    if a == b:
        raise ValueError(f"{a} and {b}: no number of samples tells them apart")
