"""What the loss of each kind of decoder depends on: z_i, z_t and the caption's own tokens."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unclip.common.errors import UserError
from unclip.config.load import load_experiment
from unclip.data.batches import DecoderBatch
from unclip.stages.clip.part import load as load_clip
from unclip.stages.decoder.stage import DecoderStage
from unclip.training.random import StepRandom

KINDS = {  # overrides: the parts of a batch that matter
    "": {"clip_image", "tokens"},
    "embedding=text": {"clip_tokens", "tokens"},
    "model.use_caption=false": {"clip_image"},
    "embedding=text model.use_caption=false": {"clip_tokens"},
    "model.use_z_i=false": {"tokens"},
}


@pytest.fixture(scope="module")
def clip(cascade):
    return load_clip(str(cascade / "clip"))


def some(seed: int) -> DecoderBatch:
    generator = torch.Generator().manual_seed(seed)
    return DecoderBatch(
        image=torch.rand(4, 3, 16, 16, generator=generator) * 2 - 1,
        clip_image=torch.rand(4, 3, 16, 16, generator=generator) * 2 - 1,
        clip_tokens=torch.randint(1, 40_000, (4, 16), generator=generator),
        tokens=torch.randint(1, 40_000, (4, 16), generator=generator),
        captions=["a", "b", "c", "d"],
        keys=["a", "b", "c", "d"],
    )


@pytest.mark.parametrize("overrides", KINDS)
@torch.no_grad()
def test_the_loss_depends_on_the_conditions_of_the_ablation_alone(
    minute_experiment, clip, overrides
):
    experiment = load_experiment(str(minute_experiment("decoder")), overrides.split()).config
    stage = DecoderStage(experiment, clip)
    net = stage.sampling_net
    for parameter in net.parameters():  # a fresh network is silent whatever it is given
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
    one, other, draws = some(0), some(1), StepRandom(0, 0)
    loss = stage.loss(net, one, draws, training=False)["loss"]
    for part in ("clip_image", "clip_tokens", "tokens"):
        changed = one._replace(**{part: getattr(other, part)})
        again = stage.loss(net, changed, draws, training=False)["loss"]
        assert torch.equal(again, loss) == (part not in KINDS[overrides]), part


def test_a_look_judges_every_decoder_by_the_real_image(minute_experiment, clip):
    batch = some(0)
    for overrides in KINDS:
        experiment = load_experiment(str(minute_experiment("decoder")), overrides.split()).config
        look = DecoderStage(experiment, clip).preview(batch)
        assert len(look.images) == 2 * len(batch.image)
        assert -1 <= look.metrics["clip_cosine"] <= 1


def test_an_embedding_needs_the_paths_by_which_it_enters(minute_experiment):
    path = str(minute_experiment("decoder"))
    with pytest.raises(UserError, match=r"embedding=.*must be one of image, text"):
        load_experiment(path, ["embedding=caption"])
    with pytest.raises(UserError, match=r"embedding=.*needs model\.use_z_i"):
        load_experiment(path, ["embedding=text", "model.use_z_i=false"])


def test_noise_turns_z_i_by_the_angle_asked_for(minute_experiment, clip):
    def stage(noise):
        experiment = load_experiment(
            str(minute_experiment("decoder")), [f"noise_z_i={noise}"]
        ).config
        return DecoderStage(experiment, clip)

    z_i = torch.nn.functional.normalize(torch.randn(2000, 64), dim=1)
    assert stage(0.0).jitter(z_i, StepRandom(0, 0)) is z_i
    turned = stage(0.5).jitter(z_i, StepRandom(0, 0))
    torch.testing.assert_close(turned.norm(dim=1), torch.ones(2000))
    cosine = (turned * z_i).sum(dim=1)
    assert cosine.mean().item() == pytest.approx(1 / (1 + 0.5**2) ** 0.5, abs=0.01)
    assert cosine.std() > 0.01  # each by its own draw
