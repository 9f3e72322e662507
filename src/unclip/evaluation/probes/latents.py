"""What z_i of an image holds: its principal components, and words on the image.

arXiv 2204.06125, figures 7 and 6.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from unclip.common.images import Array, table, to_uint8
from unclip.common.types import Progress
from unclip.embeddings.lengths import directions
from unclip.evaluation.probes.probe import Probe
from unclip.pipeline.inputs import squares
from unclip.pipeline.manipulations import embed
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.sampling import Sampling
from unclip.pipeline.settings import Settings
from unclip.pipeline.typographic import check_word

DIMS = (20, 30, 40, 80, 120, 160, 200, 320)
"""The paper's, of 1024 dimensions."""


def dims_of(components: int) -> list[int]:
    """The paper's numbers of components; of a codec with fewer than 320 the same shares of all."""
    return sorted({max(1, round(min(1, components / DIMS[-1]) * k)) for k in DIMS})


@torch.no_grad()
def probe_pca(
    pipeline: Pipeline,
    images: Sequence[Array],
    *,
    dims: Sequence[int] = (),
    seed: int = 0,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Probe:
    """A row per image: decoded from ever more components (`dims_of`), from z_i, the image.

    All are drawn from the one x_T of ``seed``. The table holds the mean cosine of what is left of
    z_i and z_i.
    """
    dims = list(dims) or (dims_of(pipeline.cascade.codec.k) if pipeline.cascade.codec else [1])
    found = pipeline.pca_reconstructions(
        images, dims, seed=seed, settings=settings, progress=progress
    )
    sampling = Sampling(pipeline.cascade, settings, progress, 0.0)
    sampling.expect(decodings=len(images))
    z_i = embed(sampling, images)
    whole = to_uint8(sampling.decode(z_i, [seed] * len(images)).image)
    cells = [
        [*few, all_of_it, original]
        for few, all_of_it, original in zip(
            to_uint8(found.image), whole, originals(images, len(whole[0]))
        )
    ]
    assert found.z_i is not None
    kind = pipeline.cascade.embeddings
    each = directions(found.z_i, kind) * directions(z_i[:, None], kind)
    cosines = each.sum(dim=-1).mean(dim=0)
    records = [{"components": k, "cosine to z_i": float(c)} for k, c in zip(dims, cosines)]
    columns = [*(f"first {k}" for k in dims), "z_i", "original"]
    return Probe(table(cells, rows=[""] * len(cells), columns=columns), records)


def probe_typographic(
    pipeline: Pipeline,
    photo: Array,
    words: Sequence[str],
    labels: Sequence[str],
    *,
    seeds: Sequence[int] = (0, 1, 2, 3),
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> Probe:
    """A row for the image and for it with each word on it: itself, then its variations (η = 1).

    The table holds CLIP's probability of each label, in each row.
    """
    for word in words:
        check_word(word)
    rows, records = [], []

    def add(name: str, shown: Array, variations: Tensor, probabilities: Tensor) -> None:
        drawn = to_uint8(variations)
        rows.append([*originals([shown], len(drawn[0])), *drawn])
        shares = {label: float(p) for label, p in zip(labels, probabilities)}
        records.append({"on the image": name, **shares})

    for number, word in enumerate(words):
        found = pipeline.typographic(
            [photo], word, labels, seeds=seeds, settings=settings, progress=progress
        )
        if number == 0:
            plain = pipeline.vary([photo], 1.0, seeds, settings=settings, progress=progress)
            add("nothing", photo, plain.image[0], found.before[0])
        add(f'"{word}"', found.images[0], found.variations.image[0], found.after[0])
    sheet = table(
        rows,
        rows=[" ".join(f"{k}: {v:.0%}," for k, v in list(r.items())[1:])[:-1] for r in records],
        columns=["image", *(f"seed {seed}" for seed in seeds)],
    )
    return Probe(sheet, records)


def originals(images: Sequence[Array], size: int) -> list[Array]:
    """The middle squares of images, as the networks see them: ``uint8 [size, size, 3]``."""
    return list(to_uint8(squares(images, size, "cpu")))
