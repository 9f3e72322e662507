"""The page of the paper's figures: whole, self-contained, the same each time."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from unclip.common.errors import UserError
from unclip.data.config import ScenesConfig
from unclip.evaluation.figures.drawings import FigureInputs, edit_captions
from unclip.evaluation.figures.figures import FIGURES, Figure
from unclip.evaluation.figures.page import write_figures
from unclip.evaluation.probes.conditioning import find_ar_prior
from unclip.evaluation.probes.prompts import held_out_scenes, images_of
from unclip.pipeline.pipeline import Pipeline

SCENES = held_out_scenes(2, 0, ScenesConfig())
SHAPES = ["circle", "square", "triangle"]


def drawn(pipeline, out, *, ar_prior=None, scenes=SCENES):
    studio = FigureInputs(pipeline, images_of(SCENES), scenes, SHAPES, ar_prior)
    told = {"command": "unclip figures <x>", "common": ["--seed", "0"], "notes": ["take & care"]}
    return write_figures(studio, out, **told).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def small(cascade):
    """The minute cascade without its upsampler."""
    pipeline = Pipeline.load(cascade)
    pipeline = Pipeline(replace(pipeline.cascade, upsamplers=()))
    return pipeline


@pytest.fixture(scope="module")
def pages(cascade, small, tmp_path_factory):
    """The same page twice: its text and its folder."""
    ar_prior = find_ar_prior(cascade, None, small)
    folders = [tmp_path_factory.mktemp("figures") for _ in range(2)]
    return [(drawn(small, folder, ar_prior=ar_prior), folder) for folder in folders]


@pytest.mark.slow
def test_every_figure_is_there(pages):
    page, folder = pages[0]
    assert "Left out" not in page
    assert "left out" not in page
    assert [f.number for f in FIGURES] == [3, 4, 5, 6, 7, 8, 9, 14, 15]
    for figure in FIGURES:
        assert f"<h2>Figure {figure.number}. {figure.title}</h2>" in page
        assert (folder / f"figure_{figure.number:02d}.png").is_file()


@pytest.mark.slow
def test_the_page_needs_nothing_beside_it(pages):
    page, _ = pages[0]
    sources = re.findall(r'(?:src|href)="([^"]{0,22})', page)
    assert len(sources) == len(FIGURES)
    assert set(sources) == {"data:image/png;base64,"}


@pytest.mark.slow
def test_what_others_wrote_is_escaped(pages):
    page, _ = pages[0]
    assert "<x>" not in page
    assert "unclip figures &lt;x&gt;" in page
    assert "take &amp; care" in page


def test_no_text_of_a_figure_becomes_markup(small, tmp_path, monkeypatch):
    script = "<script>alert(1)</script>"
    probe = SimpleNamespace(
        save=lambda folder, name: tmp_path / "images" / "0.png",
        records=True,
        lines=[[script], [script]],
        notes=[f"{script} `{script}`"],
    )

    def broken(studio):
        raise UserError(script)

    texts = (script, f"{script} `{script}`", script, script)
    figures = [Figure(1, *texts, lambda studio: probe), Figure(2, *texts, broken)]
    monkeypatch.setattr("unclip.evaluation.figures.page.FIGURES", figures)
    studio = FigureInputs(small, images_of(SCENES), SCENES, SHAPES, None)
    page = write_figures(studio, tmp_path, command=script, common=[script], notes=[script])
    text = page.read_text(encoding="utf-8")
    assert "<script" not in text
    assert text.count("&lt;script&gt;") == 18
    assert text.count("<code>&lt;script&gt;") == 6


@pytest.mark.slow
def test_the_same_cascade_gives_the_same_bytes(pages):
    (_, one), (_, two) = pages
    names = sorted(p.relative_to(one) for p in one.rglob("*.png"))
    assert len(names) == len(FIGURES) + len(SCENES)
    for name in names:
        assert (one / name).read_bytes() == (two / name).read_bytes()


@pytest.mark.slow
def test_commands_of_single_figures_can_be_copied(pages):
    page, folder = pages[0]
    source, target = edit_captions(SCENES[0])
    assert (
        f"<code>unclip edit {folder / 'images' / '0.png'} --from &#39;{source}&#39; "
        f"--to &#39;{target}&#39; --theta 0.4 --n 5 --seed 0</code>" in page
    )
    assert (folder / "images" / "1.png").is_file()


def test_missing_parts_are_said_and_the_rest_is_drawn(small, tmp_path):
    page = drawn(
        Pipeline(replace(small.cascade, prior=None, upsamplers=(), codec=None)), tmp_path, scenes=[]
    )
    for reason in (
        "prior: this cascade has none, and its decoder needs",
        "pca: the pipeline has none; make one with <code>unclip fit-pca</code>",
        "captions of --images are not known; use <code>unclip edit</code>",
        "captions of --images are not known; use <code>unclip probe typographic</code>",
    ):
        assert f"<strong>Left out:</strong> {reason}" in page
    left = sorted(p.name for p in tmp_path.glob("*.png"))
    assert left == ["figure_03.png", "figure_04.png", "figure_08.png", "figure_15.png"]
    assert "AR prior: left out, there is none" in page


def test_the_edits_target_is_another_colour_that_can_be_seen():
    for scene in held_out_scenes(40, 1, ScenesConfig()):
        source, target = edit_captions(scene)
        assert source != target
        assert source.split()[-1] == target.split()[-1]
        assert scene.background not in target.split()
