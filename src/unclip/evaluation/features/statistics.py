"""What is accumulated of a set's features, over batches and processes, and the files of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unclip.common.atomic import atomic_write
from unclip.common.errors import UserError
from unclip.common.home import expanded
from unclip.data.scan import scan
from unclip.embeddings.moments import Moments, Reservoir
from unclip.evaluation.features.images import EvaluatedImage, ImageSet
from unclip.evaluation.features.network import FeatureNetwork
from unclip.evaluation.metrics.gaussians import Gaussian, UnitMoments, gaussian
from unclip.evaluation.metrics.images import InceptionScore, clip_scores
from unclip.training.world import World

BATCH = 32  # images at a time, the same ones whatever the number of processes
ROWS = 50_000  # features kept for the measures that need samples, not moments


@dataclass
class Statistics:
    """A set of images as a network sees it; of a file of statistics the Gaussian alone.

    Attributes:
        gaussian: Its fitted Gaussian.
        rows: At most `ROWS` features ``[R, D]`` float32, in random order; None for a file.
        unit: Moments of the unit features.
        inception: Sums of the class probabilities; None without logits.
        clip_score: Of each image and its caption ``[N]``; None without captions or CLIP.
        size: Pixels a side of the images.
        images: A hash of all their pixels, in order.
        captions: A hash of the list of captions; None where an image has none.
        jpeg: How many are stored as JPEG.
    """

    gaussian: Gaussian
    rows: Tensor | None = None
    unit: UnitMoments | None = None
    inception: InceptionScore | None = None
    clip_score: Tensor | None = None
    size: int | None = None
    images: str | None = None
    captions: str | None = None
    jpeg: int = 0
    network: dict[str, Any] | None = None  # how the features were made, see `made_by`


def made_by(network: FeatureNetwork) -> dict[str, Any]:
    """What decides the features of an image."""
    return {
        "features": network.name,
        "sha256": network.sha256,
        "resize": network.resize,
        "precision": network.precision,
    }


@torch.no_grad()
def measure(images: ImageSet, network: FeatureNetwork, *, workers: int = 0) -> Statistics:
    """Go over ``images`` once; the processes of torchrun share them.

    Raises:
        UserError: an image cannot be used, their sizes differ, or a feature is not finite.
    """
    world, total = World.here(), len(images)
    batches = range(0, total, BATCH)[world.rank :: world.size]
    numbers = [k for first in batches for k in range(first, min(first + BATCH, total))]
    moments, unit = Moments(network.dim), UnitMoments(network.dim)
    reservoir = Reservoir(min(total, ROWS), network.dim)
    inception = InceptionScore(network.classes) if network.classes else None
    seen: list[tuple[int, str, str | None, bool, float]] = []
    size: tuple[int, str] | None = None
    with _told_to_all(world):
        for batch in scan(images, numbers, collate=list, workers=workers, title=images.name[-30:]):
            for one in batch:
                size = _same_size(images, one, size)
            pixels = torch.from_numpy(np.stack([one.image for one in batch]))
            encoded = network.encode(pixels.permute(0, 3, 1, 2).to(network.device))
            features = encoded.features.double().cpu()
            fine = features.isfinite().all(1)
            if not fine.all():
                key = batch[int((~fine).nonzero()[0])].key
                raise UserError(
                    f"{images.option} {images.name}: features of {key} are NaN or infinite; "
                    "check --features, or try --precision 64"
                )
            at = torch.tensor([one.number for one in batch])
            moments.update(features)
            unit.update(features)
            reservoir.update(at, features)
            if inception is not None and encoded.logits is not None:
                inception.update(at, encoded.logits)
            scores = _clip_scores(network, batch, features)
            seen += [(o.number, o.digest, o.caption, o.jpeg, s) for o, s in zip(batch, scores)]
    for each in (moments, unit):
        each.all_reduce()
    if inception is not None:
        inception.all_reduce()
    reservoir.gather()
    sizes = [each for each in world.gather(size) if each is not None]
    for other in sizes:
        if other[0] != sizes[0][0]:
            raise world.exit_for(_sizes_differ(images, sizes[0], other))
    everything = sorted(row for rows in world.gather(seen) for row in rows)
    captions = [caption for _, _, caption, _, _ in everything]
    known = None not in captions
    scored = known and network.clip is not None
    return Statistics(
        gaussian=gaussian(moments),
        rows=reservoir.rows,
        unit=unit,
        inception=inception,
        clip_score=torch.tensor([row[4] for row in everything]).double() if scored else None,
        size=size[0] if size else None,
        images=_hash([digest for _, digest, _, _, _ in everything]),
        captions=_hash([str(caption) for caption in captions]) if known else None,
        jpeg=sum(row[3] for row in everything),
        network=made_by(network),
    )


@contextmanager
def _told_to_all(world: World) -> Iterator[None]:
    """What one process refuses ends all of them: none waits for sums that will not come."""
    refused: UserError | None = None
    try:
        yield
    except UserError as error:
        refused = error
    for told in world.gather(None if refused is None else str(refused)):
        if told is not None:
            raise world.exit_for(UserError(told))


def _hash(texts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()


def _same_size(
    images: ImageSet, one: EvaluatedImage, size: tuple[int, str] | None
) -> tuple[int, str]:
    own = (one.image.shape[0], one.key)
    if size is not None and own[0] != size[0]:
        raise _sizes_differ(images, size, own)
    return size or own


def _sizes_differ(images: ImageSet, a: tuple[int, str], b: tuple[int, str]) -> UserError:
    return UserError(
        f"{images.option} {images.name}: {a[1]} has {a[0]} pixels a side, {b[1]} has {b[0]}; bring "
        "them to one size with --size"
    )


def _clip_scores(
    network: FeatureNetwork, batch: Sequence[EvaluatedImage], z_i: Tensor
) -> list[float]:
    captions = [one.caption for one in batch if one.caption is not None]
    if network.clip is None or len(captions) < len(batch):
        return [0.0] * len(batch)
    model = network.clip.model
    z_t = model.encode_text(model.tokenize(captions).to(network.device)).z_t
    return clip_scores(z_i, z_t.cpu()).tolist()


def save_statistics(statistics: Statistics, path: Path) -> None:
    """Write ``mu`` and ``sigma`` as pytorch-fid does, and beside them how they were made."""
    record = {
        "n": statistics.gaussian.n,
        "size": statistics.size,
        "images": statistics.images,
        **(statistics.network or {}),
    }
    with atomic_write(path) as scratch, scratch.open("wb") as file:
        np.savez(
            file,
            mu=statistics.gaussian.mean.numpy(),
            sigma=statistics.gaussian.covariance.numpy(),
            unclip=np.array(json.dumps(record)),
        )


def read_statistics(spec: str, network: FeatureNetwork, *, option: str) -> Statistics:
    """Statistics of a file of ours or of pytorch-fid, which does not tell how they were made.

    Raises:
        UserError: it cannot be read, or was made by another network or in another way.
    """
    try:
        with np.load(expanded(spec), allow_pickle=False) as file:
            mean, covariance = (
                torch.from_numpy(file[k].astype(np.float64, casting="same_kind"))
                for k in ("mu", "sigma")
            )
            record = _record(json.loads(str(file["unclip"]))) if "unclip" in file else {}
    except FileNotFoundError:
        raise UserError(f"{option} {spec}: does not exist") from None
    except KeyError as error:
        name = str(error).split()[0].strip("'\"")
        raise UserError(
            f"{option} {spec}: holds no {name}, so is not a file of statistics"
        ) from None
    except Exception:  # a damaged zip raises nearly anything
        raise UserError(
            f"{option} {spec}: is not a file of statistics, or damaged; make one with "
            "--save-statistics"
        ) from None
    fits = mean.ndim == 1 and covariance.shape == (len(mean), len(mean))
    if not fits or not mean.isfinite().all() or not _is_covariance(covariance):
        raise UserError(
            f"{option} {spec}: mu and sigma are not a mean and a covariance; make it again"
        )
    if len(mean) != network.dim:
        raise UserError(
            f"{option} {spec}: statistics of {len(mean)} features, --features {network.name} has "
            f"{network.dim}: they are of another network"
        )
    wanted = made_by(network)
    other = [key for key in wanted if key in record and record[key] != wanted[key]]
    if other:
        told = ", ".join(
            f"{k} {str(record[k])[:40]} there, {str(wanted[k])[:40]} here" for k in other
        )
        raise UserError(f"{option} {spec}: statistics of another network: {told}; make them again")
    if not record and network.name != "inception":
        raise UserError(
            f"{option} {spec}: does not name its network; only statistics of Inception are read "
            "without (--features inception)"
        )
    return Statistics(
        Gaussian(record.get("n"), mean, covariance),
        size=record.get("size"),
        images=record.get("images"),
        network={k: record[k] for k in wanted} if record else None,
    )


def _record(found: Any) -> dict[str, Any]:
    """What `save_statistics` wrote of how they were made. Raises ValueError if it is no such."""
    n, size, images = (found.get(name) for name in ("n", "size", "images"))
    counts = [value for value in (n, size) if value is not None]
    if any(type(value) is not int or value < 1 for value in counts):
        raise ValueError("n and size are numbers of images and pixels")
    if not isinstance(images, (str, type(None))):
        raise ValueError("images is a hash")
    return dict(found)


def _is_covariance(found: Tensor) -> bool:
    """Whether a square matrix is one, but for rounding errors."""
    if not found.isfinite().all():
        return False
    if not len(found):  # of another network, which is said elsewhere
        return True
    slack = 1e-6 * found.abs().max()
    symmetric = bool(((found - found.T).abs() <= slack).all())
    return symmetric and bool(torch.linalg.eigvalsh(found)[0] >= -slack * len(found))
