"""Going once over a source, in order, with worker processes: what the data tools share."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from torch.utils.data import BatchSampler, Dataset
from tqdm import tqdm

from unclip.common.progress import bar_interval
from unclip.data.loader import Loader

T = TypeVar("T")
Chunk = TypeVar("Chunk")

_CHUNK = 32  # samples that a worker hands over at a time


class _Calls(Dataset[Any]):
    def __init__(self, function: Callable[[int], Any]):
        self._function = function

    def __getitem__(self, index: int) -> Any:
        return self._function(int(index))


def scan(
    function: Callable[[int], T],
    indices: Sequence[int] | np.ndarray,
    *,
    collate: Callable[[list[T]], Chunk],
    workers: int,
    title: str,
) -> Iterator[Chunk]:
    """What ``function`` returns for each of ``indices``, in their order, with a progress bar.

    Args:
        function: Called in the workers; picklable.
        indices: Handed to it one by one.
        collate: Called in the workers with up to 32 results; what it returns is yielded.
        workers: Processes, of which there are never more than cores; 0 uses this one.
        title: Of the progress bar.
    """
    loader = Loader(
        _Calls(function),
        batches=BatchSampler(indices, _CHUNK, drop_last=False),
        collate=collate,
        num_workers=workers,
    )
    with tqdm(total=len(indices), desc=title, unit=" samples", mininterval=bar_interval()) as bar:
        for number, chunk in enumerate(loader):
            yield chunk
            bar.update(min(_CHUNK, len(indices) - number * _CHUNK))


def image_format(data: bytes) -> str:
    """Pillow's name for the format of a readable image file, such as `JPEG`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # remarks on odd metadata
        with Image.open(io.BytesIO(data)) as image:
            return image.format or "unknown"
