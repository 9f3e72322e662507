"""The CLIP wrapper against open_clip itself, and the paper's parameter count."""

from __future__ import annotations

import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from unclip.common.errors import UserError
from unclip.embeddings.clip import load_open_clip
from unclip.embeddings.tokens import Tokenizer, token_mask
from unclip.stages.clip.config import ClipConfig
from unclip.stages.clip.network import build_clip


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(0)
    return build_clip(
        ClipConfig(
            embed_dim=16,
            image_size=32,
            patch_size=8,
            vision_width=32,
            vision_layers=2,
            vision_head_width=16,
            context=12,
            text_width=24,
            text_layers=2,
            text_heads=2,
        )
    ).eval()


def test_the_papers_clip_has_its_parameters():
    with torch.device("meta"):
        net = build_clip(ClipConfig())
    assert sum(p.numel() for p in net.parameters()) == 986_339_841
    assert sum(p.numel() for p in net.model.visual.parameters()) == 632_307_200


def test_embeddings_are_unit_and_pooling_the_token_features_gives_z_t(clip):
    tokens = clip.tokenize(["a red circle", "!", "a much longer caption that is cut at the end"])
    text = clip.encode_text(tokens)
    pooled = text.tokens[torch.arange(3), tokens.argmax(dim=1)] @ clip.model.text_projection
    torch.testing.assert_close(F.normalize(pooled, dim=-1), text.z_t)
    z_i = clip.encode_image(torch.rand(3, 3, 20, 20) * 2 - 1)
    torch.testing.assert_close(z_i.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(text.z_t.norm(dim=-1), torch.ones(3))


def test_images_are_normalised_inside(clip):
    byte = torch.randint(0, 256, (2, 3, 32, 32))
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(1, 3, 1, 1)
    std = torch.tensor(open_clip.OPENAI_DATASET_STD).view(1, 3, 1, 1)
    expected = clip.model.encode_image((byte / 255 - mean) / std)
    torch.testing.assert_close(
        clip.encode_image(byte / 127.5 - 1), F.normalize(expected, dim=-1), atol=1e-5, rtol=1e-4
    )


def test_the_mask_ends_with_the_end_of_text_and_counts_the_exclamation_mark(clip):
    tokens = Tokenizer(8)(["!", "! !", "a b c d e f g h i j"])
    # "!" is token 0, the number that also pads: a mask read off `tokens != 0` loses it.
    assert token_mask(tokens).sum(dim=1).tolist() == [3, 4, 8]


def test_the_fingerprint_follows_the_weights(clip):
    before = clip.fingerprint()
    assert before == clip.fingerprint()
    with torch.no_grad():
        clip.model.visual.proj[0, 0] += 1e-3
    assert clip.fingerprint() != before
    with torch.no_grad():
        clip.model.visual.proj[0, 0] -= 1e-3


def test_an_open_clip_architecture_loads_a_local_weights_file(tmp_path):
    theirs = open_clip.create_model("ViT-S-32-alt", pretrained=None)
    file = tmp_path / "weights.safetensors"
    save_file({k: v.contiguous().clone() for k, v in theirs.state_dict().items()}, file)
    ours = load_open_clip(f"open_clip:ViT-S-32-alt@{file}")
    image = torch.rand(1, 3, 224, 224)
    expected = F.normalize(theirs.eval().encode_image(ours.preprocess(image)), dim=-1)
    torch.testing.assert_close(ours.eval().encode_image(image), expected)
    assert ours.embed_dim == expected.shape[1]
    tokens = ours.tokenize(["a photo"])
    assert ours.encode_text(tokens).tokens.shape == (1, 77, ours.text_width)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("open_clip:ViT-Nope/openai", "no architecture"),
        ("open_clip:ViT-B-32", "name a pretrained tag"),
        ("open_clip:ViT-B-32/nope", "no pretrained tag"),
        ("open_clip:ViT-B-32@/no/such/file.pt", "no such weights file"),
    ],
)
def test_a_wrong_open_clip_spec_is_one_line(spec, says):
    with pytest.raises(UserError, match=says):
        load_open_clip(spec)
