"""The images of one side: those that a folder holds of each caption."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from unclip.common.errors import UserError
from unclip.data.readers.captions import Caption, number_captions
from unclip.evaluation.features.images import ImageSet, open_images


@dataclass(frozen=True)
class Arm:
    """Images by caption."""

    images: ImageSet
    of: dict[str, list[int]]  # numbers of the images of a caption's text, in the set's order

    def first(self, caption: str, count: int) -> list[np.ndarray]:
        """``count`` images of a caption, uint8 [S, S, 3]."""
        return [self.images(number).image for number in self.of[caption][:count]]

    def digest(self, captions: list[Caption], count: int) -> str:
        """A hash of the first ``count`` images of each caption.

        Raises:
            UserError: they differ in size, or cannot be read.
        """
        state, size = hashlib.sha256(), None
        for caption in captions:
            for number in self.of[caption.text][:count]:
                found = self.images(number)
                size = size or len(found.image)
                if len(found.image) != size:
                    raise UserError(
                        f"{self.images.option} {self.images.name}: {found.key} has "
                        f"{len(found.image)} pixels a side, others {size}; add --size {size}"
                    )
                state.update(found.digest.encode())
        return state.hexdigest()


def open_arm(spec: str, *, option: str, size: int | None) -> Arm:
    """The images at ``spec``, as `open_images` reads them, by their captions.

    Raises:
        UserError: it cannot be read, or an image has no caption; the line begins with ``option``.
    """
    images = open_images(spec, option=option, size=size)
    of: dict[str, list[int]] = defaultdict(list)
    for number in range(len(images)):
        caption = images.caption(number)
        if caption is None:
            raise UserError(
                f"{option} {spec}: image {number} has no caption; give a folder of `unclip sample`,"
                " or images with captions"
            )
        of[caption.strip()].append(number)
    return Arm(images, dict(of))


def shared_captions(given: list[Caption] | None, arms: dict[str, Arm], count: int) -> list[Caption]:
    """The different captions of which every arm has ``count`` images.

    Args:
        given: Captions to choose from; None for those of the arms.
        arms: By option.
        count: Images per caption.

    Raises:
        UserError: there is none.
    """
    if given is None:
        texts = list(dict.fromkeys(text for arm in arms.values() for text in arm.of))
        given = number_captions(texts)
    found = list({caption.text: caption for caption in reversed(given)}.values())[::-1]
    for option, arm in arms.items():
        found = [one for one in found if len(arm.of.get(one.text, ())) >= count]
        if not found:
            what = "an image" if count == 1 else f"{count} images"
            raise UserError(
                f"{option} {arm.images.name}: has {what} of none of the captions; sample them, as "
                f"`unclip sample --captions FILE --n {count} --devices 1`"
            )
    return found
