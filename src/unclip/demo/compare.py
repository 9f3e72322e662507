"""Two cascades side by side: the same captions and seeds, each with its own settings."""

from __future__ import annotations

from unclip.common.types import Progress
from unclip.demo.studio import LabelledImage, Studio


class Pair:
    """Two studios of one page, by the names under which their images are shown."""

    def __init__(self, studios: dict[str, Studio]):
        self._studios = studios

    def lacks(self) -> str | None:
        """Why one of them cannot draw from a caption; None where both can."""
        for name, studio in self._studios.items():
            if why := studio.lacks(caption=True):
                return f"{name}: {why}"
        return None

    def generate(
        self, caption: str, n: float, seed: float, *, progress: Progress
    ) -> list[LabelledImage]:
        """For each seed an image of each cascade, one beside the other."""
        found, count = [], len(self._studios)
        for number, (name, studio) in enumerate(self._studios.items()):

            def told(done: int, total: int, before: int = number) -> None:
                progress(before * total + done, count * total)

            own = [knob.own for knob in studio.captioned]
            images = studio.generate(caption, n, seed, *own, progress=told)
            found.append([image._replace(label=f"{name}, {image.label}") for image in images])
        return [image for row in zip(*found) for image in row]


def names_of(one: str, other: str) -> tuple[str, str]:
    """What two cascades are called on the page: the last of their paths, told apart."""
    first, second = (
        word.rstrip("/\\").replace("\\", "/").rpartition("/")[2] for word in (one, other)
    )
    return (first, second) if first != second else (f"{first} (1)", f"{second} (2)")
