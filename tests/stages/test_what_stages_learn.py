"""What each stage shows its network, what it wants of it, and which weights it asks."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.ndimage
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.common.types import Caption
from unclip.data.batches import ClipBatch, DecoderBatch, PriorBatch, UpsamplerBatch
from unclip.degradations.downsample import resize
from unclip.diffusion.schedules import full_schedule
from unclip.embeddings.clip import FrozenClip
from unclip.embeddings.codec import Codec
from unclip.embeddings.pca import Pca
from unclip.embeddings.quantizer import Quantizer
from unclip.nn.config import TextEncoderConfig, UNetConfig
from unclip.stages._prior.stage import Pair
from unclip.stages.ar_prior.config import ArPriorConfig, ArPriorExperiment
from unclip.stages.ar_prior.stage import ArPriorStage
from unclip.stages.clip.config import ClipConfig, ClipExperiment
from unclip.stages.clip.network import build_clip
from unclip.stages.clip.stage import ClipStage, contrastive_loss
from unclip.stages.decoder.config import DecoderExperiment
from unclip.stages.decoder.stage import DecoderStage
from unclip.stages.diffusion_prior.config import DiffusionPriorExperiment
from unclip.stages.diffusion_prior.stage import DiffusionPriorStage
from unclip.stages.laion_prior.config import LaionPriorExperiment
from unclip.stages.laion_prior.stage import LaionPriorStage
from unclip.stages.upsampler.config import UpsamplerExperiment
from unclip.stages.upsampler.stage import UpsamplerStage
from unclip.training.random import StepRandom

D, L, SIDE, BUCKETS, CODES = 16, 8, 16, 10, 3
PIXELS = 0.28890625  # the variance of ImageNet pixels in [-1, 1]
UNET = {"channels": 32, "blocks": 1, "multiples": [1], "attention": []}
TEXT = {"context": L, "width": 16, "layers": 1, "heads": 1}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def clip() -> FrozenClip:
    torch.manual_seed(0)
    config = ClipConfig(
        embed_dim=D,
        image_size=SIDE,
        patch_size=8,
        vision_width=16,
        vision_layers=1,
        vision_head_width=16,
        context=L,
        text_width=16,
        text_layers=1,
        text_heads=1,
    )
    model = build_clip(config).eval().requires_grad_(False)
    return FrozenClip(model, "fingerprint", "a test")


def pair(count: int) -> Pair:
    z_i, z_t = (F.normalize(normal(count, D, seed=seed), dim=1) for seed in (1, 2))
    mask = torch.ones(count, L, dtype=torch.bool)
    return Pair(z_i, z_t, Caption(torch.ones(count, L, dtype=torch.int64), None, mask))


def diffusion_prior(clip: FrozenClip, **changes) -> DiffusionPriorStage:
    experiment = DiffusionPriorExperiment(**changes)
    model = experiment.model
    model.width, model.layers, model.heads, model.context = 16, 1, 1, L
    experiment.sampler.steps = 2
    return DiffusionPriorStage(experiment, clip)


def laion_prior(clip: FrozenClip, **changes) -> LaionPriorStage:
    experiment = LaionPriorExperiment(**changes)
    model = experiment.model
    model.layers, model.heads, model.head_channels, model.context = 1, 1, 8, L
    experiment.sampler.steps = 2
    return LaionPriorStage(experiment, clip)


def codec() -> Codec:
    edges = torch.linspace(-0.4, 0.4, BUCKETS - 1)[None]
    centers = torch.linspace(-0.45, 0.45, BUCKETS)[None]
    own = Quantizer(edges.repeat(CODES, 1), centers.repeat(CODES, 1))
    pca = Pca(torch.zeros(D), torch.eye(D)[:CODES], torch.ones(D))
    dots = torch.linspace(-1, 1, 1001)
    return Codec(pca, own, Quantizer(edges, centers), dots)


def ar_prior(clip: FrozenClip, **changes) -> ArPriorStage:
    text = TextEncoderConfig(**TEXT)
    model = ArPriorConfig(context=CODES + 2, width=16, layers=1, heads=1, text=text)
    return ArPriorStage(ArPriorExperiment(model=model, **changes), clip, codec())


def decoder(clip: FrozenClip, **changes) -> DecoderStage:
    experiment = DecoderExperiment(**changes)
    model = experiment.model
    model.image_size, model.unet, model.text = SIDE, UNetConfig(**UNET), TextEncoderConfig(**TEXT)
    experiment.sampler.steps = 2
    return DecoderStage(experiment, clip)


def upsampler(clip: FrozenClip | None = None, **corruption) -> UpsamplerStage:
    experiment = UpsamplerExperiment()
    experiment.model.image_size, experiment.model.low_size = SIDE, SIDE // 4
    experiment.model.unet = UNetConfig(**UNET)
    experiment.sampler.steps = 2
    for name, value in corruption.items():
        setattr(experiment.corruption, name, value)
    return UpsamplerStage(experiment)


def pictures(count: int, side: int = SIDE) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(4)) * 2 - 1


def words(count: int) -> Tensor:
    tokens = torch.randint(1, 40_000, (count, L), generator=torch.Generator().manual_seed(5))
    tokens[:, -1] = 49407
    return tokens


def decoder_batch(count: int) -> DecoderBatch:
    names = ["a"] * count
    return DecoderBatch(pictures(count), pictures(count), words(count), words(count), names, names)


class Recorder:
    """In the place of a network: keeps what it is given, answers what it is told to."""

    def __init__(self, answer, net=None):
        self.answer, self.net = answer, net
        self.given: dict = {}

    def __call__(self, *inputs, **named):
        self.given = dict(enumerate(inputs)) | named
        return self.answer(self)

    def to_x0(self, z_i):
        return self.net.to_x0(z_i)


MANY = 4000


def share(keep: Tensor) -> float:
    return (~keep).float().mean().item()


def within(probability: float) -> float:
    return 4 * (probability * (1 - probability) / MANY) ** 0.5  # 4 standard errors


# --- diffusion prior ------------------------------------------------------------------------------


def test_a_prior_that_says_nothing_loses_the_variance_of_pixels(clip):
    """|scale z_i|² / D = 0.2889 whatever z_i is: at D = 1024 the scale is 17.2."""
    stage = diffusion_prior(clip)
    net = Recorder(lambda self: torch.zeros(50, D), stage.net)
    loss = stage.loss(net, pair(50), StepRandom(0, 0), training=True)["loss"]
    assert loss.item() == pytest.approx(PIXELS, rel=1e-5)


def test_a_prior_that_says_the_scaled_embedding_loses_nothing(clip):
    stage, given = diffusion_prior(clip), pair(50)
    scaled = math.sqrt(PIXELS * D) * given.z_i
    net = Recorder(lambda self: scaled, stage.net)
    losses = stage.loss(net, given, StepRandom(0, 0), training=True)
    assert losses["loss"].item() == pytest.approx(0, abs=1e-10)
    # And what it was shown of it is the level's signal and noise of unit variance.
    x_t, t = net.given["x_t"], net.given["t"]
    level = stage.schedule.alpha_bar[t][:, None].float()
    noise = (x_t - level.sqrt() * scaled) / (1 - level).sqrt()
    assert noise.mean().item() == pytest.approx(0, abs=4 / (50 * D) ** 0.5)
    assert noise.var().item() == pytest.approx(1, abs=4 * (2 / (50 * D)) ** 0.5)


def test_laions_prior_that_says_nothing_loses_one(clip):
    """|√D z_i|² / D = 1."""
    stage = laion_prior(clip)
    net = Recorder(lambda self: torch.zeros(50, D), stage.net)
    loss = stage.loss(net, pair(50), StepRandom(0, 0), training=True)["loss"]
    assert loss.item() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(("drop_text", "drop_x_t"), [(0.1, 0.3), (0.0, 1.0)])
def test_laions_prior_loses_text_and_noised_embedding_each_at_its_rate(drop_text, drop_x_t, clip):
    stage = laion_prior(clip, drop_text=drop_text, drop_x_t=drop_x_t)
    net = Recorder(lambda self: torch.zeros(MANY, D), stage.net)
    stage.loss(net, pair(MANY), StepRandom(0, 0), training=True)
    text, x_t = net.given["keep"], net.given["keep_x_t"]
    assert share(text) == pytest.approx(drop_text, abs=within(drop_text))
    assert share(x_t) == pytest.approx(drop_x_t, abs=within(drop_x_t))
    both = drop_text * drop_x_t
    assert share(text | x_t) == pytest.approx(both, abs=within(both))
    stage.loss(net, pair(MANY), StepRandom(0, 0), training=False)
    assert net.given["keep"].all()
    assert net.given["keep_x_t"].all()


PRIORS = pytest.mark.parametrize("make", [diffusion_prior, ar_prior, laion_prior])


def silent(make, count):
    shape = (count, CODES, BUCKETS) if make is ar_prior else (count, D)
    return lambda self: torch.zeros(shape)


@PRIORS
@pytest.mark.parametrize("drop_text", [0.0, 0.1, 1.0])
def test_the_share_drop_text_is_trained_without_text_and_none_is_validated_so(
    make, drop_text, clip
):
    stage = make(clip, drop_text=drop_text)
    net = Recorder(silent(make, MANY), stage.net)
    stage.loss(net, pair(MANY), StepRandom(0, 0), training=True)
    assert share(net.given["keep"]) == pytest.approx(drop_text, abs=within(drop_text))
    stage.loss(net, pair(MANY), StepRandom(0, 0), training=False)
    assert net.given["keep"].all()


@PRIORS
def test_a_prior_is_given_the_text_of_each_sample(make, clip):
    stage, given = make(clip), pair(5)
    net = Recorder(silent(make, 5), stage.net)
    stage.loss(net, given, StepRandom(0, 0), training=True)
    assert torch.equal(net.given["z_t"], given.z_t)
    assert net.given["caption"] is given.caption


# --- autoregressive prior -------------------------------------------------------------------------


def test_codes_cost_the_logarithm_of_their_number_where_nothing_is_known(clip):
    stage = ar_prior(clip)
    net = Recorder(silent(ar_prior, 50), stage.net)
    loss = stage.loss(net, pair(50), StepRandom(0, 0), training=True)["loss"]
    assert loss.item() == pytest.approx(math.log(BUCKETS), rel=1e-5)


def test_codes_that_are_known_cost_nothing_and_z_i_and_the_dot_are_their_buckets(clip):
    stage, given = ar_prior(clip), pair(50)
    codes = torch.bucketize(given.z_i[:, :CODES].contiguous(), torch.linspace(-0.4, 0.4, 9))
    net = Recorder(lambda self: 50.0 * F.one_hot(codes, BUCKETS), stage.net)
    loss = stage.loss(net, given, StepRandom(0, 0), training=True)["loss"]
    assert loss.item() == pytest.approx(0, abs=1e-6)
    assert torch.equal(net.given[0], codes)
    dots = torch.bucketize((given.z_i * given.z_t).sum(dim=1), torch.linspace(-0.4, 0.4, 9))
    assert torch.equal(net.given["dot"], dots)


# --- decoder --------------------------------------------------------------------------------------


def decoder_net(count: int) -> Recorder:
    return Recorder(lambda self: torch.zeros(count, 6, *self.given["x_t"].shape[2:]))


@pytest.mark.parametrize(("drop_z_i", "drop_caption"), [(0.1, 0.5), (0.7, 0.2), (0.0, 1.0)])
def test_the_decoders_conditions_are_dropped_each_at_its_rate(drop_z_i, drop_caption, clip):
    stage = decoder(clip, drop_z_i=drop_z_i, drop_caption=drop_caption)
    batch = decoder_batch(2)
    few = batch._replace(image=torch.zeros(MANY, 3, 1, 1), tokens=batch.tokens[:1].expand(MANY, L))
    few = few._replace(z_i=pair(MANY).z_i)
    net = decoder_net(MANY)
    stage.loss(net, few, StepRandom(0, 0), training=True)
    keep_z_i, keep_text = net.given["keep_z_i"], net.given["keep_text"]
    assert share(keep_z_i) == pytest.approx(drop_z_i, abs=within(drop_z_i))
    assert share(keep_text) == pytest.approx(drop_caption, abs=within(drop_caption))
    both = drop_z_i * drop_caption
    assert share(keep_z_i | keep_text) == pytest.approx(both, abs=within(both))
    stage.loss(net, few, StepRandom(0, 0), training=False)
    assert net.given["keep_z_i"].all()
    assert net.given["keep_text"].all()


@pytest.mark.parametrize("noise_z_i", [0.0, 0.5])
def test_z_i_is_turned_in_training_alone(noise_z_i, clip):
    stage = decoder(clip, noise_z_i=noise_z_i)
    batch = decoder_batch(2)._replace(image=torch.zeros(MANY, 3, 1, 1), z_i=pair(MANY).z_i)
    batch = batch._replace(tokens=batch.tokens[:1].expand(MANY, L))
    net = decoder_net(MANY)
    stage.loss(net, batch, StepRandom(0, 0), training=True)
    # |noise| = n on the average, at right angles but for 1/D of it.
    cosine = (net.given["z_i"] * batch.z_i).sum(dim=1)
    expected = 1 / math.sqrt(1 + noise_z_i**2 * (1 - 1 / D))
    assert cosine.mean().item() == pytest.approx(expected, abs=0.02)
    stage.loss(net, batch, StepRandom(0, 0), training=False)
    torch.testing.assert_close(net.given["z_i"], batch.z_i)


def test_the_decoder_is_given_clips_embedding_and_the_captions_own_tokens(clip):
    stage, batch, net = decoder(clip), decoder_batch(4), decoder_net(4)
    stage.loss(net, batch, StepRandom(0, 0), training=True)
    torch.testing.assert_close(net.given["z_i"], clip.model.encode_image(batch.clip_image))
    assert torch.equal(net.given["tokens"], batch.tokens)
    assert net.given["mask"].all()  # the end of text is the last token


@pytest.mark.parametrize("make", [decoder, upsampler])
def test_a_network_that_says_the_noise_loses_the_bound_of_the_variance_alone(make, clip):
    stage = make(clip)
    batch = decoder_batch(6) if make is decoder else UpsamplerBatch(pictures(6), [], [])
    table = full_schedule(stage.experiment.diffusion).alpha_bar

    def answer(self):
        level = table[self.given["t"]][:, None, None, None]
        noise = (self.given["x_t"].double() - level.sqrt() * batch.image) / (1 - level).sqrt()
        return torch.cat([noise, torch.zeros_like(noise)], dim=1).float()

    losses = stage.loss(Recorder(answer), batch, StepRandom(0, 0), training=True)
    assert losses["mse"].item() == pytest.approx(0, abs=1e-6)
    assert losses["vb"] > 0
    assert losses["loss"].item() == pytest.approx(losses["vb"].item(), rel=1e-4)  # T/1000 = 1
    stage.experiment.diffusion.vb_weight = 0.0
    losses = stage.loss(Recorder(answer), batch, StepRandom(0, 0), training=True)
    assert losses["loss"].item() == pytest.approx(0, abs=1e-6)


# --- upsampler ------------------------------------------------------------------------------------


def condition_seen(stage: UpsamplerStage, image: Tensor, training: bool = True) -> Tensor:
    net = Recorder(lambda self: torch.zeros(len(image), 6, *image.shape[2:]))
    batch = UpsamplerBatch(image, [], [])
    stage.loss(net, batch, StepRandom(0, 0), training=training)
    return net.given["low"]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("kernel", "sigma"), [(3, 0.6), (5, 1.5), (1, 0.6)])
def test_the_upsampler_sees_the_small_picture_through_the_gaussian(kernel, sigma, training):
    stage = upsampler(kind="blur", kernel=kernel, sigma=sigma)
    image = pictures(2, 32)
    taps = np.exp(-0.5 * ((np.arange(kernel) - kernel // 2) / sigma) ** 2)
    blurred = resize(image, 8).numpy()
    for axis in (2, 3):
        blurred = scipy.ndimage.convolve1d(blurred, taps / taps.sum(), axis, mode="nearest")
    found = condition_seen(stage, image, training)
    torch.testing.assert_close(found, torch.from_numpy(blurred), atol=1e-5, rtol=0)


def test_the_upsampler_sees_the_clean_small_picture_where_nothing_corrupts_it():
    image = pictures(2, 32)
    assert torch.equal(condition_seen(upsampler(kind="none"), image), resize(image, 8))


@pytest.mark.parametrize("kind", ["blur", "bsr", "bsr_light"])
@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_the_share_probability_of_conditions_is_corrupted(kind, probability):
    count = 300
    image = pictures(count)
    found = condition_seen(upsampler(kind=kind, probability=probability), image)
    corrupted = (found != resize(image, SIDE // 4)).flatten(1).any(dim=1)
    error = 4 * (probability * (1 - probability) / count) ** 0.5
    assert corrupted.float().mean().item() == pytest.approx(probability, abs=error)


@pytest.mark.parametrize("levels", [0, 400])
def test_the_condition_has_the_noise_of_the_level_that_the_network_is_told(levels):
    stage = upsampler(kind="none")
    stage.experiment.model.noise_levels = levels
    count = 400
    image = torch.full((count, 3, SIDE, SIDE), 0.25)
    net = Recorder(lambda self: torch.zeros(count, 6, SIDE, SIDE))
    stage.loss(net, UpsamplerBatch(image, [], []), StepRandom(0, 0), training=True)
    low, told = net.given["low"], net.given["level"]
    if not levels:
        assert told is None
        torch.testing.assert_close(low, torch.full_like(low, 0.25))
        return
    assert told.min() >= 0
    assert told.max() < levels
    spread = levels / 12**0.5
    assert told.float().mean().item() == pytest.approx(levels / 2, abs=4 * spread / count**0.5)
    level = stage.schedule.alpha_bar[told][:, None, None, None].float()
    noise = ((low - level.sqrt() * 0.25) / (1 - level).sqrt()).flatten()
    assert noise.mean().item() == pytest.approx(0, abs=4 / len(noise) ** 0.5)
    assert noise.var().item() == pytest.approx(1, abs=4 * (2 / len(noise)) ** 0.5)


# --- clip -----------------------------------------------------------------------------------------


def test_the_contrastive_loss_asks_both_for_the_picture_and_for_the_text():
    """Two pictures at right angles, and the first one's text twice."""
    z_i, z_t, scale = torch.eye(2), torch.eye(2)[[0, 0]], 3.0
    by_image = math.log(2)  # each picture finds both texts alike
    by_text = scale / 2 + math.log1p(math.exp(-scale))  # both texts find the first picture
    found = contrastive_loss(z_i, z_t, torch.tensor(scale)).item()
    assert found == pytest.approx((by_image + by_text) / 2, rel=1e-6)
    swapped = contrastive_loss(z_t, z_i, torch.tensor(scale)).item()
    assert swapped == pytest.approx(found, rel=1e-6)


def test_the_similarities_of_clip_are_scaled_by_its_temperature(clip):
    """Which is learned as its logarithm, from 1/0.07."""
    experiment = ClipExperiment()
    experiment.model = ClipConfig(
        embed_dim=D,
        image_size=SIDE,
        patch_size=8,
        vision_width=16,
        vision_layers=1,
        vision_head_width=16,
        context=L,
        text_width=16,
        text_layers=1,
        text_heads=1,
    )
    stage = ClipStage(experiment)
    batch = ClipBatch(pictures(4), words(4), ["a", "b", "c", "d"], ["a", "b", "c", "d"])
    scale = stage.net.model.logit_scale
    assert stage.embed(batch).scale.item() == pytest.approx(1 / 0.07, rel=1e-5)
    nn.init.constant_(scale, math.log(5.0))
    z_i, z_t, found = stage.embed(batch)
    assert found.item() == pytest.approx(5.0, rel=1e-5)
    torch.testing.assert_close(z_i.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(z_t.norm(dim=1), torch.ones(4))


# --- which weights --------------------------------------------------------------------------------


def prior_batch(count: int) -> PriorBatch:
    names = ["a"] * count
    return PriorBatch(pictures(count), words(count), words(count), names, names)


STAGES = {
    "diffusion_prior": (diffusion_prior, prior_batch),
    "ar_prior": (ar_prior, prior_batch),
    "laion_prior": (laion_prior, prior_batch),
    "decoder": (decoder, decoder_batch),
    "upsampler": (upsampler, lambda count: UpsamplerBatch(pictures(count), ["a"] * count, [])),
}


def spoiled(net: nn.Module) -> None:
    for parameter in net.parameters():
        nn.init.constant_(parameter, float("nan"))


@pytest.fixture(params=STAGES)
def alone(request, clip, monkeypatch):
    """A stage without a trainer, a batch, and what it logs."""
    make, batch = STAGES[request.param]
    stage, logged = make(clip), {}
    monkeypatch.setattr(stage, "rng", lambda batch_idx: StepRandom(0, 0))
    monkeypatch.setattr(
        stage, "log_loss", lambda split, values, size: logged.update({split: values})
    )
    return SimpleNamespace(stage=stage, batch=batch(4), logged=logged)


def test_training_asks_the_network_and_not_the_average(alone):
    spoiled(alone.stage.ema)
    loss = alone.stage.training_step(alone.batch, 0)
    assert loss.isfinite()
    assert torch.equal(alone.logged["train"]["loss"], loss)
    loss.backward()
    assert any(p.grad is not None and p.grad.any() for p in alone.stage.net.parameters())
    assert all(p.grad is None for p in alone.stage.ema.parameters())


@torch.no_grad()
def test_validation_samples_and_artifacts_are_of_the_average(alone):
    spoiled(alone.stage.net)
    alone.stage.validation_step(alone.batch, 0)
    assert alone.logged["val"]["loss"].isfinite()
    assert all(math.isfinite(value) for value in alone.stage.preview(alone.batch).metrics.values())
    assert all(math.isfinite(each.value) for each in alone.stage.overfit_scores(alone.batch))
    exported = alone.stage.weights()
    assert all(tensor.isfinite().all() for tensor in exported.values())
    assert set(exported) == set(alone.stage.net.state_dict())


def test_the_average_starts_as_the_network_and_never_drops_out(alone):
    stage = alone.stage
    for own, average in zip(stage.net.parameters(), stage.ema.parameters(), strict=True):
        assert torch.equal(own, average)
        assert own is not average
        assert not average.requires_grad
    stage.train()
    assert all(module.training for module in stage.net.modules())
    assert not any(module.training for module in stage.ema.modules())


@torch.no_grad()
def test_validation_loses_the_same_every_time_and_draws_of_its_own_for_each_batch(alone):
    losses = []
    for number in (0, 1, 0):
        alone.stage.validation_step(alone.batch, number)
        losses.append(alone.logged["val"]["loss"].item())
    assert losses[0] == losses[2]
    if not isinstance(alone.stage, ArPriorStage):  # which draws nothing
        assert losses[0] != losses[1]
