"""Batches for training the toy prior: those of the other priors."""

from __future__ import annotations

from data_modules.prior import PriorData


class ToyPriorData(PriorData):
    """Nothing of its own."""
