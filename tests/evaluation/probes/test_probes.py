"""What the decoder is given in each probe, by the minute cascade."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from unclip.common.errors import UserError
from unclip.common.images import to_uint8
from unclip.data.config import ScenesConfig
from unclip.data.scenes.dataset import Scenes, single_object_prompts
from unclip.data.scenes.render import draw
from unclip.embeddings.pca import Pca
from unclip.evaluation.oracle.oracle import matches, read
from unclip.evaluation.probes import guidance, latents
from unclip.evaluation.probes.conditioning import draw_modes, find_ar_prior, probe_conditioning
from unclip.evaluation.probes.guidance import probe_guidance
from unclip.evaluation.probes.latents import dims_of, probe_pca, probe_typographic
from unclip.evaluation.probes.pairs import probe_pairs
from unclip.evaluation.probes.probe import Probe, count_right
from unclip.evaluation.probes.prompts import (
    attack,
    binding_prompts,
    held_out_scenes,
    trained_scenes,
    warnings,
)
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.sampling import noise_of
from unclip.pipeline.settings import Settings
from unclip.pipeline.typographic import paste

CAPTIONS, SEEDS = ["a red circle", "a blue star"], [3, 4]
PICTURES = [draw(scene, 16) for scene in held_out_scenes(2, 0, ScenesConfig())]


@pytest.fixture
def pipeline(cascade):
    """Without upsamplers: after three steps of training they hide what they enlarge."""
    return Pipeline(replace(Pipeline.load(cascade).cascade, upsamplers=()))


@pytest.fixture
def ar_prior(cascade, pipeline):
    return find_ar_prior(cascade, None, pipeline)


def spied(net, name, monkeypatch):
    """The calls of a network's method, and a list that they are added to."""
    calls, method = [], getattr(net, name)

    def spy(*args, **kwargs):
        calls.append((args, kwargs))
        return method(*args, **kwargs)

    monkeypatch.setattr(net, name, spy)
    return calls


def captured(module, monkeypatch):
    """The cells that ``module`` puts on its sheets."""
    found = []

    def table(images, *, rows, columns):
        assert len(images) == len(rows)
        assert {len(row) for row in images} == {len(columns)}
        found.extend(images)
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr(module, "table", table)
    return found


def test_settings_of_the_prior_are_for_each_that_has_them(pipeline, ar_prior):
    def z_i(**changes):
        told = Settings({"prior": changes, "decoder": {"steps": 2}})
        drawn = draw_modes(pipeline, CAPTIONS, SEEDS, ar_prior=ar_prior, settings=told).drawn
        return drawn["AR prior"].z_i, drawn["diffusion prior"].z_i

    def changed(**changes):
        return [not torch.equal(one, other) for one, other in zip(plain, z_i(**changes))]

    plain = z_i()
    assert changed(steps=2) == [False, True]
    assert changed(top_k=1) == [True, False]
    assert changed(guidance=9) == [True, True]
    with pytest.raises(UserError, match=r"prior\.stps: .* did you mean 'steps'"):
        z_i(stps=2)
    with pytest.raises(UserError, match=r"prior\.steps: 5000 does not fit"):
        z_i(steps=5000)


def test_each_mode_gives_the_decoder_what_it_says(pipeline, ar_prior, monkeypatch):
    net, clip = pipeline.cascade.decoder.net, pipeline.cascade.clip.model
    conditions = spied(net, "condition", monkeypatch)
    steps = spied(net, "denoise", monkeypatch)
    drawn, notes = draw_modes(pipeline, CAPTIONS, SEEDS, ar_prior=ar_prior)
    assert not notes
    assert list(drawn) == ["caption only", "z_t in place of z_i", "AR prior", "diffusion prior"]

    caption_only, *others = [kwargs for _, kwargs in conditions[::2]]  # each second is the null
    assert not caption_only["keep_z_i"].any()
    z_t = clip.encode_text(clip.tokenize(CAPTIONS)).z_t
    priors = (ar_prior, pipeline.cascade.prior)
    expected = [z_t, *(p.draw(clip, CAPTIONS, noise_of(SEEDS, "prior")) for p in priors)]
    for given, z in zip(others, expected):
        assert given.get("keep_z_i") is None
        torch.testing.assert_close(given["z_i"], z)
    for given in (caption_only, *others):
        assert torch.equal(given["tokens"], pipeline.cascade.decoder.tokenize(CAPTIONS))
        assert given.get("keep_text") is None

    starts = [args[0] for args, _ in steps[:: len(steps) // 4]]
    assert all(torch.equal(start, starts[0]) for start in starts)
    own = pipeline.generate(CAPTIONS, SEEDS)
    assert torch.equal(drawn["diffusion prior"].image, own.image)


@pytest.mark.parametrize("null", ["zeros", "learned"])
def test_a_dropped_embedding_is_the_null_embedding(pipeline, null, monkeypatch):
    net = pipeline.cascade.decoder.net
    monkeypatch.setattr(net.config, "null_z_i", null)
    vector = torch.full((16,), 0.5) if null == "learned" else torch.zeros(16)
    if null == "learned":
        net.null_z_i = torch.nn.Parameter(vector)
    to_time = spied(net.z_i_to_time, "forward", monkeypatch)
    draw_modes(pipeline, CAPTIONS, SEEDS)
    ((given,), _) = to_time[0]
    assert torch.equal(given, vector.expand(2, 16))


def test_modes_without_their_part_are_left_out(pipeline, monkeypatch):
    alone = Pipeline(replace(pipeline.cascade, prior=None, upsamplers=()))
    monkeypatch.setattr(alone.cascade.decoder.net.config, "use_caption", False)
    drawn, notes = draw_modes(alone, CAPTIONS, SEEDS)
    assert list(drawn) == ["z_t in place of z_i"]
    assert notes == [
        "caption only: left out, this decoder reads no captions",
        "AR prior: left out, there is none",
        "diffusion prior: left out, there is none",
    ]


def test_a_decoder_without_z_i_has_one_way_only(pipeline):
    cascade = pipeline.cascade
    decoder = replace(cascade.decoder, takes="text")
    other = Pipeline(replace(cascade, prior=None, decoder=decoder))
    with pytest.raises(UserError, match="one way to condition it"):
        draw_modes(other, CAPTIONS, SEEDS)


def test_another_stage_in_the_place_of_the_ar_prior_is_refused(cascade, pipeline):
    with pytest.raises(UserError, match="is a diffusion_prior, but an ar_prior is needed"):
        find_ar_prior(cascade, cascade / "prior", pipeline)
    assert find_ar_prior(cascade / "clip", None, pipeline) is None


def test_conditioning_counts_what_the_oracle_reads(pipeline, ar_prior):
    prompts = single_object_prompts(2, 0)
    found = probe_conditioning(
        pipeline, [p.caption for p in prompts], SEEDS, scenes=[p.scene for p in prompts]
    )
    assert [record["n"] for record in found.records] == [2, 2, 2]
    assert found.notes == ["AR prior: left out, there is none"]
    assert not probe_conditioning(pipeline, CAPTIONS, SEEDS).records


def test_images_of_the_scenes_themselves_are_all_right():
    prompts = single_object_prompts(8, 0)
    scenes = [p.scene for p in prompts]
    pictures = [draw(scene, 64) for scene in scenes]
    assert count_right(pictures, scenes) == 8
    others = scenes[1:] + scenes[:1]
    true = sum(matches(read(picture), scene) for picture, scene in zip(pictures, others))
    assert count_right(pictures, others) == true < 8


def test_the_artifacts_own_scale_draws_what_generate_draws(pipeline, monkeypatch):
    cells = captured(guidance, monkeypatch)
    own = pipeline.cascade.decoder.sampler.guidance
    probe_guidance(pipeline, CAPTIONS, SEEDS, decoder_scales=[1.0, own])
    plain = to_uint8(pipeline.generate(CAPTIONS, SEEDS).image)
    assert np.array_equal(np.stack(cells[1]), plain)
    assert not np.array_equal(np.stack(cells[0]), plain)


def test_the_decoders_scale_leaves_z_i_alone(pipeline, monkeypatch):
    calls, generate = [], pipeline.generate

    def spy(*args, **kwargs):
        calls.append(generate(*args, **kwargs))
        return calls[-1]

    monkeypatch.setattr(pipeline, "generate", spy)
    prompts = single_object_prompts(2, 0)
    found = probe_guidance(
        pipeline,
        [p.caption for p in prompts],
        SEEDS,
        decoder_scales=[1.0, 3.0],
        prior_scales=[1.0, 2.0],
        scenes=[p.scene for p in prompts],
    )
    z = [each.z_i for each in calls]
    assert torch.equal(z[0], z[1])
    assert torch.equal(z[2], z[3])
    assert not torch.equal(z[0], z[2])
    scales = [(record["prior"], record["decoder"]) for record in found.records]
    assert scales == [(1.0, 1.0), (1.0, 3.0), (2.0, 1.0), (2.0, 3.0)]


def test_no_scale_is_refused(pipeline):
    with pytest.raises(UserError, match="--decoder-scales: give at least one"):
        probe_guidance(pipeline, CAPTIONS, SEEDS, decoder_scales=[])


def test_all_components_of_a_full_rank_codec_give_the_image_of_z_i(pipeline, monkeypatch):
    rotation = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)))[0]
    mean = torch.full((16,), 0.1, dtype=torch.float64)
    pca = Pca(mean, rotation.double(), torch.ones(16, dtype=torch.float64))
    pipeline = Pipeline(replace(pipeline.cascade, codec=replace(pipeline.cascade.codec, pca=pca)))
    cells = captured(latents, monkeypatch)
    conditions = spied(pipeline.cascade.decoder.net, "condition", monkeypatch)
    found = probe_pca(pipeline, PICTURES, dims=[1, 16], seed=5)
    few_and_all, whole = [kwargs["z_i"] for _, kwargs in conditions[::2]]
    torch.testing.assert_close(few_and_all[1::2], whole)
    assert (few_and_all[::2] - whole).abs().max() > 0.1
    assert found.records[1] == {"components": 16, "cosine to z_i": pytest.approx(1, abs=1e-6)}
    assert found.records[0]["cosine to z_i"] < 0.99
    for _, all_of_it, z_i, original in cells:
        assert abs(all_of_it.astype(int) - z_i).max() <= 1  # z_i went there and back in float64
        assert original.shape == z_i.shape


def test_the_papers_dimensions_are_shares_of_a_smaller_codecs():
    assert dims_of(320) == dims_of(1024) == [20, 30, 40, 80, 120, 160, 200, 320]
    assert dims_of(64) == [4, 6, 8, 16, 24, 32, 40, 64]
    assert dims_of(1) == [1]


def test_a_pipeline_without_codec_says_what_to_do(pipeline):
    pipeline = Pipeline(replace(pipeline.cascade, codec=None))
    with pytest.raises(UserError, match="unclip fit-pca"):
        probe_pca(pipeline, PICTURES)


def test_words_are_on_the_images_and_probabilities_sum_to_one(pipeline, monkeypatch):
    cells = captured(latents, monkeypatch)
    labels = ["a red circle", "a star", "a heart"]
    found = probe_typographic(pipeline, PICTURES[0], ["star", "heart"], labels, seeds=[0, 1])
    assert [r["on the image"] for r in found.records] == ["nothing", '"star"', '"heart"']
    for record in found.records:
        assert sum(record[label] for label in labels) == pytest.approx(1, abs=1e-5)
    attacked = pipeline.typographic([PICTURES[0]], "star", labels, seeds=[0, 1])
    assert [found.records[1][k] for k in labels] == pytest.approx(attacked.after[0].tolist())
    assert np.array_equal(cells[0][0], PICTURES[0])
    assert np.array_equal(cells[1][0], attacked.images[0])
    assert np.array_equal(np.stack(cells[1][1:]), to_uint8(attacked.variations.image[0]))


def test_pairs_are_drawn_by_caption(pipeline):
    shapes = ["circle", "square"]
    found = probe_pairs(pipeline, binding_prompts(4, 0, shapes), [0, 1, 2, 3], shapes)
    assert [r["n"] for r in found.records[:2]] == [4, 4]


def test_held_out_scenes_come_after_those_trained_on():
    config = ScenesConfig(count=10, max_objects=1, words=0)
    after = Scenes(config, size=8, start=10, count=3)
    assert held_out_scenes(3, 0, config) == [after.scene(k) for k in range(3)]
    assert held_out_scenes(2, 7, config) == held_out_scenes(3, 7, config)[:2]


def test_what_is_attacked_is_not_covered_by_the_note():
    scene = held_out_scenes(1, 0, ScenesConfig())[0]
    moved, words, labels = attack(scene, ["circle", "square", "heart", "star", "cross"])
    shape = scene.items[0].shape
    assert len(words) == 2
    assert shape not in words
    assert [label.split()[-1] for label in labels] == [shape, *words]
    picture, empty = draw(moved, 64), draw(replace(moved, items=()), 64)
    changed = (paste(picture, "heart") != picture).any(axis=-1)
    assert not (changed & (picture != empty).any(axis=-1)).any()


def test_a_probe_is_saved_as_image_and_tables(tmp_path):
    records = [{"what": "all", "right": 1, "share": 1 / 3, "chance": None}]
    probe = Probe(Image.new("RGB", (4, 2), "red"), records, ["a note"])
    path = probe.save(tmp_path / "new", "one")
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "one.csv",
        "one.json",
        "one.md",
        "one.png",
    ]
    with Image.open(path) as sheet:
        assert sheet.size == (4, 2)
    assert json.loads((path.parent / "one.json").read_text()) == {
        "records": records,
        "notes": ["a note"],
    }
    assert (path.parent / "one.csv").read_text() == f"what,right,share,chance\nall,1,{1 / 3!r},\n"
    table = (
        "| what | right | share | chance |\n| --- | --- | --- | --- |\n| all | 1 | 0.333 | - |\n"
    )
    assert (path.parent / "one.md").read_text() == table


def test_the_scenes_of_a_decoder_are_those_it_was_trained_on(cascade, tmp_path):
    assert trained_scenes(cascade / "decoder").count == 64
    assert warnings(cascade / "decoder") == []
    other = tmp_path / "decoder"
    shutil.copytree(cascade / "decoder" / "artifact", other)
    content = yaml.safe_load((other / "config.yaml").read_text())

    def given(**data):
        (other / "config.yaml").write_text(yaml.safe_dump({**content, "data": data}))
        return other

    scenes = content["data"]["scenes"]
    single = given(source="scenes", scenes={**scenes, "max_objects": 1, "shapes": ["star"]})
    assert trained_scenes(single).shapes == ["star"]
    assert warnings(single) == [
        "the decoder was trained on single objects: images of two are new to it"
    ]
    photos = given(source="photos.tar")
    assert trained_scenes(photos) == ScenesConfig()
    assert warnings(photos) == [
        "the decoder was trained on photos.tar: the oracle's scenes are new to it"
    ]
    for wrong in ({"shapes": ["tree"]}, {"colour": "red"}, "star"):
        with pytest.raises(UserError, match=r"data\.scenes: "):
            trained_scenes(given(source="scenes", scenes=wrong))
