"""The upsamplers: a large image from a small, corrupted one (paper, section 2.1)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from data_modules.upsampler import UpsamplerData
from unclip.common.images import CaptionedImage, to_uint8
from unclip.common.seeding import SampleNoise
from unclip.common.upload import upload
from unclip.data.batches import UpsamplerBatch
from unclip.degradations.blur import gaussian_blur
from unclip.degradations.bsr_parameters import UNIFORMS, VARIANTS
from unclip.degradations.downsample import corrupt, resize
from unclip.diffusion.process import q_sample
from unclip.embeddings.gpt2 import mask_of, ready, tokenizer_of
from unclip.stages._diffusion.stage import DiffusionStage
from unclip.stages.experiment import ParentSizes
from unclip.stages.interface import LoadedParents
from unclip.stages.upsampler.config import UpsamplerExperiment
from unclip.stages.upsampler.network import Upsampler, as_8_bit, build_network
from unclip.stages.upsampler.sampling import UpsamplerPart
from unclip.training import strategies
from unclip.training.random import StepRandom
from unclip.training.stage import Monitor, Preview, Score

PREVIEW = 8  # validation samples that are upsampled


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio ``[B]`` in dB of images in [-1, 1] (peak to peak 2)."""
    return 10 * torch.log10(4 / ((a - b) ** 2).flatten(1).mean(1).clamp(min=1e-12))


def pooled_psnr(a: Tensor, b: Tensor) -> float:
    """PSNR in dB of the mean squared error over the whole batch."""
    return psnr(a.flatten()[None], b.flatten()[None]).item()


class UpsamplerStage(DiffusionStage):
    """Trains an `Upsampler` on crops whose low-resolution condition is made on the device."""

    monitor: ClassVar[Monitor] = Monitor("val/psnr", "higher")

    def __init__(self, experiment: UpsamplerExperiment):
        with strategies.building(experiment.trainer):
            net = build_network(experiment, ParentSizes())
        super().__init__(experiment, net)

    def low(self, image: Tensor) -> Tensor:
        """The small image of a crop ``[B, 3, H, H]``, clean: ``[B, 3, h, h]``."""
        model = self.experiment.model
        return resize(image, image.shape[-1] * model.low_size // model.image_size)

    def condition(self, image: Tensor, rng: StepRandom) -> Tensor:
        """The small images of crops ``[B, 3, H, H]`` as training shows them to the network."""
        low, corruption = self.low(image), self.experiment.corruption
        if corruption.kind not in VARIANTS:
            return self.corrupt(low, rng)
        on_cpu = replace(rng, device="cpu")  # to plan by; reading back would make a GPU wait
        uniforms = on_cpu.uniform("bsr", len(image), UNIFORMS)
        clean = on_cpu.keep("corruption", len(image), corruption.probability)
        noise = rng.normal("bsr_noise", image.shape)
        rows = clean.logical_not().nonzero()[:, 0]
        there = upload(rows, image.device)
        bad = corrupt(
            image[there], low.shape[-1], corruption, uniforms=uniforms[rows], noise=noise[there]
        )
        return low.index_copy_(0, there, bad)

    def corrupt(self, low: Tensor, rng: StepRandom) -> Tensor:
        """``low`` with the blur of ``corruption``, each sample by its own draw.

        A network that only ever saw blurred conditions undoes the blur where there is none, and
        oversharpens. Blur as augmentation of the condition: cascaded diffusion, arXiv 2106.15282.
        """
        corruption = self.experiment.corruption
        if corruption.kind == "none":
            return low
        blurred = gaussian_blur(low, kernel=corruption.kernel, sigma=corruption.sigma)
        clean = rng.keep("corruption", len(low), corruption.probability)
        return torch.where(clean[:, None, None, None], low, blurred)

    def loss(
        self, net: Upsampler, batch: UpsamplerBatch, rng: StepRandom, *, training: bool
    ) -> dict[str, Tensor]:
        """Hybrid loss given the corrupted condition."""
        at = self.add_noise(batch.image, rng, training=training)
        low = self.condition(at.x0, rng)
        if self.experiment.model.low_8_bit:
            low = as_8_bit(low)
        low, level = self.add_noise_to_low(low, rng)
        drop = self.experiment.drop_caption if training else 0.0
        text = None
        if batch.tokens is not None:
            keep = rng.keep("drop_caption", len(low), drop)
            text = (batch.tokens, mask_of(self.experiment.model, batch.tokens), keep)
        given = {"x_t": at.x_t, "t": at.t, "low": low, "level": level}
        known = self.known(at.x0, rng)
        output, taught = self.asked(net, batch.keys, **given, known=known, text=text)
        return self.losses(output, at, taught)

    @staticmethod
    def ask(net: Any, **given: Any) -> Tensor:
        """See `DiffusionStage.ask`; each network reads the captions itself."""
        text = given.pop("text")
        return net(**given, words=None if text is None else net.read(*text))

    def add_noise_to_low(self, low: Tensor, rng: StepRandom) -> tuple[Tensor, Tensor | None]:
        """``low`` at drawn noise levels, and these ``[B]``, if the network is told them."""
        levels = self.experiment.model.noise_levels
        if not levels:
            return low, None
        level = (rng.uniform("noise_level", len(low)) * levels).long()
        noise = rng.normal("low_noise", low.shape)
        return q_sample(low, noise, level, schedule=self.schedule), level

    def training_step(self, batch: UpsamplerBatch, batch_idx: int) -> Tensor:
        """One micro-batch of crops."""
        net: Upsampler = self.net  # type: ignore[assignment]
        values = self.loss(net, batch, self.rng(batch_idx), training=True)
        self.log_loss("train", values, len(batch.image))
        return values["loss"]

    def validation_step(self, batch: UpsamplerBatch, batch_idx: int) -> None:
        """The same loss with the averaged weights and the same noise every time."""
        rng = self.validation_rng(batch_idx)
        values = self.loss(self.sampling_net, batch, rng, training=False)
        self.log_loss("val", values, len(batch.image))

    def preview(self, batch: UpsamplerBatch) -> Preview:
        """Clean small images upsampled, beside bicubic and the truth."""
        image = batch.image[:PREVIEW]
        bicubic = resize(self.low(image), image.shape[-1])
        ours = self.upsampled(image, batch.captions[:PREVIEW], 0)
        found, plain = psnr(ours, image), psnr(bicubic, image)
        images = []
        for k in range(len(image)):
            images.append(CaptionedImage(to_uint8(bicubic[k]), f"bicubic {plain[k]:.1f} dB"))
            images.append(CaptionedImage(to_uint8(ours[k]), f"ours {found[k]:.1f} dB", k))
            images.append(CaptionedImage(to_uint8(image[k]), "real"))
        # Of the pooled error: a mean of decibels is ruled by patches that are blank.
        return Preview(
            images, {"psnr": pooled_psnr(ours, image), "psnr_bicubic": pooled_psnr(bicubic, image)}
        )

    def sampled(self, batch: UpsamplerBatch, first: int) -> Tensor:
        """See `Stage.sampled`."""
        return self.upsampled(batch.image, batch.captions, first)

    def upsampled(self, image: Tensor, captions: list[str], first: int) -> Tensor:
        """Images ``[B, 3, H, H]`` reduced and enlarged again; the noise is that from ``first``."""
        part = UpsamplerPart(
            self.sampling_net,
            self.experiment.sampler,
            self.experiment.diffusion,
            tokenizer_of(self.experiment.model),
        )
        noise = SampleNoise(range(first, first + len(image)))
        return part.draw(self.low(image), noise, size=image.shape[-1], captions=captions)

    def overfit_scores(self, batch: UpsamplerBatch) -> list[Score]:
        """The crops come out better than by bicubic interpolation."""
        found = self.preview(batch).metrics
        return [Score("PSNR in dB against bicubic", found["psnr"], found["psnr_bicubic"])]


def build_stage(experiment: UpsamplerExperiment, parents: LoadedParents) -> UpsamplerStage:
    """See `unclip.stages.row.Row`."""
    return UpsamplerStage(experiment)


def data_module(experiment: UpsamplerExperiment, clip: None = None) -> UpsamplerData:
    """See `unclip.stages.row.Row`."""
    model = experiment.model
    return UpsamplerData(
        experiment.data,
        image_size=experiment.model.image_size,
        tokenize=ready(tokenizer_of(model)) if model.use_caption else None,
        seed=experiment.trainer.seed,
        accumulate=experiment.trainer.accumulate,
    )
