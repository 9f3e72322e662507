"""Networks that were trained to inpaint are told what is known; RePaint is for any others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from unclip import Pipeline
from unclip.common.errors import UserError
from unclip.config.load import load_experiment
from unclip.pipeline.cascade import load_cascade
from unclip.pipeline.settings import Settings
from unclip.runs.train import train
from unclip.stages._diffusion.known import Known, known_channels, random_keep


@pytest.fixture(scope="module")
def pipeline(cascade, minute_experiment, tmp_path_factory) -> Pipeline:
    root = tmp_path_factory.mktemp("inpainting")
    for kind in ("decoder", "upsampler"):
        given = [f"run.dir={root / kind}", "model.inpaint=true"]
        given += [f"clip={cascade / 'clip'}"] if kind == "decoder" else []
        train(load_experiment(str(minute_experiment(kind)), given))
    return Pipeline(
        load_cascade(
            clip=str(cascade / "clip"),
            prior=cascade / "prior",
            decoder=root / "decoder",
            upsamplers=[root / "upsampler"],
        )
    )


def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


def left_half() -> np.ndarray:
    keep = np.zeros((32, 32), dtype=bool)
    keep[:, :16] = True
    return keep


def spied(pipeline: Pipeline) -> tuple[list, list]:
    decoder, upsampler = [], []
    cascade = pipeline.cascade
    hooks = [(cascade.decoder.net.unet, decoder), (cascade.upsamplers[0].net.unet, upsampler)]
    for net, seen in hooks:
        net._forward_hooks.clear()
        net.register_forward_hook(lambda module, args, out, seen=seen: seen.append(args[0]))
    return decoder, upsampler


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "heun"])
def test_every_network_is_told_what_is_known_in_its_own_size(pipeline, sampler):
    decoder, upsampler = spied(pipeline)
    settings = Settings({"decoder": {"sampler": sampler}})
    found = pipeline.inpaint([photo()], [left_half()], ["a star"], [0], settings=settings)
    assert len(decoder) == (7 if sampler == "heun" else 4)  # no RePaint
    for seen in decoder:  # reducing the image mixes two columns with the hole's
        assert torch.equal(seen[:, 3:6, :, :6], found.small[..., :6].expand(2, -1, -1, -1))
        assert seen[:, 6, :, :6].all()
        assert not seen[:, 3:, :, 8:].any()
    for seen in upsampler:
        assert torch.equal(seen[:, 3:6, :, :16], found.image[..., :16])
        assert seen[:, 6, :, :16].all()
        assert not seen[:, 3:7, :, 16:].any()


def test_repaint_is_used_if_asked_for(pipeline):
    decoder, _ = spied(pipeline)
    pipeline.inpaint([photo()], [left_half()], ["a star"], [0], resample=2)
    assert len(decoder) == 2 * 3 + 1
    heun = Settings({"decoder": {"sampler": "heun"}})
    with pytest.raises(UserError, match="sampler=heun: cannot inpaint"):
        pipeline.inpaint([photo()], [left_half()], ["a star"], [0], resample=2, settings=heun)


def test_without_a_mask_nothing_is_known(pipeline):
    decoder, upsampler = spied(pipeline)
    pipeline.generate(["a star"], [0])
    assert not any(seen[:, 3:7].any() for seen in decoder + upsampler)


def test_x0_is_the_known_one_where_it_is_known(pipeline):
    part = pipeline.cascade.decoder
    part = replace(part, sampler=replace(part.sampler, clip="none"))
    predictor = part.predictor(torch.randn(2, 16), ["a", "b"], part.sampler)
    known, keep = torch.randn(2, 3, 16, 16), torch.rand(2, 1, 16, 16) < 0.5
    x = torch.randn(2, 3, 16, 16)
    plain, told = predictor(x, 2), replace(predictor, known=(known, keep))(x, 2)
    assert torch.equal(told.x0, torch.where(keep, known, plain.x0))
    alpha_bar = predictor.schedule.alpha_bar[2].float()
    again = alpha_bar.sqrt() * told.x0 + (1 - alpha_bar).sqrt() * told.eps
    torch.testing.assert_close(again, x, rtol=0, atol=1e-4)


def test_training_masks_are_rectangles_and_sometimes_all():
    keep = random_keep(torch.rand(4000, 5, generator=torch.Generator().manual_seed(0)), 8)
    hole = ~keep[:, 0]
    assert hole.flatten(1).all(dim=1).float().mean().item() == pytest.approx(0.25, abs=0.05)
    rows, columns = hole.any(dim=2), hole.any(dim=1)
    assert torch.equal(hole, rows[:, :, None] & columns[:, None, :])
    for axis in (rows, columns):  # without gaps
        assert ((axis[:, 1:] & ~axis[:, :-1]).sum(dim=1) <= 1).all()
    often = hole.float().mean(dim=0)
    torch.testing.assert_close(often, often.flip(0), rtol=0, atol=0.05)
    image = torch.randn(4000, 3, 8, 8)
    known = known_channels(image, keep)
    assert torch.equal(known[:, :3], image * keep)
    assert torch.equal(known[:, 3:].bool(), keep)


def test_repaint_leaves_x0_to_the_network(pipeline):
    part = pipeline.cascade.decoder
    known = Known(torch.zeros(1, 3, 16, 16), torch.ones(1, 1, 16, 16, dtype=torch.bool), 2)
    z, captions = torch.randn(1, 16), ["a"]
    assert part.predictor(z, captions, part.sampler, known).known is None
    trained = known._replace(resample=None)
    assert part.predictor(z, captions, part.sampler, trained).known is not None
