"""Small tensors from the CPU to a device, for which the CPU does not wait."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_WORD = 8  # bytes; views of a tensor's bytes begin at whole words


def upload(tensor: Tensor, device: torch.device | str) -> Tensor:
    """A ``tensor`` of the CPU on ``device``; a GPU copies from pinned memory meanwhile."""
    if torch.device(device).type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def upload_together(*tensors: Tensor, device: torch.device | str) -> list[Tensor]:
    """As `upload`, in one copy, whatever their shapes and types."""
    if torch.device(device).type == "cpu":
        return list(tensors)
    as_bytes = [
        x.clone(memory_format=torch.contiguous_format).view(-1).view(torch.uint8) for x in tensors
    ]
    rooms = [-(-len(x) // _WORD) * _WORD for x in as_bytes]
    packed = torch.cat([F.pad(x, (0, room - len(x))) for x, room in zip(as_bytes, rooms)])
    there = upload(packed, device).split(rooms)
    return [
        room[: len(source)].view(x.dtype).view(x.shape)
        for room, source, x in zip(there, as_bytes, tensors)
    ]
