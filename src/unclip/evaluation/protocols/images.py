"""`unclip evaluate images`: all measures of one set of images, against a reference or alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.evaluation.features.images import open_images
from unclip.evaluation.features.network import FeatureNetwork
from unclip.evaluation.features.statistics import ROWS, Statistics, measure, read_statistics
from unclip.evaluation.linear_probes.probe import LinearProbe
from unclip.evaluation.metrics import jackknife
from unclip.evaluation.metrics.conditions import Conditions, Figure, ImagesEvaluation
from unclip.evaluation.metrics.gaussians import frechet, frechet_infinity, vendi
from unclip.evaluation.metrics.images import mean_interval, wilson
from unclip.evaluation.metrics.kernels import cmmd, kid
from unclip.evaluation.metrics.neighbours import neighbours

logger = logging.getLogger(__name__)

ENOUGH = 10  # samples per feature, from which a covariance is well known


@dataclass(frozen=True)
class OpenedSet:
    """A set that is there, and not measured yet.

    Attributes:
        name: As it was given.
        count: Images; None where a file of statistics does not tell.
        size: Pixels a side of the first; None likewise.
        images: Whether it has images; else statistics alone.
        measured: Goes over the images.
    """

    name: str
    count: int | None
    size: int | None
    images: bool
    measured: Callable[[], Statistics]


def open_set(
    spec: str, network: FeatureNetwork, *, option: str, size: int | None, workers: int
) -> OpenedSet:
    """The images at ``spec``, or a file of statistics (``.npz``).

    What is not there is refused now, before another set is measured for hours.

    Raises:
        UserError: see `open_images`, `measure` and `read_statistics`.
    """
    if spec.endswith(".npz"):
        read = read_statistics(spec, network, option=option)
        return OpenedSet(spec, read.gaussian.n, read.size, False, lambda: read)
    found = open_images(spec, option=option, size=size)
    side = size or len(found(0).image)
    measured = partial(measure, found, network, workers=workers)
    return OpenedSet(spec, len(found), side, True, measured)


def check_sets(
    generated: OpenedSet,
    reference: OpenedSet | None,
    *,
    k: int,
    infinity: bool = False,
    probe: Path | None = None,
) -> None:
    """Refuse sets that cannot be compared, before either is measured.

    Args:
        generated: To be judged.
        reference: Real images, if any.
        k: Of precision, recall, density and coverage.
        infinity: Whether the distance at endless samples is asked for.
        probe: Of `unclip fit-probe`, if given.

    Raises:
        UserError: as `evaluate_images`; or what was asked for needs images or a reference.
    """
    if reference is None and not generated.images:
        raise UserError(f"{generated.name}: statistics alone have no figures; add --reference")
    if infinity and reference is None:
        raise UserError("--infinity: is a distance to real images; add --reference")
    for option, given in (("--infinity", infinity), (f"--probe {probe}", probe is not None)):
        if given and not generated.images:
            raise UserError(f"{option}: needs images; {generated.name} has statistics alone")
    if reference is None:
        return
    _check_sizes(generated.size, reference.size, generated.name, reference.name)
    if infinity:
        _check_infinity(generated.name, generated.count or 0)
    if generated.images and reference.images:
        _check_neighbours(k, generated.count or 0, reference.count or 0)


def evaluate_images(
    generated: Statistics,
    reference: Statistics | None,
    network: FeatureNetwork,
    *,
    title: str,
    reference_title: str | None = None,
    k: int = 3,
    infinity: bool = False,
    probe: LinearProbe | None = None,
    sampling: dict[str, Any] | None = None,
) -> ImagesEvaluation:
    """Every measure that the two sets of statistics and the network allow.

    Args:
        generated: Of the images to be judged.
        reference: Of real images; None: only measures that need none.
        network: That both were made with.
        title: Of the generated set.
        reference_title: Of the real one.
        k: Of precision, recall, density and coverage.
        infinity: Also extrapolate the Fréchet distance to endless samples.
        probe: Its mean score of the generated images is reported too.
        sampling: Guidance, steps and seeds of the generated images, if known.

    Raises:
        UserError: the sets' images differ in size, or are too few for ``k``.
    """
    found = ImagesEvaluation(
        title=title,
        reference=reference_title,
        conditions=Conditions(
            n=generated.gaussian.n,
            reference_n=reference.gaussian.n if reference else None,
            reference=reference.images if reference else None,
            features=network.name,
            sha256=network.sha256,
            resize=network.resize,
            precision=network.precision,
            size=generated.size,
            neighbours=k,
            probe=probe.sha256 if probe else None,
            captions=generated.captions,
            **(sampling or {}),
        ),
    )
    if generated.jpeg:
        found.notes.append(
            f"{title}: {counted(generated.jpeg, 'JPEG image')}, whose losses count too; save PNG"
        )
    if reference is not None:
        _check_sizes(generated.size, reference.size, title, reference_title)
        _against(found, generated, reference, network, k, infinity)
    _alone(found, generated)
    if probe is not None and generated.rows is not None:
        found.figures[f"predicted {probe.kind}"] = _interval(probe.scores(generated.rows).tolist())
    for note in found.notes:
        logger.warning(note)
    return found


def _check_sizes(a: int | None, b: int | None, title: str, reference_title: str | None) -> None:
    if None not in (a, b) and a != b:
        raise UserError(
            f"{title} has images of {a} pixels a side, {reference_title} of {b}; bring both to one "
            f"size with --size {a}"
        )


def _check_infinity(title: str, count: int) -> None:
    if count < 20:
        raise UserError(f"--infinity: {title} has {counted(count, 'image')}, 20 or more are needed")


def _check_neighbours(k: int, *counts: int) -> None:
    """Of sets of ``counts`` images, of which at most `ROWS` are compared."""
    if min(*counts, ROWS) <= k:
        told = f"{k + 1:,} images or more a side; here are {' and '.join(f'{n:,}' for n in counts)}"
        if k >= ROWS:
            told = f"at most {ROWS - 1:,}, since {ROWS:,} images of each set are compared"
        raise UserError(f"--neighbours {k}: needs {told}")


def _against(
    found: ImagesEvaluation,
    generated: Statistics,
    reference: Statistics,
    network: FeatureNetwork,
    k: int,
    infinity: bool,
) -> None:
    """The measures of two sets."""
    figures, dim = found.figures, network.dim
    for name, each in ((found.title, generated), (found.reference, reference)):
        n = each.gaussian.n
        if n is None:
            found.notes.append(f"{name}: does not name its network or number of images")
        elif n <= dim:
            found.notes.append(
                f"{name}: {counted(n, 'image')} cannot determine a covariance of {dim:,} "
                f"features, which takes {dim + 1:,}; {network.distance} then measures N: give "
                f"{ENOUGH * dim:,}, or use KID"
            )
    figures[network.distance] = frechet_figure(generated, reference)
    x, y = generated.rows, reference.rows
    if x is None:
        return
    if infinity:
        _check_infinity(found.title, len(x))
        value = frechet_infinity(x, reference.gaussian)
        figures[f"{network.distance}∞"] = Figure(value=value)
    if y is None:
        return
    figures["KID"] = _interval(kid(x, y))
    if network.clip is not None:
        figures["CMMD"] = Figure(value=cmmd(x, y))
    _check_neighbours(k, len(x), len(y))
    shared = neighbours(x, y, k=k)
    for name, n in (("precision", len(x)), ("recall", len(y)), ("coverage", len(y))):
        share = getattr(shared, name)
        low, high = wilson(share, n)
        figures[name] = Figure(value=share, low=low, high=high)
    figures["density"] = Figure(value=shared.density)


def frechet_figure(generated: Statistics, reference: Statistics) -> Figure:
    """With an interval over the choice of the images that are there; statistics are taken as known.

    It holds the distance that as many other images would have, which N raises.
    """
    value, variance = frechet(generated.gaussian, reference.gaussian), 0.0
    if generated.rows is None or len(generated.rows) < jackknife.LEAST:
        return Figure(value=value)
    for one, other in ((generated, reference), (reference, generated)):
        if one.rows is not None and len(one.rows) >= jackknife.LEAST:
            variance += jackknife.frechet_error(one.rows, other.gaussian) ** 2
    half = jackknife.T95 * variance**0.5
    return Figure(value=value, low=max(0.0, value - half), high=value + half)


def _alone(found: ImagesEvaluation, generated: Statistics) -> None:
    """The measures that need no reference."""
    if generated.inception is not None:
        name = "inception" if found.conditions.features == "inception" else "class"
        figures = _interval(generated.inception.scores())
        found.figures[f"{name} score"] = figures
    if generated.unit is not None:
        found.figures["Vendi"] = Figure(value=vendi(generated.unit))
    if generated.clip_score is not None:
        found.figures["CLIP score"] = _interval(generated.clip_score.tolist())


def _interval(values: list[float]) -> Figure:
    mean, low, high = mean_interval(values)
    return Figure(value=mean) if len(values) < 2 else Figure(value=mean, low=low, high=high)


def check_output(path: Path) -> None:
    """Refuse a name of a file of statistics that would not be read again."""
    if path.suffix != ".npz":
        raise UserError(f"--save-statistics {path}: is written as numpy's .npz; name it .npz")
