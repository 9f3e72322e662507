"""The work of `unclip embed`: a frozen CLIP goes over a source, shard by shard."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric

from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.data.config import EmbedConfig
from unclip.data.embedding_store.writer import EmbeddingShard, Writer, concatenate_shards
from unclip.data.readers.source import Source
from unclip.data.sources import open_source
from unclip.embeddings.clip import FrozenClip
from unclip.embeddings.config import RAW
from unclip.embeddings.tokens import Tokenizer
from unclip.pipeline.precision import choose_precision
from unclip.runs.embed_data import EmbedBatch, embed_loader
from unclip.runs.shards import Processes, write_shards
from unclip.stages.clip.part import load as load_clip

logger = logging.getLogger(__name__)


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

    def prepare(fabric: Fabric) -> _Job:
        dtype = choose_precision(config.precision, fabric.device)
        frozen = load_clip(clip)
        frozen.agree(config.embeddings, where=f"--embeddings {config.embeddings}")
        job = _Job.of(config, frozen, out, fabric, dtype)
        frozen.model.to(fabric.device)
        return job

    processes = Processes(
        accelerator=config.accelerator,
        devices=config.devices,
        nodes=config.nodes,
    )
    return write_shards(processes, prepare, force=force)


@dataclass(frozen=True)
class _Job:
    """A source to be encoded by a CLIP."""

    config: EmbedConfig
    clip: FrozenClip
    source: Source
    samples: int
    out: Path
    fabric: Fabric
    dtype: torch.dtype  # in which the CLIP computes
    title = "embedding"
    unit = "sample"

    @classmethod
    def of(
        cls,
        config: EmbedConfig,
        clip: FrozenClip,
        out: Path,
        fabric: Fabric,
        dtype: torch.dtype,
    ) -> _Job:
        data = config.data
        size = clip.model.image_size
        source = open_source(data.source, data, image_size=size, split="all")
        samples = min(len(source), data.limit or len(source))
        return cls(config, clip, source, samples, out, fabric, dtype)

    @cached_property
    def folder(self) -> Writer:
        """Where the shards go."""
        return Writer(self.out, self.header(), -(-self.samples // self.config.shard_size))

    def size(self, number: int) -> int:
        """Samples of a shard."""
        return sum(map(len, self._batches(number)))

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

    def contents(
        self, numbers: list[int], tick: Callable[[int], None]
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
        for number in numbers:
            parts: list[EmbeddingShard] = []
            for span in spans[number]:
                batch = next(loaded)
                parts.append(self._part(batch))
                if batch.problems:
                    skipped = sum(part.skipped for part in parts)
                    self._judge(batch.problems, skipped, sum(map(len, spans[number])))
                tick(len(span))
            yield number, concatenate_shards(parts)

    @torch.no_grad()
    def _part(self, batch: EmbedBatch) -> EmbeddingShard:
        """What a batch adds to its shard."""
        model, dtype, fabric = self.clip.model, self.config.dtype, self.fabric
        z_i = z_t = torch.empty(0, model.embed_dim)
        if batch.images is not None:
            tokens = batch.clip_tokens.to(fabric.device).split(self.config.data.batch_size)
            with model.computing_in(self.dtype):
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
                f"data.source: {skipped} of {counted(samples, 'sample')} of a shard cannot be "
                f"used, more than data.max_skipped={most:g}; the last: {problems[-1]}"
            )

    def _batches(self, shard: int) -> list[range]:
        """Numbers of the samples of each batch of a shard."""
        size = self.config.data.batch_size
        first = shard * self.config.shard_size
        end = min(first + self.config.shard_size, self.samples)
        return [range(start, min(start + size, end)) for start in range(first, end, size)]
