"""Measures against the guidance scale (the paper's figures 9 to 12), each with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from unclip.evaluation.features.network import FeatureNetwork
from unclip.evaluation.features.statistics import Statistics
from unclip.evaluation.linear_probes.probe import LinearProbe
from unclip.evaluation.metrics import bootstrap
from unclip.evaluation.metrics.bootstrap import MOST, Resampled
from unclip.evaluation.metrics.conditions import Figure
from unclip.evaluation.metrics.neighbours import overlap


@dataclass
class Line:
    """A cascade with a number of steps, over the scales.

    Attributes:
        title: Of the cascade, and the steps.
        scales: Guidance scales of the decoder.
        values: Measures that are not resampled, at each scale, by name.
        resampled: Measures with one; their draws are of the same captions and real images at
            every scale and of every line.
    """

    title: str
    scales: list[float] = field(default_factory=list)
    values: dict[str, list[Figure]] = field(default_factory=dict)
    resampled: dict[str, list[Resampled]] = field(default_factory=dict)

    def figures(self, name: str) -> list[Figure]:
        """Of a measure, at each scale."""
        if name in self.values:
            return self.values[name]
        found = self.resampled[name]
        return [Figure(value=r.value, low=r.interval[0], high=r.interval[1]) for r in found]

    @property
    def names(self) -> list[str]:
        """Of all measures."""
        return [*self.resampled, *self.values]


def add_point(
    line: Line,
    generated: Statistics,
    reference: Statistics,
    network: FeatureNetwork,
    probe: LinearProbe | None,
    *,
    k: int,
    distance: Figure,
) -> None:
    """Measure one scale's samples by one network; all samples take part, at most `ROWS`.

    ``distance`` is their Fréchet distance.
    """
    x, y = generated.rows, reference.rows
    title = network.title
    if y is not None and x is not None:
        few_x, few_y = x[:MOST], y[:MOST]
        draws = bootstrap.resample(len(few_x), len(few_y))
        _add(line.resampled, f"KID, {title}", bootstrap.kid(few_x, few_y, draws))
        found = overlap(x, y, k=k)
        every = bootstrap.resample(len(x), len(y))
        recalled, precise = found.recalled, found.precise
        _add(line.resampled, f"recall, {title}", bootstrap.mean(recalled, every.real))
        _add(line.resampled, f"precision, {title}", bootstrap.mean(precise, every.generated))
    if probe is not None and x is not None:
        every = bootstrap.resample(len(x), 1)
        scores = bootstrap.mean(probe.scores(x), every.generated)
        _add(line.resampled, f"predicted {probe.kind}", scores)
    _add(line.values, network.distance, distance)


def _add(table: dict, name: str, value: Figure | Resampled) -> None:
    table.setdefault(name, []).append(value)


def slopes(lines: Sequence[Line]) -> dict[str, list[Figure]]:
    """By measure: the change per doubling of each line, and the difference of the first two.

    Whether guidance costs one cascade more diversity than another is the sign of the last.
    """
    found: dict[str, list[Figure]] = {}
    if len(lines[0].scales) < 2:
        return found
    for name in lines[0].resampled:
        each = [bootstrap.slope(line.resampled[name], line.scales) for line in lines]
        if len(each) > 1:
            each.append(bootstrap.difference(each[0], each[1]))
        found[name] = [_figure(one) for one in each]
    return found


def _figure(found: Resampled) -> Figure:
    low, high = found.interval
    return Figure(value=found.value, low=low, high=high)


def as_dict(lines: Sequence[Line], differences: Mapping[str, Sequence[Figure]]) -> dict:
    """For JSON."""
    return {
        "lines": [
            {
                "title": line.title,
                "scales": line.scales,
                "figures": {
                    name: [vars(figure) for figure in line.figures(name)] for name in line.names
                },
            }
            for line in lines
        ],
        "slopes_per_doubling": {
            name: [vars(figure) for figure in each] for name, each in differences.items()
        },
    }
