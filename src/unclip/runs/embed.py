"""The work of `unclip embed`: a frozen CLIP goes over a source, shard by shard of what it writes.

A shard covers a fixed span of the source and no batch spans two, so what is in it does not depend
on processes, loader workers or interruptions.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy
from torch import distributed
from tqdm import tqdm

from unclip.common.errors import Interrupted, UserError
from unclip.common.progress import bar_interval
from unclip.data.config import EmbedConfig
from unclip.data.embedding_store.writer import EmbeddingShard, Writer, concatenate_shards
from unclip.data.readers.source import Source
from unclip.data.sources import open_source
from unclip.embeddings.clip import FrozenClip
from unclip.embeddings.config import RAW
from unclip.embeddings.tokens import Tokenizer
from unclip.runs.embed_data import EmbedBatch, embed_loader
from unclip.stages.clip.part import load as load_clip
from unclip.training.checkpoint_callback import STOPPING
from unclip.training.strategies import processes_started, world_of
from unclip.training.trainer import quiet
from unclip.training.world import World

logger = logging.getLogger(__name__)

_PATIENCE = timedelta(days=30)  # in which a process waits for one that has more shards left


def embed(
    config: EmbedConfig, clip: str, out: Path, *, force: bool = False
) -> dict[str, Any] | None:
    """Encode ``config.data.source`` into the folder ``out``, or what is still missing there.

    Args:
        config: What and how.
        clip: As of `unclip.stages.clip.part.load`.
        out: The folder; one of another run is refused.
        force: Replace what another run has written.

    Returns:
        The manifest; None on all processes but the first.

    Raises:
        UserError: Data, CLIP or folder are not as they should be.
        Interrupted: A signal said so; finished shards are kept.
    """
    quiet()
    fabric = _launch(config)
    with _listening(fabric) as stop_if_told:
        try:
            frozen = load_clip(clip)
            frozen.agree(config.embeddings, where=f"--embeddings {config.embeddings}")
            job = _Job.of(config, frozen)
            writer = Writer(out, job.header(), job.shards)
            writer.check(force=force)
        except UserError as error:
            raise World.here().exit_for(error) from None
        _meet(stop_if_told)  # all have looked before one writes
        todo: list[int] = []
        if fabric.is_global_zero:
            writer.prepare(force=force)
            todo = writer.unfinished()
        todo = fabric.broadcast(todo)
        job.clip.model.to(fabric.device)
        job.clip.model.follows_autocast = True  # of --precision
        mine = todo[fabric.global_rank :: fabric.world_size]
        for number, shard in job.encoded(mine, fabric, stop_if_told):
            writer.write(number, shard)
        _meet(stop_if_told)
        return writer.finish() if fabric.is_global_zero else None


def _launch(config: EmbedConfig) -> Fabric:
    """Join the process group; rank 0 spawns the rest unless a launcher did."""
    world = world_of(config.devices, config.nodes, config.accelerator, prefix="--")
    fabric = Fabric(
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.nodes,
        # gloo, because all that is exchanged is a list of numbers.
        strategy=DDPStrategy(process_group_backend="gloo", timeout=_PATIENCE)
        if world > 1
        else "auto",
        precision="bf16-mixed" if config.precision == "bf16" else "32-true",
    )
    fabric.launch()
    return fabric


@contextmanager
def _listening(fabric: Fabric) -> Iterator[Callable[[], None]]:
    """What is to be called now and then, because it raises `Interrupted` once a signal has come.

    When an error ends the block, the processes that this one has started end too.
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

    started = processes_started() is None and fabric.global_rank > 0
    before = {n: signal.signal(n, signal.SIG_IGN if started else hear) for n in STOPPING}
    try:
        yield stop_if_told
    except BaseException:
        for process in getattr(fabric.strategy.launcher, "procs", ()):
            process.kill()  # what it writes appears at once or not at all
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _meet(stop_if_told: Callable[[], None]) -> None:
    """Wait for the other processes, but not for ever when told to stop."""
    if not distributed.is_initialized():
        return
    all_here = distributed.barrier(async_op=True)
    while not all_here.is_completed():
        stop_if_told()
        time.sleep(0.05)
    all_here.wait()


@dataclass(frozen=True)
class _Job:
    """A source to be encoded by a CLIP."""

    config: EmbedConfig
    clip: FrozenClip
    source: Source
    samples: int

    @classmethod
    def of(cls, config: EmbedConfig, clip: FrozenClip) -> _Job:
        data = config.data
        size = clip.model.image_size
        source = open_source(data.source, data, image_size=size, split="all")
        return cls(config, clip, source, min(len(source), data.limit or len(source)))

    @property
    def shards(self) -> int:
        return -(-self.samples // self.config.shard_size)

    def header(self) -> dict[str, Any]:
        """What decides the content of the shards, and where it came from."""
        config, kind = self.config, self.clip.model.embeddings
        return {
            "clip": {"source": self.clip.source, "fingerprint": self.clip.fingerprint},
            "data": {
                "source": config.data.source,
                "fingerprint": self.source.fingerprint(),
                "samples": self.samples,
            },
            "settings": {
                "shard_size": config.shard_size,
                "batch_size": config.data.batch_size,
                "captions": config.captions,
                "precision": config.precision,
            },
            "embed_dim": self.clip.model.embed_dim,
            **({"embeddings": kind} if kind == RAW else {}),  # which older versions cannot read
            "dtype": config.dtype,
        }

    def encoded(
        self, numbers: list[int], fabric: Fabric, stop_if_told: Callable[[], None]
    ) -> Iterator[tuple[int, EmbeddingShard]]:
        """The shards of ``numbers``; one loader for all of them, so that its workers never idle.

        Raises:
            UserError: Too many samples of a shard cannot be used, or an embedding is not finite.
        """
        spans = {number: self._batches(number) for number in numbers}
        batches = [batch for number in numbers for batch in spans[number]]
        model = self.clip.model
        loaded = iter(
            embed_loader(
                self.source,
                batches,
                config=self.config,
                clip_image_size=model.image_size,
                clip_tokenize=model.tokenize,
                tokenize=Tokenizer(model.context),
            )
        )
        with tqdm(
            total=sum(map(len, batches)),
            desc="embedding",
            unit="sample",
            disable=not fabric.is_global_zero,
            mininterval=bar_interval(),
            delay=1,
        ) as bar:
            for number in numbers:
                parts: list[EmbeddingShard] = []
                for span in spans[number]:
                    stop_if_told()
                    batch = next(loaded)
                    parts.append(self._part(batch, fabric))
                    if batch.problems:
                        skipped = sum(part.skipped for part in parts)
                        self._judge(batch.problems, skipped, sum(map(len, spans[number])))
                    bar.update(len(span))
                yield number, concatenate_shards(parts)

    @torch.no_grad()
    def _part(self, batch: EmbedBatch, fabric: Fabric) -> EmbeddingShard:
        """What a batch adds to its shard."""
        model, dtype = self.clip.model, self.config.dtype
        z_i = z_t = torch.empty(0, model.embed_dim)
        if batch.images is not None:
            tokens = batch.clip_tokens.to(fabric.device).split(self.config.data.batch_size)
            with fabric.autocast():
                z_i = model.encode_image(batch.images.to(fabric.device)).cpu()[batch.image]
                z_t = torch.cat([model.encode_text(some).z_t for some in tokens]).cpu()
        fine = z_i.isfinite().all(dim=1) & z_t.isfinite().all(dim=1)
        if not fine.all():
            keys = [key for key, good in zip(batch.keys, fine.tolist()) if not good]
            raise UserError(
                f"--clip {self.clip.source}: embeddings that are not finite, {len(keys)} of "
                f"{len(fine)} in a batch ({', '.join(keys[:3])}, ...); look at these, or try "
                "--precision 32"
            )
        return EmbeddingShard(
            z_i=z_i.numpy().astype(dtype),
            z_t=z_t.numpy().astype(dtype),
            tokens=batch.tokens,
            keys=batch.keys,
            captions=batch.captions,
            skipped=len(batch.problems),
        )

    def _judge(self, problems: list[str], skipped: int, samples: int) -> None:
        """Name the newest bad samples; stop when those of a shard are too many."""
        for problem in problems:
            logger.warning("skipped %s", problem)
        most = self.config.data.max_skipped
        if skipped > most * samples:
            raise UserError(
                f"data.source: {skipped} of the {samples} samples of a shard cannot be used, more "
                f"than data.max_skipped={most:g}; the last: {problems[-1]}"
            )

    def _batches(self, shard: int) -> list[range]:
        """Numbers of the samples of each batch of a shard."""
        size = self.config.data.batch_size
        first = shard * self.config.shard_size
        end = min(first + self.config.shard_size, self.samples)
        return [range(start, min(start + size, end)) for start in range(first, end, size)]
