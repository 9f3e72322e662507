"""What a stage is trained on and what it is given later are the same computation.

Training runs under bfloat16 autocast; `unclip fit-pca` and the pipeline do not.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from unclip.common.types import Caption
from unclip.config.load import load_experiment
from unclip.data.batches import DecoderBatch, PriorBatch
from unclip.degradations.blur import gaussian_blur
from unclip.embeddings.metrics import prior_metrics
from unclip.runs.parents import parents
from unclip.runs.train import assemble
from unclip.stages._prior.sampling import best_of
from unclip.stages._prior.stage import Pair, judge
from unclip.stages.clip.stage import retrieval

SIDE, LENGTH = 16, 16


def both(make):
    """What ``make`` gives without and with autocast."""
    plain = make()
    with torch.autocast("cpu", torch.bfloat16):
        return plain, make()


def assert_same(make):
    plain, mixed = both(make)
    assert type(plain) is type(mixed)
    for a, b in zip(plain, mixed) if isinstance(plain, tuple) else [(plain, mixed)]:
        if isinstance(a, tuple):
            assert_same_parts(a, b)
        elif isinstance(a, torch.Tensor):
            assert torch.equal(a, b)
        else:
            assert a == b


def assert_same_parts(a, b):
    for one, other in zip(a, b):
        assert one is other is None or torch.equal(one, other)


@pytest.fixture(scope="module")
def stage_of(cascade, minute_experiment, tmp_path_factory):
    def build(kind, *more):
        given = [f"clip={cascade / 'clip'}", f"run.dir={tmp_path_factory.mktemp(kind)}", *more]
        if kind == "ar_prior":
            given.append(f"pca={cascade / 'pca'}")
        resolved = load_experiment(str(minute_experiment(kind)), given)
        return assemble(resolved, parents(resolved))[1]

    return build


def images(count=8):
    return torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def tokens(count=8):
    found = torch.randint(1, 40000, (count, LENGTH), generator=torch.Generator().manual_seed(1))
    found[:, -1] = 49407
    return found


@pytest.mark.parametrize("kind", ["prior", "ar_prior"])
@pytest.mark.parametrize("caption", ["clip", "bpe"])
def test_a_prior_sees_the_embeddings_of_the_pipeline(stage_of, kind, caption):
    small = ["model.text.context=16", "model.text.width=32", "model.text.layers=1"]
    more = [*small, "model.text.heads=2"] if kind == "ar_prior" else []
    stage = stage_of(kind, f"model.caption={caption}", *more)
    names = [str(k) for k in range(8)]
    batch = PriorBatch(images(), tokens(), tokens(), names, names)
    assert_same(lambda: stage.encode(batch))
    if kind == "ar_prior":
        pair = stage.encode(batch)
        assert_same(lambda: stage.net.codec.encode(pair.z_i))
        assert_same(lambda: stage._dot(pair))


@pytest.mark.parametrize("embedding", ["image", "text"])
def test_the_decoder_sees_the_embeddings_of_the_pipeline(stage_of, embedding):
    stage = stage_of("decoder", f"embedding={embedding}")
    names = [str(k) for k in range(8)]
    batch = DecoderBatch(images(), images(), tokens(), tokens(), names, names)
    assert_same(lambda: stage.encode(batch))


def test_a_clip_that_trains_follows_autocast(cascade):
    """Its speed is what autocast is for; the test above would not notice if nothing followed it."""
    from unclip.stages.clip.part import load

    model = load(cascade / "clip").model
    model.follows_autocast = True
    plain, mixed = both(lambda: model.encode_image(images()))
    assert not torch.equal(plain, mixed)


def near(count, dim=32):
    """Unit vectors around one: closer to each other than bfloat16 tells apart."""
    draw = torch.Generator().manual_seed(2)
    z = torch.ones(dim) + 0.02 * torch.randn(count, dim, generator=draw)
    return F.normalize(z, dim=1)


def test_figures_and_choices_during_training_are_those_of_evaluation():
    z, other = near(64), near(64).flip(0)
    captions = [str(k) for k in range(64)]
    assert_same(lambda: prior_metrics(z, other, z))
    assert_same(lambda: retrieval(z, near(64), captions))
    assert_same(lambda: best_of(z, near(32), 2))
    nothing = Caption(None, None, None)
    batch = PriorBatch(images(64), None, None, captions, captions)
    shown = both(lambda: [i.caption for i in judge(z, Pair(near(64), z, nothing), batch).images])
    assert shown[0] == shown[1]


def test_blurred_conditions_are_those_of_the_pipeline():
    assert_same(lambda: gaussian_blur(images(), kernel=3, sigma=0.6))
