"""The decoder's ablations from training to image: which need a prior, and which must not."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch

from unclip.cli import main
from unclip.common.errors import UserError
from unclip.config.load import load_experiment
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import Settings
from unclip.runs.train import train

WITHOUT_PRIOR = {"glide": ["model.use_z_i=false"], "text": ["embedding=text"]}


@pytest.fixture(scope="module")
def folders(cascade, minute_experiment, tmp_path_factory):
    """A cascade without a prior around each kind of decoder."""
    root = tmp_path_factory.mktemp("ablations")
    for kind, overrides in WITHOUT_PRIOR.items():
        for part in ("clip", "upsampler"):
            shutil.copytree(cascade / part / "artifact", root / kind / part)
        given = [f"run.dir={root / kind / 'decoder'}", f"clip={cascade / 'clip'}", *overrides]
        train(load_experiment(str(minute_experiment("decoder")), given))
    return root


@pytest.mark.parametrize("kind", WITHOUT_PRIOR)
def test_a_image_comes_of_the_caption_without_a_prior(folders, kind):
    pipeline = Pipeline.load(folders / kind)
    assert pipeline.cascade.prior is None
    seen = []
    found = pipeline.generate(["a red circle"], [3], progress=lambda *call: seen.append(call))
    assert found.image.shape == (1, 3, 32, 32)
    assert found.z_i is None
    assert seen == [(k, 8) for k in range(1, 9)]
    other = pipeline.generate(["a blue star"], [3])
    assert not torch.equal(found.small, other.small)


def test_z_t_goes_straight_into_the_text_decoder(folders):
    pipeline = Pipeline.load(folders / "text")
    pipeline = Pipeline(replace(pipeline.cascade, upsamplers=()))
    plain = pipeline.generate(["a red circle"], [0]).image
    given, condition = [], pipeline.cascade.decoder.net.condition

    def spy(**conditions):
        given.append(conditions["z_i"])
        return condition(**conditions)

    pipeline.cascade.decoder.net.condition = spy
    assert torch.equal(pipeline.generate(["a red circle"], [0]).image, plain)
    clip = pipeline.cascade.clip.model
    z_t = clip.encode_text(clip.tokenize(["a red circle"])).z_t
    assert len(given) == 2  # with and, for guidance, without
    for z in given:
        torch.testing.assert_close(z, z_t)


def test_a_decoder_of_image_embeddings_needs_a_prior_to_draw_captions(cascade, tmp_path):
    for part in ("clip", "decoder"):
        shutil.copytree(cascade / part / "artifact", tmp_path / part)
    with pytest.raises(UserError, match="prior: this cascade has none"):
        Pipeline.load(tmp_path).generate(["a"], [0])


@pytest.mark.parametrize("kind", WITHOUT_PRIOR)
def test_a_prior_that_would_play_no_part_is_refused(folders, cascade, kind, tmp_path, capsys):
    pipeline = Pipeline.load(folders / kind)
    with pytest.raises(UserError, match=r"prior\.guidance: this cascade has no prior"):
        pipeline.generate(["a"], [0], settings=Settings({"prior": {"guidance": 2.0}}))
    words = ["sample", "a", "--pipeline", str(folders / kind), "--out", str(tmp_path)]
    assert main([*words, "--prior", str(cascade / "prior")]) == 2
    error = capsys.readouterr().err.strip()
    assert "takes no image embeddings" in error
    assert len(error.splitlines()) == 1
    assert main(words) == 0
    assert (tmp_path / "a_seed0.png").is_file()


def test_the_prior_of_a_folder_is_left_alone_where_the_decoder_takes_z_t(
    folders, cascade, tmp_path
):
    parts = {"clip": str(cascade / "clip"), "prior": cascade / "prior"}
    pipeline = Pipeline.from_artifacts(decoder=folders / "text" / "decoder", **parts)
    assert pipeline.cascade.prior is None
