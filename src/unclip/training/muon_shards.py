"""A function of whole matrices when every process has some of their rows (FSDP2).

Matrix k is made whole on process k modulo their number, which sends the rows of the result back.
So each process works on its share of the matrices, and a number travels twice, in bfloat16.
Gathering every matrix on every process would send as much and do the work as often as there are
processes: five iterations cost about 3.3 rows / tokens of a step's own arithmetic, where tokens
are those of one process.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, distributed
from torch.distributed.device_mesh import DeviceMesh


def apply_to_whole(
    function: Callable[[Tensor], Tensor], own: Tensor, rows: int, mesh: DeviceMesh
) -> Tensor:
    """The own rows of ``function`` of N matrices, in bfloat16. On every process.

    Args:
        function: of ``[n, rows, columns]`` in bfloat16, to the same shape and type.
        own: ``[N, own rows, columns]``: FSDP2 gives each process ceil(rows / processes) of them,
            the last ones fewer or none.
        rows: of a whole matrix.
        mesh: of one dimension, the processes that share the rows.
    """
    group, size, rank = mesh.get_group(), mesh.size(), mesh.get_local_rank()
    count, columns = len(own), own.shape[2]
    each = -(-rows // size)
    heights = [max(0, min(each, rows - each * r)) for r in range(size)]
    counts = [len(range(r, count, size)) for r in range(size)]  # matrices of each process

    def exchange(sent: list[Tensor], shapes: list[tuple[int, int]]) -> list[Tensor]:
        """One tensor to each process, and one from each, of ``shapes`` [matrices, rows]."""
        sizes = [n * height * columns for n, height in shapes]
        received = sent[0].new_empty(sum(sizes))
        flat = torch.cat([part.flatten() for part in sent])
        lengths = [part.numel() for part in sent]
        distributed.all_to_all_single(received, flat, sizes, lengths, group=group)
        parts = received.split(sizes)
        return [part.view(*shape, columns) for part, shape in zip(parts, shapes)]

    # Offloaded rows lie on the CPU; the mesh says where the processes compute.
    device = own.device if own.device.type == mesh.device_type else torch.device(mesh.device_type)
    half = own.to(device, torch.bfloat16)
    pieces = exchange([half[r::size] for r in range(size)], [(counts[rank], h) for h in heights])
    whole = torch.cat(pieces, dim=1)
    if counts[rank]:
        whole = function(whole)
    parts = exchange(list(whole.split(heights, dim=1)), [(n, heights[rank]) for n in counts])
    found = torch.empty_like(half)
    for r, part in enumerate(parts):
        found[r::size] = part
    return found.to(own.device)
