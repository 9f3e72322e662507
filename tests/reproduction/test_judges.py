"""What judges note of minute arms, against the pipeline's own methods and the oracle."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.common.images import to_uint8
from unclip.data.scenes.dataset import Scenes, single_object_prompts
from unclip.data.scenes.render import draw
from unclip.evaluation.features.images import ImageSet
from unclip.evaluation.oracle.oracle import check
from unclip.evaluation.probes.prompts import held_out_scenes
from unclip.pipeline.inputs import squares
from unclip.pipeline.manipulations import embed
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import Settings
from unclip.reproduction import held_out as held_out_module
from unclip.reproduction.judges import images as images_judge
from unclip.reproduction.judges import photographs
from unclip.reproduction.judges.judge import Inputs, images_of
from unclip.reproduction.judges.reading import described, note, prompt_of
from unclip.reproduction.judges.registry import JUDGES
from unclip.reproduction.values import VALUES
from unclip.stages.decoder.config import DecoderExperiment

FEW = {"decoder": {"steps": 2}, "prior": {"steps": 2}}
WHOLE = ("clip", "prior", "decoder", "upsampler", "pca")


def judge(cascade, name, parts=WHOLE, n=2, seed=0, **options):
    inputs = Inputs({part: cascade / part for part in parts}, options, n, seed, "cpu")
    return JUDGES[name](inputs)


def test_a_note_of_a_perfect_image_is_right_in_everything():
    for prompt in single_object_prompts(20, 3):
        found = note(draw(prompt.scene, 64), prompt)
        assert found["right"]
        assert found["stated"]
        assert found["seen"] == described(prompt.scene)
        other = single_object_prompts(21, 3)[20]
        if other.scene.items[0].colour != prompt.scene.items[0].colour:
            assert not note(draw(prompt.scene, 64), prompt_of(other.scene))["right"]


def test_drawings_are_the_pipelines_and_z_t_in_place_is_another(cascade):
    found = judge(cascade, "drawing", settings=FEW)
    seen = single_object_prompts(
        2, 0, Inputs({"decoder": cascade / "decoder"}, {}, 1, 0, "cpu").scenes_config().shapes
    )
    images = Pipeline.load(cascade).generate(
        [prompt.caption for prompt in seen], [0, 1], settings=Settings(changes=FEW)
    )
    rights = [
        check(i, p.scene).shows(("colour", "shape")) for i, p in zip(to_uint8(images.image), seen)
    ]
    assert [r["images"][0]["right"] for r in found.records] == rights
    assert found.records[0]["scene"] == described(seen[0].scene)
    more = judge(cascade, "drawing", settings=FEW, images=2, one_z_i=True)
    assert [len(record["images"]) for record in more.records] == [2, 2]
    with pytest.raises(UserError, match=r"options\.given"):
        judge(cascade, "drawing", given="nothing")
    with pytest.raises(UserError, match=r"options\.image: unknown; did you mean 'images'"):
        judge(cascade, "drawing", image=2)


def test_embeddings_are_compared_with_those_of_their_scenes(cascade):
    found = judge(cascade, "embeddings", ("clip", "prior"), n=5, settings={"prior": {"steps": 2}})
    more = judge(cascade, "embeddings", ("clip", "prior"), n=3, settings={"prior": {"steps": 2}})
    assert len(found.records) == 5
    for a, b in zip(found.records, more.records):  # a caption does not depend on the others
        assert a == pytest.approx(b, abs=1e-4)
    assert all(-1 <= v <= 1 for record in found.records for v in record.values())


def test_ranks_are_of_unit_embeddings_of_held_out_scenes(cascade):
    found = judge(cascade, "rank", ("clip",), n=6)
    z = torch.tensor([record["z_i"] for record in found.records])
    assert z.norm(dim=1) == pytest.approx(torch.ones(6), abs=1e-3)
    assert VALUES["rank"].reduce(z.numpy()) > 1


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("variations", {"of": "other", "images": 1}),
        ("components", {"share": 0.5}),
        ("edits", {"theta": 0.2}),
        ("rebuilding", {}),
        ("interpolations", {"at": 0.5}),
    ],
)
def test_each_judge_notes_a_record_per_image(cascade, name, options):
    found = judge(cascade, name, settings={"decoder": {"steps": 2}}, **options)
    assert len(found.records) == 2
    assert found.sheet is not None


def test_the_way_from_one_scene_to_the_next_begins_and_ends_at_their_variations(cascade):
    """Images at 1 are those of the next scene's z_i, with the noise of the first."""
    seeds, settings = [0, 1, 2], {"decoder": {"steps": 2}}
    inputs = Inputs({p: cascade / p for p in WHOLE}, {"settings": settings}, 3, 0, "cpu")
    scenes = held_out_scenes(3, 0, inputs.scenes_config())
    sampling = inputs.sampling(inputs.cascade())
    with torch.no_grad():
        z_i = embed(sampling, images_of(scenes))
        ends = [to_uint8(sampling.decode(z, seeds).image) for z in (z_i, z_i[[1, 2, 0]])]
    following = [scenes[k] for k in (1, 2, 0)]
    for at, images in zip((0.0, 1.0), ends):
        found = judge(cascade, "interpolations", n=3, at=at, settings=settings)
        want = [note(image, prompt_of(scene)) for image, scene in zip(images, following)]
        assert [record["images"] for record in found.records] == [[one] for one in want]


def test_the_way_goes_from_a_scene_to_the_next(cascade, monkeypatch):
    calls, slerp = [], images_judge.slerp
    monkeypatch.setattr(images_judge, "slerp", lambda *a: calls.append(a) or slerp(*a))
    judge(cascade, "interpolations", n=3, at=0.25, settings={"decoder": {"steps": 2}})
    ((first, second, at),) = calls
    assert at == 0.25
    assert torch.equal(second, first[[1, 2, 0]])


def test_a_scene_is_rebuilt_from_its_own_x_T_or_from_a_new_one(cascade):
    few = {"decoder": {"steps": 2}}
    psnr = {
        x_T: [r["psnr"] for r in judge(cascade, "rebuilding", n=2, x_T=x_T, settings=few).records]
        for x_T in ("inverted", "new")
    }
    inputs = Inputs({p: cascade / p for p in WHOLE}, {}, 2, 0, "cpu")
    images = images_of(held_out_scenes(2, 0, inputs.scenes_config()))
    pipeline, settings = Pipeline.load(cascade), Settings(changes=few)
    latents = pipeline.encode(images, settings=settings)
    found = pipeline.reconstruct(latents, seed=0, settings=settings).image
    errors = (found - squares(images, found.shape[-1], "cpu")).square().flatten(1).mean(1)
    assert psnr["inverted"] == pytest.approx((10 * torch.log10(4 / errors)).tolist(), abs=1e-3)
    assert psnr["new"] != psnr["inverted"]
    with pytest.raises(UserError, match=r"options\.x_T='old': must be one of inverted, new"):
        judge(cascade, "rebuilding", x_T="old")


def test_photographs_are_compared_with_the_held_out_ones_of_their_captions(cascade, monkeypatch):
    """With a network that sees mean colours: of real images drawn again the distance is 0."""
    network = SimpleNamespace(
        device=torch.device("cpu"),
        encode=lambda x: SimpleNamespace(features=x.float().mean((2, 3)) / 100),
    )
    monkeypatch.setattr(photographs, "open_network", lambda name, device: network)
    parts, drawn = ("clip", "prior", "decoder"), []
    found = judge(cascade, "photographs", parts, n=4, settings=FEW, images=2)
    assert [sorted(record) for record in found.records] == [["caption", "kid", "vendi"]] * 4
    assert all(1 <= record["vendi"] <= 2 for record in found.records)
    data = Inputs({"decoder": cascade / "decoder"}, {}, 1, 0, "cpu").scenes_config()
    held_out = Scenes(data, size=photographs_size(cascade), count=256, start=data.count)
    by_caption = {sample.captions[0]: sample.image for sample in (held_out[k] for k in range(256))}

    def copies(inputs, captions, each):
        drawn.extend(captions)
        return [by_caption[caption] for caption in captions]

    monkeypatch.setattr(photographs, "drawn", copies)
    same = judge(cascade, "photographs", parts, n=9, images=3)
    assert len(drawn) == 12  # there are four held-out scenes
    assert drawn[0] == drawn[2] != drawn[3]
    assert [record["kid"] for record in same.records] == pytest.approx([0] * 4, abs=1e-9)
    assert [record["vendi"] for record in same.records] == pytest.approx([1] * 4)
    judge(cascade, "photographs", parts, n=4, seed=1)
    assert drawn[:12:3] != drawn[12:]  # another order


def photographs_size(cascade):
    return artifacts.describe(cascade / "decoder").config["model"]["image_size"]


def test_photographs_need_captions_and_enough_of_them(cascade, monkeypatch):
    decoder = artifacts.describe(cascade / "decoder").stored(DecoderExperiment)
    assert len(held_out_module.held_out(decoder, 4)) == 4
    with pytest.raises(UserError, match=r"^data\.source scenes: 4 images held out; .* need 5"):
        held_out_module.held_out(decoder, 5)
    monkeypatch.setattr(ImageSet, "caption", lambda self, number: "a cat" if number < 2 else None)
    with pytest.raises(UserError, match=r"^data\.source scenes: \S+ has no caption"):
        held_out_module.held_out(decoder, 3)


def test_a_judge_says_which_part_an_arm_lacks(cascade):
    with pytest.raises(UserError, match=r"^the arm has no decoder, which its judge needs"):
        judge(cascade, "photographs", ("clip",))


def test_a_word_changes_what_clip_says_and_an_arm_without_words_is_not_asked(cascade, monkeypatch):
    plain = judge(cascade, "words", ("clip",), word=False)
    word = judge(cascade, "words", ("clip",), word=True)
    assert plain.records != word.records
    config = Inputs({"clip": cascade / "clip"}, {}, 1, 0, "cpu").scenes_config()
    monkeypatch.setattr(
        Inputs, "scenes_config", lambda _: replace(config, words=0.0, max_objects=1)
    )
    with pytest.raises(UserError, match="never seen a printed word"):
        judge(cascade, "words", ("clip",))
    with pytest.raises(UserError, match="scenes of one object"):
        judge(cascade, "drawing", prompts="binding")
