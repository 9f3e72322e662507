"""The one record every dataset of the project yields."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Sample(NamedTuple):
    """One captioned image.

    Attributes:
        key: A name for the image, unique within its dataset.
        image: ``uint8 [H, W, 3]`` RGB.
        captions: At least one description of the image.
        z_i: ``float32 [D]`` that a cascade drew the image from, where the source tells; then it is
            not encoded again.
    """

    key: str
    image: np.ndarray
    captions: list[str]
    z_i: np.ndarray | None = None
