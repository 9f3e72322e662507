"""Two cascades beside each other, and jobs that are chosen again."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from unclip.common.images import to_uint8
from unclip.demo.compare import Pair, names_of
from unclip.demo.studio import Studio
from unclip.pipeline.pipeline import Pipeline

pytestmark = pytest.mark.filterwarnings("ignore")  # Gradio's


@pytest.fixture(scope="module")
def small(cascade, tmp_path_factory):
    """The minute cascade without its upsampler."""
    root = tmp_path_factory.mktemp("small")
    for part in ("clip", "prior", "decoder"):
        shutil.copytree(cascade / part, root / part)
    return root


def test_images_are_those_of_each_cascade_seed_by_seed(cascade, small):
    pipelines = {"a": Pipeline.load(cascade), "b": Pipeline.load(small)}
    pair = Pair({name: Studio(each) for name, each in pipelines.items()})
    told = []
    found = pair.generate("a red circle", 2, 7, progress=lambda *at: told.append(at))
    assert [each.label for each in found] == ["a, seed 7", "b, seed 7", "a, seed 8", "b, seed 8"]
    for k, (name, pipeline) in enumerate(pipelines.items()):
        truth = to_uint8(pipeline.generate(["a red circle"] * 2, [7, 8]).image)
        assert np.array_equal(found[k].image, truth[0]), name
        assert np.array_equal(found[k + 2].image, truth[1]), name
        assert found[k].record["cascade"] == pipeline.cascade.sha256
    shares = [done / total for done, total in told]
    assert shares == sorted(shares)
    assert (shares[-1], max(shares)) == (1, 1)
    assert pair.lacks() is None


def test_which_of_the_two_lacks_a_prior_is_said(cascade, small, tmp_path):
    for part in ("clip", "decoder"):
        shutil.copytree(small / part, tmp_path / "c" / part)
    studios = [Studio(Pipeline.load(folder)) for folder in (cascade, tmp_path / "c")]
    assert Pair(dict(zip("ab", studios))).lacks().startswith("b: This needs a prior")


@pytest.mark.parametrize(
    ("one", "other", "names"),
    [
        ("runs/quickstart", "/home/me/mine/", ("quickstart", "mine")),
        ("runs/a", "old/a", ("a (1)", "a (2)")),
        ("karlo", "hf://ORG/NAME@main", ("karlo", "NAME@main")),
    ],
)
def test_the_names_of_two_cascades_show_no_path(one, other, names):
    assert names_of(one, other) == names


def test_jobs_are_kept_newest_first_each_once_and_not_for_ever():
    from unclip.demo.history import MOST, chosen, remembered

    jobs = []
    for seed in (1, 2, 1, 3):
        jobs = remembered(jobs, ["a red circle", 4, seed])
    assert [seed for _, _, seed in jobs] == [3, 1, 2]
    assert chosen(3)(1, jobs) == ["a red circle", 4, 1]
    for index in (-1, 3, None, "0"):
        assert len(chosen(3)(index, jobs)) == 3
        assert chosen(3)(index, jobs) not in jobs
    for seed in range(50):
        jobs = remembered(jobs, ["x" * 10_000, 4, seed])
    assert len(jobs) == MOST
    assert len(jobs[0][0]) == 500
