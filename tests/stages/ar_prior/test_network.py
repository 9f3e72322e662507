"""The autoregressive prior: size, causality, the cache, dropping, and drawing by probability."""

from __future__ import annotations

import math

import pytest
import torch

from unclip.common.seeding import SampleNoise
from unclip.common.types import Caption
from unclip.embeddings.codec import Codec
from unclip.nn.config import TextEncoderConfig
from unclip.stages.ar_prior.config import ArPriorConfig, ArSamplerConfig
from unclip.stages.ar_prior.network import ArPrior
from unclip.stages.ar_prior.sampling import pick, sample_ar_prior, sample_codes

D, K, N, L, X = 12, 7, 16, 6, 24
KINDS = pytest.mark.parametrize("kind", ["bpe", "clip"])


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def small(kind: str = "bpe") -> ArPrior:
    torch.manual_seed(0)
    text = TextEncoderConfig(context=L, vocabulary=50, width=32, layers=1, heads=2)
    config = ArPriorConfig(caption=kind, context=K + 2, width=48, layers=3, heads=4, text=text)
    net = ArPrior(config, Codec.empty(D, K, N), X if kind == "clip" else None).eval()
    for parameter in net.parameters():  # biases and positions that matter, logits that differ
        parameter.data.add_(torch.randn_like(parameter) * 0.05)
    return net


def batch(kind: str = "bpe", size: int = 3, seed: int = 1) -> dict:
    g = torch.Generator().manual_seed(seed)
    mask = torch.arange(L)[None] < torch.tensor([3, 5, 2, 6, 1][:size])[:, None]
    tokens = torch.randint(1, 50, (size, L), generator=g)
    features = torch.randn(size, L, X, generator=g)
    own = kind == "bpe"
    z_t = torch.nn.functional.normalize(torch.randn(size, D, generator=g), dim=1)
    return {
        "dot": torch.randint(0, N, (size,), generator=g),
        "z_t": z_t,
        "caption": Caption(tokens if own else None, None if own else features, mask),
    }


def codes(size: int = 3, seed: int = 2) -> torch.Tensor:
    return torch.randint(0, N, (size, K), generator=torch.Generator().manual_seed(seed))


def test_the_size_is_that_of_the_paper():
    with torch.device("meta"):
        net = ArPrior(ArPriorConfig(), Codec.empty(1024, 319, 1024))
    assert count(net.text) == 1_310_838_784
    assert count(net) - count(net.text) == 969_079_680  # "1B" in table 3; see docs/prior.md


@KINDS
@torch.no_grad()
def test_a_code_changes_only_what_comes_after_it(kind):
    net, one, given = small(kind), batch(kind), codes()
    before = net(given, **one)
    for k in range(K):
        other = given.clone()
        other[:, k] = (other[:, k] + 1) % N
        changed = (net(other, **one) != before).any(dim=2).any(dim=0)
        assert not changed[: k + 1].any()
        assert changed[k + 1 :].all()


@KINDS
@torch.no_grad()
def test_the_dot_product_z_t_and_caption_reach_every_code(kind):
    net, one, given = small(kind), batch(kind), codes()
    before = net(given, **one)
    other = batch(kind, seed=9)
    for name in one:
        assert (net(given, **(one | {name: other[name]})) != before).any(dim=2).all()


@KINDS
@torch.no_grad()
def test_cached_steps_give_the_logits_of_the_whole_sequence(kind):
    net, one, given = small(kind), batch(kind), codes()
    keep = torch.tensor([True, False, True])
    whole = net(given, **one, keep=keep)
    context = net.encode_caption(one["caption"], keep)
    caches = net.start(context)
    before, x = net.prefix(one["z_t"], one["dot"], keep).unbind(dim=1)
    net.step(before, torch.tensor([0]), caches, context)
    for k in range(K):
        logits = net.step(x, torch.tensor([k + 1]), caches, context)
        torch.testing.assert_close(logits, whole[:, k], rtol=1e-5, atol=1e-5)
        x = net.code_table(given[:, k])


@KINDS
@torch.no_grad()
def test_dropped_text_leaves_no_trace_and_padding_is_not_read(kind):
    net, one, other, given = small(kind), batch(kind), batch(kind, seed=5), codes()
    off = torch.zeros(3, dtype=torch.bool)
    same_dot = other | {"dot": one["dot"]}
    assert torch.equal(net(given, **one, keep=off), net(given, **same_dot, keep=off))
    caption, mask = one["caption"], one["caption"].mask
    if kind == "bpe":
        padded = caption._replace(tokens=torch.where(mask, caption.tokens, 7))
    else:
        padded = caption._replace(features=torch.where(mask[:, :, None], caption.features, 9.0))
    torch.testing.assert_close(net(given, **(one | {"caption": padded})), net(given, **one))


def test_codes_are_picked_by_their_probability():
    logits = torch.tensor([0.5, -1.0, 2.0, 0.0]).repeat(40_000, 1)
    u = (torch.arange(40_000) + 0.5) / 40_000
    for temperature in (1.0, 0.5):
        found = pick(logits, u, ArSamplerConfig(temperature=temperature))
        share = torch.bincount(found, minlength=4) / 40_000
        torch.testing.assert_close(share, (logits[0] / temperature).softmax(0), atol=1e-4, rtol=0)


def test_top_k_top_p_and_temperature_zero_restrict_the_choice():
    p = torch.tensor([[0.1, 0.4, 0.2, 0.3]]).log().repeat(1000, 1)
    u = torch.arange(1000) / 1000

    def shares(**settings):
        found = pick(p, u, ArSamplerConfig(**settings))
        return (torch.bincount(found, minlength=4) / 1000).tolist()

    assert shares(temperature=0) == [0, 1, 0, 0]
    assert shares(top_k=1) == [0, 1, 0, 0]
    assert shares(top_k=2) == pytest.approx([0, 4 / 7, 0, 3 / 7], abs=2e-3)
    assert shares(top_p=0.69) == pytest.approx([0, 4 / 7, 0, 3 / 7], abs=2e-3)
    assert shares(top_p=0.71) == pytest.approx([0, 4 / 9, 2 / 9, 3 / 9], abs=2e-3)
    assert shares(top_p=1e-6) == [0, 1, 0, 0]


@KINDS
@pytest.mark.parametrize("guidance", [1.0, 2.5])
def test_samples_follow_the_logits_whatever_the_batch(kind, guidance):
    net, one = small(kind), batch(kind)
    draws = torch.rand(3, K, generator=torch.Generator().manual_seed(4))
    sampler = ArSamplerConfig(guidance=guidance)
    found = sample_codes(net, **one, sampler=sampler, uniforms=draws)
    with torch.no_grad():  # the same, one code at a time, without a cache
        given = torch.zeros(3, K, dtype=torch.long)
        for k in range(K):
            logits = net(given, **one)[:, k]
            if guidance != 1:
                without = net(given, **one, keep=torch.zeros(3, dtype=torch.bool))[:, k]
                logits = without + guidance * (logits - without)
            given[:, k] = pick(logits, draws[:, k], sampler)
    assert torch.equal(found, given)
    alone = {
        "dot": one["dot"][1:2],
        "z_t": one["z_t"][1:2],
        "caption": Caption(*(None if x is None else x[1:2] for x in one["caption"])),
    }
    assert torch.equal(sample_codes(net, **alone, sampler=sampler, uniforms=draws[1:2]), found[1:2])


def test_sampled_embeddings_are_decoded_codes_of_unit_norm():
    torch.manual_seed(3)
    net, one = small(), batch()
    net.codec_components.copy_(torch.linalg.qr(torch.randn(D, D))[0][:K])
    net.codec_centers.copy_(torch.linspace(-1, 1, N).repeat(K, 1))
    given = {"z_t": one["z_t"], "caption": one["caption"]}

    def draw(candidates):
        sampler = ArSamplerConfig(candidates=candidates)
        return sample_ar_prior(net, **given, sampler=sampler, noise=SampleNoise([5, 6, 7]))

    found, best = draw(1), draw(8)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    in_span = found @ net.codec_components.T @ net.codec_components
    torch.testing.assert_close(in_span, found, atol=1e-5, rtol=0)
    assert ((best * one["z_t"]).sum(1) >= (found * one["z_t"]).sum(1) - 1e-6).all()


def test_a_fresh_network_is_nearly_undecided():
    torch.manual_seed(0)
    net = ArPrior(small().config, Codec.empty(D, K, N)).eval()
    logits = net(codes(), **batch())
    nats = torch.nn.functional.cross_entropy(logits.transpose(1, 2), codes())
    assert nats.item() == pytest.approx(math.log(N), abs=0.05)


def test_other_captions_and_lengths_are_refused():
    net = small("bpe")
    with pytest.raises(ValueError, match="needs a caption's tokens"):
        net(codes(), **batch("clip"))
    with pytest.raises(ValueError, match="this prior has 7"):
        net(codes()[:, :5], **batch())
    with pytest.raises(ValueError, match="cannot hold"):
        ArPrior(ArPriorConfig(context=K), Codec.empty(D, K, N))
