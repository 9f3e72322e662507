"""The work of `unclip sample --devices`: images of captions, shard by shard."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric

from unclip.common.counted import counted
from unclip.common.devices import find_device
from unclip.common.errors import UserError
from unclip.common.images import to_uint8
from unclip.data.readers.captions import Caption, choose_captions, digest_captions
from unclip.pipeline.cascade import with_settings
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.record import PRECISION, SAMPLE, Recorder
from unclip.pipeline.settings import Settings
from unclip.runs.image_shards import Drawn, ImageShards
from unclip.runs.sample_plan import SampleConfig, list_captions, plan_images
from unclip.runs.shards import Processes, write_shards
from unclip.training.determinism import sample_deterministically
from unclip.training.strategies import processes_started

logger = logging.getLogger(__name__)

Opener = Callable[[str], Pipeline]
"""Opens the pipeline on a device."""


def sample_captions(
    pipeline: Path | str | Opener,
    captions: Path | str | Sequence[str | Caption],
    out: Path | str,
    config: SampleConfig | None = None,
    *,
    settings: Settings | None = None,
    force: bool = False,
) -> dict[str, Any] | None:
    """Sample an image for each caption into the folder ``out``, or what is still missing there.

    An image depends on the cascade, the settings, its caption and its seed, and not on the number
    of processes or on interruptions. The size of the batch may change its last bits, so batches
    are part of the plan: ``settings.batch`` images of one shard.

    Args:
        pipeline: A cascade's folder, or a function that opens it on a device.
        captions: Texts, or a file of them (`unclip.data.readers.captions.read_captions`).
        out: The folder; one of another call is refused. It gets ``images/``, ``manifest.json``,
            and for PNGs ``samples.jsonl``: file, key, caption and seed of each.
        config: How many, and by whom. With several processes the calling program is started again
            for each of them, unless torchrun has.
        settings: Changes to the artifacts' own sampler settings; None for none.
        force: Replace what another call has written.

    Returns:
        The manifest; None on all processes but the first.

    Raises:
        UserError: Captions, cascade, settings or folder are not as they should be.
        Interrupted: A signal said so; finished shards are kept.
    """
    config, settings = config or SampleConfig(), settings or Settings()
    config.validate()
    settings.check()
    processes = _processes(config)
    source = str(captions) if isinstance(captions, (Path, str)) else "texts"
    chosen = choose_captions(list_captions(captions), config.limit)
    shards = plan_images(chosen, config)

    def prepare(fabric: Fabric) -> _Job:
        device = str(fabric.device)
        opened = (
            pipeline(device)
            if callable(pipeline)
            else Pipeline.load(pipeline, device, config.precision, config.offload, config.compile)
        )
        own = Pipeline(with_settings(opened.cascade, settings))
        if config.keep_z_i and own.cascade.decoder.takes != "image":
            raise UserError("--keep-z-i: this cascade's decoder takes no z_i")
        if fabric.is_global_zero:
            _note_long(own, chosen)
        clip = opened.cascade.clip
        place = (clip.source if clip else "") if callable(pipeline) else str(pipeline)
        header = {
            "settings": _settings(own, config, settings, fabric.device.type),
            "captions": {
                "source": source,
                "fingerprint": digest_captions(chosen),
                "count": len(chosen),
            },
            "cascade": {"source": place, "fingerprint": own.cascade.fingerprint()},
        }
        folder = ImageShards(
            Path(out), header, shards, config.format, Recorder(own.cascade, None, SAMPLE)
        )
        return _Job(own, settings.batch, config.keep_z_i, folder)

    with reproducible(processes.accelerator):
        return write_shards(processes, prepare, force=force)


def _processes(config: SampleConfig) -> Processes:
    """Who samples.

    Raises:
        UserError: The device is one of several, or has fewer places than are asked for.
    """
    device = find_device(config.device)
    if device.index is not None:
        raise UserError(
            f"--device {config.device}: with --devices each process has its own; use cuda, and "
            "CUDA_VISIBLE_DEVICES to choose"
        )
    devices, nodes = config.devices, config.nodes
    if devices is None:
        started = processes_started()
        devices = 1 if started is None else int(os.environ.get("LOCAL_WORLD_SIZE", started))
        nodes = nodes or (started or devices) // devices
    places = {"cpu": _cores(), "mps": 1}.get(device.type, devices)
    if devices > places:
        has = f"{counted(places, 'core')}, and on a CPU each process computes on one"
        has = "one MPS device" if device.type == "mps" else has
        raise UserError(f"--devices {devices}: this machine has {has}; ask for at most {places}")
    accelerator = "gpu" if device.type == "cuda" else device.type
    return Processes(accelerator=accelerator, devices=devices, nodes=nodes or 1)


def _cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _settings(
    pipeline: Pipeline, config: SampleConfig, settings: Settings, device: str
) -> dict[str, Any]:
    """What else decides the bytes."""
    cascade = pipeline.cascade
    precision = config.precision
    if precision == "auto":
        precision = PRECISION[cascade.dtype or torch.float32]
    return {
        **{name: getattr(config, name) for name in ("n", "seed", "format", "shard_size")},
        "batch": settings.batch,
        "precision": precision,
        "device": device,
        **({} if config.compile == "none" else {"compile": config.compile}),
        **({"keep_z_i": True} if config.keep_z_i else {}),
        "prior": asdict(cascade.prior.sampler) if cascade.prior else None,
        "decoder": asdict(cascade.decoder.sampler),
        "upsamplers": [asdict(part.sampler) for part in cascade.upsamplers],
    }


def _note_long(pipeline: Pipeline, captions: list[Caption]) -> None:
    """Say how many captions only the beginning is read of."""
    tokenizer = pipeline.cascade.tokenizer
    long = [one.key for one in captions if tokenizer.count(one.text) > tokenizer.context]
    if long:
        logger.warning(
            "%d of %s: more tokens than are read, which is %d: %s",
            len(long),
            counted(len(captions), "caption"),
            tokenizer.context,
            ", ".join(long[:3]) + (", ..." if len(long) > 3 else ""),
        )


@contextmanager
def reproducible(accelerator: str) -> Iterator[None]:
    """Deterministic algorithms; on a CPU one thread, as their number may change the last bits."""
    threads, mode = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    sample_deterministically()
    if accelerator == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_deterministic_debug_mode(mode)
        setattr(torch.utils.deterministic, "fill_uninitialized_memory", fill)  # noqa: B010


@dataclass(frozen=True)
class _Job:
    """Images to be sampled by a cascade whose parts have the settings already."""

    pipeline: Pipeline
    batch: int
    keep_z_i: bool
    folder: ImageShards
    title = "sampling"
    unit = "image"

    def size(self, number: int) -> int:
        """Images of a shard."""
        return len(self.folder.planned[number])

    def contents(
        self, numbers: list[int], tick: Callable[[int], None]
    ) -> Iterator[tuple[int, Iterator[Drawn]]]:
        """Each shard's images, sampled as they are asked for."""
        for number in numbers:
            yield number, self._images(number, tick)

    def _images(self, number: int, tick: Callable[[int], None]) -> Iterator[Drawn]:
        planned, settings = self.folder.planned[number], replace(Settings(), batch=self.batch)
        for first in range(0, len(planned), self.batch):
            batch = planned[first : first + self.batch]
            found = self.pipeline.generate(
                [one.caption for one in batch], [one.seed for one in batch], settings=settings
            )
            for one, image in zip(batch, found.image):
                if not image.isfinite().all():
                    raise UserError(
                        f"image {one.key} ({one.caption[:50]!r}, seed {one.seed}): is not finite; "
                        "try --precision 32"
                    )
            z_i = found.z_i.tolist() if self.keep_z_i and found.z_i is not None else repeat(None)
            yield from map(Drawn, to_uint8(found.image), z_i)
            tick(len(batch))
