"""What stands for a dropped text in priors: zeros and padding, or the embedded empty caption."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from torch import Tensor

from unclip.common.seeding import SampleNoise
from unclip.common.types import Caption
from unclip.config.load import load_experiment
from unclip.pipeline.cascade import load_part
from unclip.runs.parents import parents
from unclip.runs.train import assemble, train
from unclip.stages._prior.null_text import NullText, told
from unclip.stages.clip.part import load as load_clip
from unclip.training.random import StepRandom

B, D, L, X = 4, 6, 5, 3
KEEP = torch.tensor([True, False, True, False])


def caption(rows: int, kind: str, seed: int) -> Caption:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(L).expand(rows, L) <= seed
    if kind == "bpe":
        return Caption(torch.randint(1, 50, (rows, L), generator=generator), None, mask)
    return Caption(None, torch.randn(rows, L, X, generator=generator), mask)


def z_t_of(rows: int, seed: int) -> Tensor:
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", ["bpe", "clip"])
def test_rows_that_are_dropped_become_the_empty_caption_and_others_stay(kind):
    text, null = caption(B, kind, 3), NullText(z_t_of(1, 8), caption(1, kind, 1))
    z_t = z_t_of(B, 9)
    found = told(z_t, text, KEEP, null)
    assert found["keep"] is None
    pairs = [(z_t, null.z_t, found["z_t"]), *zip(text, null.caption, found["caption"])]
    for own, empty, seen in pairs:
        assert (own is None) == (seen is None)
        if own is not None:
            assert torch.equal(seen[KEEP], own[KEEP])
            assert torch.equal(seen[~KEEP], empty.expand_as(own)[~KEEP])


def test_without_an_empty_caption_the_network_drops_by_itself():
    z_t, text = z_t_of(B, 9), caption(B, "bpe", 3)
    assert told(z_t, text, KEEP, None) == {"z_t": z_t, "caption": text, "keep": KEEP}


@pytest.fixture(scope="module", params=[("prior", "clip"), ("ar_prior", "clip"), ("prior", "bpe")])
def part(request, cascade, tmp_path_factory, minute_experiment):
    """A prior with ``null_text: caption``, its CLIP and the same without."""
    kind, reads = request.param
    clip = load_clip(cascade / "clip")
    folder = cascade / kind / "artifact"
    if reads == "bpe":
        words = [f"clip={cascade / 'clip'}", "model.caption=bpe", "model.context=9"]
        run = tmp_path_factory.mktemp("bpe") / "run"
        folder = train(load_experiment(str(minute_experiment(kind)), [*words, f"run.dir={run}"]))
        folder = folder.artifact
    changed = shutil.copytree(folder, tmp_path_factory.mktemp("null") / kind)
    config = yaml.safe_load((changed / "config.yaml").read_text())
    config["model"]["null_text"] = "caption"
    (changed / "config.yaml").write_text(yaml.safe_dump(config))
    return load_part("prior", changed, clip), clip.model, load_part("prior", folder, clip)


def drawn(part, clip, captions, guidance) -> Tensor:
    sampler = replace(part.sampler, guidance=guidance, candidates=1)
    return part.draw(clip, captions, SampleNoise([3, 4]), sampler=sampler)


def test_guidance_goes_from_the_empty_caption_to_the_caption(part):
    ours, clip, padded = part
    captions = ["a red circle", "a blue square"]
    for guidance, same in ((0.0, ["", ""]), (1.0, captions)):
        found = drawn(ours, clip, captions, guidance)
        torch.testing.assert_close(found, drawn(ours, clip, same, 1.0), atol=1e-5, rtol=0)
    assert padded.null is None
    without = drawn(padded, clip, captions, 0.0)
    assert (without - drawn(ours, clip, captions, 0.0)).abs().max() > 1e-4


def test_the_empty_caption_is_clips(part):
    ours, clip, _ = part
    text = clip.encode_text(clip.tokenize([""]))
    assert torch.equal(ours.null.z_t, text.z_t)
    assert ours.null.caption.mask.sum() == 2  # its start and its end
    if ours.null.caption.features is not None:
        assert torch.equal(ours.null.caption.features, text.tokens)
    else:
        assert torch.equal(ours.null.caption.tokens, ours.tokenize([""]))


@pytest.mark.parametrize("kind", ["prior", "ar_prior"])
def test_training_shows_the_network_the_empty_caption_where_a_text_is_dropped(
    kind, cascade, minute_experiment, monkeypatch
):
    words = [f"clip={cascade / 'clip'}", "model.null_text=caption", "drop_text=0.5"]
    words += [f"pca={cascade / 'pca'}"] if kind == "ar_prior" else []
    resolved = load_experiment(str(minute_experiment(kind)), [*words, "data.batch_size=32"])
    data, stage, _ = assemble(resolved, parents(resolved))
    pair = stage.encode(next(iter(data.train_dataloader())))
    seen = {}

    def watched(*inputs, **named):
        seen.update(named)
        return stage.net(*inputs, **named)

    watched.to_x0 = getattr(stage.net, "to_x0", None)  # type: ignore[attr-defined]
    assert stage.loss(watched, pair, StepRandom(0, 0), training=True)["loss"].isfinite()
    clip = stage.frozen_clip.model
    empty = clip.encode_text(clip.tokenize([""]))
    dropped = (seen["z_t"] == empty.z_t).all(dim=1)
    assert 4 < dropped.sum() < 28
    assert torch.equal(seen["z_t"][~dropped], pair.z_t[~dropped])
    features = seen["caption"].features
    assert torch.equal(features[dropped], empty.tokens.expand_as(features)[dropped])
    assert (seen["caption"].mask[dropped].sum(dim=1) == 2).all()
