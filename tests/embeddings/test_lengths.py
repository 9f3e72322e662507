"""Unit and raw embeddings: what CLIP's wrapper makes of each, and what keeps or drops lengths."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from unclip.common.artifacts import Artifact
from unclip.common.errors import UserError
from unclip.embeddings.agreement import check_embedding
from unclip.embeddings.clip import FrozenClip
from unclip.embeddings.codec import fit_codec
from unclip.embeddings.lengths import as_embeddings, directions, dots, stored, with_lengths
from unclip.embeddings.moments import Moments
from unclip.stages.clip.config import ClipConfig
from unclip.stages.clip.network import build_clip

KINDS = ("unit", "raw", None)


def vectors(count: int = 5, dim: int = 8, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def lengths(z: torch.Tensor) -> torch.Tensor:
    return z.norm(dim=-1)


def clip(**changes):
    torch.manual_seed(0)
    return build_clip(
        ClipConfig(
            embed_dim=8,
            image_size=16,
            patch_size=8,
            vision_width=16,
            vision_layers=1,
            vision_head_width=16,
            context=8,
            text_width=16,
            text_layers=1,
            text_heads=1,
            **changes,
        )
    ).eval()


def test_a_raw_embedding_is_the_vector_itself_and_a_unit_one_its_direction():
    z = vectors()
    assert as_embeddings(z, "raw") is z
    for kind in ("unit", None):
        assert torch.equal(as_embeddings(z, kind), F.normalize(z, dim=-1))


def test_directions_are_those_of_either_kind_and_unit_embeddings_keep_their_bits():
    z = vectors()
    unit = as_embeddings(z, "unit")
    assert directions(unit, "unit") is unit
    torch.testing.assert_close(directions(z, "raw"), unit)
    assert with_lengths(unit, z, "unit") is unit
    torch.testing.assert_close(with_lengths(unit, z, "raw"), z)


def test_dot_products_do_not_depend_on_lengths():
    z_i, z_t = vectors(), vectors(seed=1)
    want = F.cosine_similarity(z_i, z_t)
    torch.testing.assert_close(dots(z_i, z_t, "raw"), want)
    torch.testing.assert_close(dots(F.normalize(z_i), F.normalize(z_t), "unit"), want)


def test_what_comes_from_a_file_of_raw_embeddings_keeps_its_length():
    z = vectors().half()
    assert torch.equal(stored(z, "raw"), z.float())
    torch.testing.assert_close(lengths(stored(z, "unit")), torch.ones(5))


@torch.no_grad()
def test_a_raw_clip_gives_open_clips_projections_and_a_unit_one_their_directions():
    image = torch.rand(3, 3, 16, 16) * 2 - 1
    raw, unit, silent = clip(embeddings="raw"), clip(), clip()
    silent.embeddings = None
    tokens = raw.tokenize(["a red circle", "a blue square", ""])
    z_i, text = raw.encode_image(image), raw.encode_text(tokens)
    assert torch.equal(z_i, raw.model.encode_image(raw.preprocess(image)))
    torch.testing.assert_close(text.z_t, raw.model.encode_text(tokens))
    assert (lengths(z_i) - 1).abs().min() > 0.05
    for other in (unit, silent):
        assert torch.equal(other.encode_image(image), F.normalize(z_i, dim=-1))
        assert torch.equal(other.encode_text(tokens).z_t, F.normalize(text.z_t, dim=-1))
        assert torch.equal(other.encode_text(tokens).tokens, text.tokens)


@torch.no_grad()
def test_a_clip_is_trained_on_directions_whichever_embeddings_it_makes():
    image, outputs = torch.rand(3, 3, 16, 16) * 2 - 1, []
    for kind in ("raw", "unit"):
        model = clip(embeddings=kind)
        outputs.append(model(image, model.tokenize(["a", "b", "c"])))
    for ours, unit in zip(*outputs):
        assert torch.equal(ours, unit)
    torch.testing.assert_close(lengths(outputs[0].z_i), torch.ones(3))


@pytest.mark.parametrize("own", ["unit", "raw"])
def test_a_stage_of_the_other_kind_is_refused_and_one_that_does_not_care_is_not(own):
    other = {"unit": "raw", "raw": "unit"}[own]
    frozen = FrozenClip(clip(embeddings=own), "", "runs/clip")
    frozen.agree(own, where="prior=runs/prior")
    frozen.agree(None, where="prior=runs/prior")
    with pytest.raises(UserError, match=f"prior=runs/prior: takes {other} embeddings, but {own}"):
        frozen.agree(other, where="prior=runs/prior")
    assert frozen.model.embeddings == own


def test_a_clip_that_does_not_say_makes_what_the_first_stage_takes():
    frozen = FrozenClip(clip(), "", "open_clip:ViT-L-14/openai")
    frozen.model.embeddings = None
    frozen.agree(None, where="upsampler=c")
    frozen.agree("raw", where="decoder=a")
    with pytest.raises(UserError, match="prior=b: takes unit embeddings, but raw ones are made"):
        frozen.agree("unit", where="prior=b")


def artifact(tmp_path, **config) -> Artifact:
    return Artifact(tmp_path, "a stage", 8, None, "", config, {})


def test_an_artifact_of_before_is_of_unit_embeddings(tmp_path):
    for config in ({}, {"model": {"embed_dim": 8}}, {"pca": "runs/pca"}):
        assert artifact(tmp_path, **config).embeddings == "unit"
    for kind in KINDS:
        assert artifact(tmp_path, model={"embeddings": kind}, pca="runs/pca").embeddings == kind
        assert artifact(tmp_path, pca={"embeddings": kind}).embeddings == kind
    with pytest.raises(UserError, match=r"config\.yaml: embeddings=long: must be unit or raw"):
        _ = artifact(tmp_path, model={"embeddings": "long"}).embeddings


def test_a_trained_stage_is_compared_with_its_clip(tmp_path):
    frozen = FrozenClip(clip(embeddings="raw"), "f", "runs/clip")
    check_embedding(artifact(tmp_path, model={"embeddings": "raw"}), frozen, key="prior")
    with pytest.raises(UserError, match="takes unit embeddings, but raw ones are made with the"):
        check_embedding(artifact(tmp_path), frozen, key="prior")


@pytest.mark.parametrize("kind", ["unit", "raw"])
def test_a_codec_gives_back_embeddings_of_its_kind(kind):
    z = as_embeddings(vectors(400) + torch.arange(8.0), kind)
    moments = Moments(8)
    moments.update(z)
    codec = fit_codec(
        moments, z, z[:, 0], components=8, buckets=64, edges="quantile", embeddings=kind
    )
    found = codec.decode(codec.encode(z))
    near = slice(100, 300)  # whose buckets are not all at an end
    assert F.cosine_similarity(found, z)[near].min() > 0.9
    assert (lengths(found) / lengths(z) - 1)[near].abs().mean() < 0.05
    if kind == "unit":
        torch.testing.assert_close(lengths(found), torch.ones(400))
    again = type(codec).from_tensors(codec.tensors(), kind)
    assert torch.equal(again.decode(codec.encode(z)), found)
    assert codec.to("cpu").embeddings == kind
