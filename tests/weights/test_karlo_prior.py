"""Karlo's prior under our names, in both layouts: one forward, its whole sampling, and back."""

from __future__ import annotations

import pytest
import torch
import yaml
from golden_files import GOLDENS, Recorded, state, tensors
from safetensors.torch import load_file
from torch import Tensor

from unclip.common.errors import UserError
from unclip.common.fields import as_dataclass
from unclip.common.types import Caption
from unclip.diffusion.config import DiffusionConfig
from unclip.embeddings.tokens import Tokenizer
from unclip.stages._prior.null_text import NullText
from unclip.stages.diffusion_prior.config import (
    DiffusionPriorConfig,
    DiffusionPriorExperiment,
    PriorSamplerConfig,
)
from unclip.stages.diffusion_prior.network import DiffusionPrior, build_network
from unclip.stages.diffusion_prior.part import DiffusionPriorPart
from unclip.stages.experiment import ParentSizes
from unclip.weights.maps import prior as maps
from unclip.weights.maps.rules import to_ours, to_theirs

D, L, X = 12, 7, 12
EXACT = dict(rtol=0, atol=1e-10)


def empty(width: int = 32, layers: int = 2, heads: int = 4, dims=(D, L, X), **changes):
    embed_dim, context, text_width = dims
    given = {"embeddings": "raw", "null_text": "caption", "standardise": True} | changes
    config = DiffusionPriorConfig(
        caption="clip", context=context, width=width, layers=layers, heads=heads, **given
    )
    config.validate()
    return DiffusionPrior(config, embed_dim, text_width).eval()


def original() -> dict[str, Tensor]:
    pair = torch.load(GOLDENS / "karlo/stats.th", weights_only=True)
    return state("karlo/prior.ckpt") | maps.stats(pair)


def component() -> dict[str, Tensor]:
    return load_file(GOLDENS / "karlo-diffusers/prior/diffusion_pytorch_model.safetensors")


LAYOUTS = {"karlo": (original, maps.karlo), "diffusers": (component, maps.diffusers)}
EITHER = pytest.mark.parametrize("layout", LAYOUTS)


def loaded(layout: str, net: DiffusionPrior | None = None) -> DiffusionPrior:
    read, rules = LAYOUTS[layout]
    net = net or empty()
    net.load_state_dict(to_ours(read(), rules(net), expected=net.state_dict(), source=layout))
    return net


def predicted(net: DiffusionPrior) -> Tensor:
    golden = tensors("karlo/prior_io")
    dtype = net.out.weight.dtype
    caption = Caption(None, golden["text_enc"].to(dtype), golden["mask"])
    x, z_t = golden["x"].to(dtype), golden["text_emb"].to(dtype)
    with torch.no_grad():
        return net(x, golden["timesteps"], z_t=z_t, caption=caption)


@EITHER
def test_it_computes_what_karlos_prior_computes(layout):
    golden, net = tensors("karlo/prior_io"), loaded(layout)
    want = golden["output_float32"].float()
    torch.testing.assert_close(predicted(net), want, rtol=0, atol=1e-5)
    torch.testing.assert_close(predicted(net.double()), golden["output_float64"], **EXACT)


@EITHER
@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0), (0, 2, 1)])
def test_another_order_of_queries_keys_and_values_is_another_network(layout, order):
    net = loaded(layout).double()
    for block in net.transformer.blocks:
        for parameter in block.attention.qkv.parameters():
            thirds = parameter.data.unflatten(0, (3, -1))
            parameter.data.copy_(thirds[list(order)].flatten(0, 1))
    error = (predicted(net) - tensors("karlo/prior_io")["output_float64"]).abs().max()
    assert error > 1e-2


def test_rows_that_are_not_put_in_order_by_head_are_another_network():
    net = empty()
    wrong = to_ours(
        original(), maps.karlo(empty(heads=1)), expected=net.state_dict(), source="karlo"
    )
    net.load_state_dict(wrong)
    golden = tensors("karlo/prior_io")["output_float64"]
    assert (predicted(net.double()) - golden).abs().max() > 1e-2


@EITHER
def test_there_and_back_is_bit_identical(layout):
    read, rules = LAYOUTS[layout]
    before, net = read(), loaded(layout)
    back = to_theirs(net.state_dict(), rules(net))
    assert back.keys() == before.keys()
    assert all(torch.equal(back[name], before[name]) for name in before)
    if layout == "diffusers":
        again = maps.to_diffusers(net)
        assert again.keys() == before.keys()
        assert all(torch.equal(again[name], before[name]) for name in before)


def test_both_layouts_hold_the_same_network():
    one, other = (loaded(layout).state_dict() for layout in LAYOUTS)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_statistics_are_karlos():
    mean, std = torch.load(GOLDENS / "karlo/stats.th", weights_only=True)
    net = loaded("karlo")
    x0 = tensors("karlo/prior_io")["x"].float()
    torch.testing.assert_close(net.from_x0(x0), x0 * std + mean, rtol=0, atol=1e-6)


@EITHER
def test_the_whole_guided_sampling_is_karlos(layout):
    golden, io = tensors("karlo/prior_sample"), tensors("karlo/prior_io")
    sampler = PriorSamplerConfig(
        sampler="ddpm", steps=25, guidance=4.0, clip="static", clip_range=10.0, candidates=1
    )
    sampler.validate()
    empty_caption = Caption(None, golden["uncond_enc"], golden["uncond_mask"])
    part = DiffusionPriorPart(
        loaded(layout).double(),
        sampler,
        Tokenizer(L),
        DiffusionConfig(),
        null=NullText(golden["uncond_emb"], empty_caption),
    )
    caption = Caption(None, io["text_enc"], io["mask"])
    noise = Recorded(golden["noise"][:, :, None])  # one candidate of each caption
    found = part.sample(io["text_emb"], caption, noise, sampler=sampler)
    torch.testing.assert_close(found, golden["z_i_float64"], rtol=0, atol=1e-8)


def test_without_the_empty_caption_or_with_a_tighter_clamp_it_is_another_sampling():
    golden, io = tensors("karlo/prior_sample"), tensors("karlo/prior_io")
    net = loaded("karlo").double()
    null = NullText(
        golden["uncond_emb"], Caption(None, golden["uncond_enc"], golden["uncond_mask"])
    )
    for reach, given in ((10.0, None), (0.5, null)):
        sampler = PriorSamplerConfig(
            sampler="ddpm", steps=25, guidance=4.0, clip="static", clip_range=reach, candidates=1
        )
        part = DiffusionPriorPart(net, sampler, Tokenizer(L), DiffusionConfig(), null=given)
        noise = Recorded(golden["noise"][:, :, None])
        caption = Caption(None, io["text_enc"], io["mask"])
        found = part.sample(io["text_emb"], caption, noise, sampler=sampler)
        assert (found - golden["z_i_float64"]).abs().max() > 1e-2


KARLO = (768, 77, 768)
KANDINSKY_2_2 = (1280, 77, 1280)


@pytest.mark.parametrize(
    ("dims", "count"), [(KARLO, 1_022_028_544), (KANDINSKY_2_2, 1_026_223_360)]
)
def test_published_sizes_have_a_place_for_every_tensor(dims, count):
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        net = empty(2048, 20, 32, dims)
        oracle = diffusers.PriorTransformer(
            num_attention_heads=32, num_layers=20, embedding_dim=dims[0], num_embeddings=77
        )
        theirs = oracle.state_dict()
        ours = to_ours(theirs, maps.diffusers(net), expected=net.state_dict(), source="meta")
        back = to_theirs(ours, maps.diffusers(net))
    assert {k: v.shape for k, v in back.items()} == {k: v.shape for k, v in theirs.items()}
    assert sum(p.numel() for p in net.parameters()) == count
    assert len(to_theirs(ours, maps.karlo(net))) == len(net.state_dict())


@pytest.mark.parametrize("standardise", [True, False])
def test_a_prior_of_unit_embeddings_goes_to_diffusers_for_unit_z_t(standardise):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    net = empty(embeddings="unit", null_text="padding", standardise=standardise)
    if standardise:
        net.mean.copy_(torch.linspace(-1, 1, D))
        net.std.copy_(torch.linspace(0.5, 2, D))
    oracle = diffusers.PriorTransformer(
        num_attention_heads=4,
        attention_head_dim=8,
        num_layers=2,
        embedding_dim=D,
        num_embeddings=L,
    ).eval()
    oracle.load_state_dict(maps.to_diffusers(net))
    golden = tensors("karlo/prior_io")
    x, features = golden["x"].float(), golden["text_enc"].float()
    z_t = torch.nn.functional.normalize(golden["text_emb"].float(), dim=1)
    with torch.no_grad():
        want = oracle(
            x,
            golden["timesteps"],
            proj_embedding=z_t,
            encoder_hidden_states=features,
            attention_mask=golden["mask"],
        ).predicted_image_embedding
        caption = Caption(None, features, golden["mask"])
        found = net(x, golden["timesteps"], z_t=z_t, caption=caption)
        torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)
        z_i = oracle.post_process_latents(want)
    torch.testing.assert_close(net.from_x0(want), torch.nn.functional.normalize(z_i, dim=1))
    torch.testing.assert_close(oracle.post_process_latents(net.to_x0(z_t)), z_t)


def test_a_prior_with_own_tokens_has_no_place_in_diffusers_layout():
    config = DiffusionPriorConfig(context=L, vocabulary=50, width=32, layers=1, heads=2)
    with pytest.raises(UserError, match=r"padding \(and 1 more\) has no name"):
        maps.to_diffusers(DiffusionPrior(config, D))


@EITHER
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s, name: s.pop(name), "is missing"),
        (lambda s, name: s.update({name + ".more": torch.zeros(1)}), "has no place"),
        (lambda s, name: s.update({name: s[name][..., :-1]}), "network of another size"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(layout, change, says):
    read, rules = LAYOUTS[layout]
    found, net = read(), empty()
    name = next(n for n in found if n.endswith("weight"))
    change(found, name)
    with pytest.raises(UserError, match=says) as caught:
        to_ours(found, rules(net), expected=net.state_dict(), source="prior.ckpt")
    assert name in str(caught.value)


def test_the_settings_in_the_docs_are_karlos_and_make_its_network():
    text = (GOLDENS.parents[1] / "docs/prior.md").read_text()
    given = yaml.safe_load(text.split("```yaml\n", 1)[1].split("```", 1)[0])
    experiment = as_dataclass(DiffusionPriorExperiment, given)
    experiment.validate()
    model, sampler = experiment.model, experiment.sampler
    model.validate()
    sampler.validate()
    assert (sampler.steps, sampler.guidance, sampler.clip_range) == (25, 4.0, 10.0)
    with torch.device("meta"):
        net = build_network(experiment, ParentSizes(embed_dim=768, text_width=768, context=77))
        assert model == empty(2048, 20, 32, KARLO).config
    assert sum(p.numel() for p in net.parameters()) == 1_022_028_544
