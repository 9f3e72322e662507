"""Work that several processes share, shard by shard of what it writes, and that can be resumed.

A shard covers a fixed span of the work and no batch spans two, so what is in it does not depend on
processes or interruptions.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy
from torch import distributed
from torch.distributed.distributed_c10d import _get_default_store
from tqdm import tqdm

from unclip.common.counted import counted
from unclip.common.errors import Interrupted, UserError
from unclip.common.processes import die_with_parent
from unclip.common.progress import bar_interval
from unclip.common.terminal import say
from unclip.data.shard_folder import ShardFolder
from unclip.training.checkpoint_callback import STOPPING
from unclip.training.strategies import processes_started, world_of
from unclip.training.trainer import quiet
from unclip.training.world import World

_PATIENCE = timedelta(days=30)  # in which a process waits for one that has more shards left
_ALONE = (
    "the first process has ended; finished shards are kept, run the same command to make the others"
)
_FIRST = "UNCLIP_FIRST_PROCESS"
_calls = itertools.count()  # the same in all processes


@dataclass(frozen=True, kw_only=True)
class Processes:
    """Who shares the work: a process per device."""

    accelerator: str = "auto"  # auto: a GPU if there is one
    devices: int = 1  # per machine
    nodes: int = 1  # machines; more than one are started by torchrun or srun


class Job(Protocol):
    """What is to be done."""

    @property
    def title(self) -> str:
        """Of the progress bar."""
        ...

    @property
    def unit(self) -> str:
        """Of its count."""
        ...

    @property
    def folder(self) -> ShardFolder:
        """Where the shards go."""
        ...

    def size(self, number: int) -> int:
        """How many units shard ``number`` has."""
        ...

    def contents(
        self, numbers: list[int], tick: Callable[[int], None]
    ) -> Iterator[tuple[int, Any]]:
        """Number and content of each shard of ``numbers``; ``tick`` is told of finished units."""
        ...


def write_shards(
    processes: Processes, prepare: Callable[[Fabric], Job], *, force: bool
) -> dict[str, Any] | None:
    """Write the shards of a job that are still missing.

    Args:
        processes: Who does it.
        prepare: Called in every process, once they have met; opens what the job needs.
        force: Replace what another run has written.

    Returns:
        The manifest; None on all processes but the first.

    Raises:
        UserError: The job or its folder are not as they should be.
        Interrupted: A signal said so; finished shards are kept.
    """
    quiet()
    fabric = _launch(processes)
    with ExitStack() as kept, _listening(fabric) as stop_if_told:
        try:
            job = prepare(fabric)
            job.folder.check(force=force)
        except UserError as error:
            raise World.here().exit_for(error) from None
        _meet(stop_if_told)  # all have looked before one writes
        todo: list[int] = []
        if fabric.is_global_zero:
            kept.enter_context(job.folder.alone())
            job.folder.prepare(force=force)
            todo = job.folder.unfinished()
            if job.folder.shards < fabric.world_size:
                say(
                    f"unclip: {counted(fabric.world_size, 'process')} share "
                    f"{counted(job.folder.shards, 'shard')}, so some have nothing to do; a smaller "
                    "--shard-size makes more",
                    error=True,
                )
        todo = fabric.broadcast(todo)
        with _Bar(job, todo, fabric) as bar:

            def tick(count: int) -> None:
                stop_if_told()
                bar.add(count)

            mine = todo[fabric.global_rank :: fabric.world_size]
            for number, content in job.contents(mine, tick):
                job.folder.write(number, content)
            _meet(lambda: tick(0))
        return job.folder.finish() if fabric.is_global_zero else None


def _launch(processes: Processes) -> Fabric:
    """Join the process group; rank 0 spawns the rest unless a launcher did.

    Raises:
        UserError: The first process is gone already.
    """
    world = world_of(processes.devices, processes.nodes, processes.accelerator, prefix="--")
    if processes_started() is None and world > 1:
        first = os.environ.get(_FIRST)
        if int(os.environ.get("LOCAL_RANK", "0")) == 0:
            os.environ[_FIRST] = str(os.getpid())
        elif first is not None:  # which started this one, and may be killed
            die_with_parent(kill=True)  # what it writes appears at once or not at all
            if os.getppid() != int(first):
                raise UserError(_ALONE)
    fabric = Fabric(
        accelerator=processes.accelerator,
        devices=processes.devices,
        num_nodes=processes.nodes,
        # gloo, because all that is exchanged is a list of numbers.
        strategy=DDPStrategy(process_group_backend="gloo", timeout=_PATIENCE)
        if world > 1
        else "auto",
    )
    fabric.launch()
    return fabric


@contextmanager
def _listening(fabric: Fabric) -> Iterator[Callable[[], None]]:
    """What is to be called now and then, because it raises `Interrupted` once a signal has come.

    It also ends a process whose first process was killed, as nobody else would. When an error ends
    the block, the processes that this one has started end too.
    """
    heard: list[int] = []

    def hear(number: int, frame: Any) -> None:
        if heard and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice
        heard.append(number)

    def stop_if_told() -> None:
        if heard:
            name = signal.Signals(heard[0]).name
            line = f"{name}: finished shards are kept; run the same command to make the others"
            raise World.here().exit_for(Interrupted(line))
        if started and os.getppid() != parent:
            raise UserError(_ALONE)

    started = processes_started() is None and fabric.global_rank > 0
    parent = os.getppid()
    before = {n: signal.signal(n, signal.SIG_IGN if started else hear) for n in STOPPING}
    try:
        yield stop_if_told
    except BaseException:
        for process in getattr(fabric.strategy.launcher, "procs", ()):
            process.kill()  # what it writes appears at once or not at all
            process.wait()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _meet(meanwhile: Callable[[], None]) -> None:
    """Wait for the other processes, but not for ever when ``meanwhile`` raises."""
    if not distributed.is_initialized():
        return
    all_here = distributed.barrier(async_op=True)
    while not all_here.is_completed():
        meanwhile()
        time.sleep(0.05)
    all_here.wait()


class _Bar:
    """The first process's progress bar, which counts the work of all."""

    def __init__(self, job: Job, todo: list[int], fabric: Fabric):
        sizes = [job.size(number) for number in range(job.folder.shards)]
        left = sum(sizes[number] for number in todo)
        self._done = 0
        self._key = f"done in call {next(_calls)}"
        self._bar = tqdm(
            total=sum(sizes),
            initial=sum(sizes) - left,
            desc=job.title,
            unit=job.unit,
            disable=not (fabric.is_global_zero and todo),
            mininterval=bar_interval(),
            delay=1,
        )

    def add(self, count: int) -> None:
        """Count what this process has done, and show what all have.

        Raises:
            UserError: The first process, which keeps the count, is gone.
        """
        done = self._done + count
        if distributed.is_initialized():
            try:
                done = _get_default_store().add(self._key, count)
            except distributed.DistError:
                raise UserError(_ALONE) from None
        self._bar.update(done - self._done)
        self._done = done

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()
