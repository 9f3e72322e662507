"""The diffusion prior: size, scale, captions, dropping, and the same weights elsewhere."""

from __future__ import annotations

import pytest
import torch

from unclip.common.types import Caption
from unclip.stages.diffusion_prior.config import DiffusionPriorConfig
from unclip.stages.diffusion_prior.network import DiffusionPrior
from unclip.weights.maps.prior import to_diffusers

D, L, X = 16, 6, 16
OFF = torch.tensor([False, False])
KINDS = pytest.mark.parametrize("kind", ["bpe", "clip"])


def small(kind: str, **changes) -> DiffusionPrior:
    torch.manual_seed(0)
    config = DiffusionPriorConfig(
        caption=kind, context=L, vocabulary=50, width=32, layers=2, heads=2, **changes
    )
    return DiffusionPrior(config, D, X if kind == "clip" else None).eval()


def batch(kind: str, seed: int = 1) -> dict:
    generator = torch.Generator().manual_seed(seed)
    x_t, z_t = torch.randn(2, 2, D, generator=generator)
    tokens = torch.randint(1, 50, (2, L), generator=generator)
    features = torch.randn(2, L, X, generator=generator)
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]], dtype=torch.bool)
    own = kind == "bpe"
    caption = Caption(tokens if own else None, None if own else features, mask)
    z_t = z_t / z_t.norm(dim=1, keepdim=True)
    return dict(x_t=x_t, t=torch.tensor([10, 900]), z_t=z_t, caption=caption)


def differ(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(((a - b).abs().amax(dim=1) > 1e-5).all())


def with_padding(caption: Caption, seed: int = 3) -> Caption:
    """The same caption with other contents at its padding positions."""
    other = batch("bpe" if caption.features is None else "clip", seed)["caption"]
    keep = caption.mask
    if caption.tokens is not None:
        return caption._replace(tokens=torch.where(keep, caption.tokens, other.tokens))
    kept = torch.where(keep[:, :, None], caption.features, 100 * other.features)
    return caption._replace(features=kept)


def test_the_parameter_count_is_that_of_the_paper():
    with torch.device("meta"):
        net = DiffusionPrior(DiffusionPriorConfig(), 1024)
    assert sum(p.numel() for p in net.parameters()) == 1_325_538_304


def test_the_scale_is_17_2_at_1024_and_keeps_the_variance_of_pixels_elsewhere():
    with torch.device("meta"):
        for dim in (64, 768, 1024):
            net = DiffusionPrior(DiffusionPriorConfig(width=64, layers=1, heads=1), dim)
            assert net.scale**2 / dim == pytest.approx(0.28890625)
    assert net.scale == pytest.approx(17.2)


@KINDS
@torch.no_grad()
def test_every_input_changes_the_prediction(kind):
    net, one, other = small(kind), batch(kind), batch(kind, seed=2)
    out = net(**one)
    assert out.shape == (2, D)
    for key in ("x_t", "z_t", "caption"):
        assert differ(net(**{**one, key: other[key]}), out), key
    assert differ(net(**{**one, "t": one["t"] + 50}), out)


@KINDS
@torch.no_grad()
def test_what_stands_at_padding_positions_changes_nothing(kind):
    net, one = small(kind), batch(kind)
    changed = {**one, "caption": with_padding(one["caption"])}
    assert torch.equal(net(**changed), net(**one))


@KINDS
@torch.no_grad()
def test_dropping_removes_the_text_and_never_the_noised_embedding(kind):
    net, one, other = small(kind), batch(kind), batch(kind, seed=2)
    out = net(**one, keep=OFF)
    assert out.isfinite().all()
    assert differ(out, net(**one))
    text = {**one, "z_t": other["z_t"], "caption": other["caption"]}
    assert torch.equal(net(**text, keep=OFF), out)
    assert differ(net(**{**one, "x_t": other["x_t"]}, keep=OFF), out)
    assert differ(net(**{**one, "t": one["t"] + 50}, keep=OFF), out)


@KINDS
@torch.no_grad()
def test_a_dropped_text_is_a_zero_z_t_and_a_caption_of_padding(kind):
    net, one = small(kind), batch(kind)
    caption = one["caption"]._replace(mask=torch.zeros(2, L, dtype=torch.bool))
    empty = {**one, "z_t": torch.zeros(2, D), "caption": caption}
    assert torch.equal(net(**one, keep=OFF), net(**empty))


@KINDS
@torch.no_grad()
def test_dropping_is_per_sample(kind):
    net, one = small(kind), batch(kind)
    mixed = net(**one, keep=torch.tensor([True, False]))
    torch.testing.assert_close(mixed[0], net(**one)[0])
    torch.testing.assert_close(mixed[1], net(**one, keep=OFF)[1])


@KINDS
def test_gradients_are_finite_and_reach_every_parameter(kind):
    net = small(kind).train()
    net(**batch(kind), keep=torch.tensor([True, False])).square().mean().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@KINDS
@torch.no_grad()
def test_bfloat16_stays_close_by_autocast_and_by_weights(kind):
    net, one = small(kind), batch(kind)
    want = net(**one)
    with torch.autocast("cpu", torch.bfloat16):
        autocast = net(**one)
    weights = net.to(torch.bfloat16)(**one)
    for got in (autocast, weights):
        assert got.dtype == torch.float32
        assert (got - want).norm() < 0.05 * want.norm()


def test_captions_of_another_length_or_kind_are_refused():
    one = batch("bpe")
    tokens, _, mask = one["caption"]
    with pytest.raises(ValueError, match=f"captions of 4 tokens: the prior takes {L}"):
        small("bpe")(**{**one, "caption": Caption(tokens[:, :4], None, mask[:, :4])})
    with pytest.raises(ValueError, match="caption=clip needs a caption's CLIP token features"):
        small("clip")(**one)
    with pytest.raises(ValueError, match="width of CLIP's token features"):
        DiffusionPrior(small("clip").config, D)


@torch.no_grad()
def test_it_equals_the_prior_transformer_of_diffusers_with_the_same_weights():
    diffusers = pytest.importorskip("diffusers")
    net, one = small("clip"), batch("clip")
    for parameter in net.parameters():  # biases and positions that matter
        parameter.add_(torch.randn_like(parameter) * 0.05)
    oracle = diffusers.PriorTransformer(
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        embedding_dim=D,
        num_embeddings=L,
    ).eval()
    oracle.load_state_dict(to_diffusers(net))
    caption = one["caption"]
    want = oracle(
        one["x_t"],
        one["t"],
        proj_embedding=one["z_t"],  # the scale is in their weight
        encoder_hidden_states=caption.features,
        attention_mask=caption.mask,
    ).predicted_image_embedding
    torch.testing.assert_close(net(**one), want, rtol=1e-5, atol=1e-5)


def test_standardised_embeddings_have_unit_variance_and_come_back():
    net = small("clip", standardise=True)
    g = torch.Generator().manual_seed(0)
    z_i = torch.nn.functional.normalize(torch.randn(4000, D, generator=g) + 0.4, dim=1)
    net.mean.copy_(z_i.mean(0))
    net.std.copy_(z_i.std(0))
    x0 = net.to_x0(z_i)
    torch.testing.assert_close(x0.mean(0), torch.zeros(D), atol=1e-5, rtol=0)
    torch.testing.assert_close(x0.std(0), torch.ones(D), atol=1e-5, rtol=0)
    torch.testing.assert_close(net.from_x0(x0), z_i, atol=1e-5, rtol=0)
    assert {"mean", "std"} <= set(net.state_dict())
    plain = small("clip")
    torch.testing.assert_close(plain.from_x0(plain.to_x0(z_i)), z_i, atol=1e-6, rtol=0)


@torch.no_grad()
def test_raw_embeddings_are_not_scaled_and_come_out_as_they_are_diffused():
    one, plain, raw = batch("clip"), small("clip"), small("clip", embeddings="raw")
    one["z_t"] = 3 * one["z_t"]
    scaled = {**one, "z_t": plain.scale * one["z_t"]}
    torch.testing.assert_close(raw(**scaled), plain(**one))
    x0 = one["x_t"]
    assert torch.equal(raw.from_x0(x0), x0)
    assert torch.equal(raw.to_x0(x0), x0)
    assert plain.from_x0(x0).norm(dim=1) == pytest.approx(1)


@torch.no_grad()
def test_standardised_raw_embeddings_come_back_with_their_lengths():
    net = small("clip", embeddings="raw", standardise=True)
    net.mean.copy_(torch.arange(D) - 7.0)
    net.std.copy_(torch.linspace(0.3, 2, D))
    z_i = 3 * batch("clip")["x_t"]
    torch.testing.assert_close(net.to_x0(z_i) * net.std + net.mean, z_i)
    torch.testing.assert_close(net.from_x0(net.to_x0(z_i)), z_i)
