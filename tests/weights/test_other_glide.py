"""GLIDE's networks in other options, one at a time: the numbers of its formulas, or a refusal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from glide_reference import OPTIONS, Glide
from golden_files import GOLDENS, state, tensors
from test_other_imports import FIRST

from unclip.common.errors import UserError
from unclip.stages import registry
from unclip.stages._diffusion.known import known_channels
from unclip.weights.importing import find
from unclip.weights.maps.rules import to_ours
from unclip.weights.reading.folders import local
from unclip.weights.together import check_together

KINDS = {"base": 3, "upsample": 6, "base_inpaint": 7, "upsample_inpaint": 10}
SIDE = 16
T = torch.tensor([3, 977])
TOKENS = torch.tensor([[64, 262, 5, 263, 263, 263], [1, 2, 3, 4, 5, 6]])


@torch.no_grad()
@pytest.mark.parametrize("name", ["base", "upsample", "base_inpaint"])
def test_the_reference_is_glides_own_classes(name):
    golden, stored = tensors(f"glide/{name}_io"), state(f"glide/{name}.pt")
    config = json.loads((GOLDENS / "glide/config.json").read_text())
    theirs = Glide(OPTIONS | config[name] | {"n_vocab": 40}, dict(stored))
    x = golden["x"]
    if name == "upsample":
        low = F.interpolate(golden["low_res"], x.shape[2:], mode="bilinear")
        x = torch.cat([x, low], dim=1)
    if name == "base_inpaint":
        mask = golden["inpaint_mask"]
        x = torch.cat([x, golden["inpaint_image"] * mask, mask], dim=1)
    found = theirs(x, golden["timesteps"], golden["tokens"], golden["mask"].bool())
    torch.testing.assert_close(found, golden["output_float64"], rtol=0, atol=1e-10)
    assert theirs.state.keys() == stored.keys()


def both(folder: Path, kind: str, **changed: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Our output of the import of a random network of these options, and the reference's."""
    noted = {k: changed.pop(k) for k in list(changed) if k not in OPTIONS}
    options = OPTIONS | {"in_channels": KINDS[kind]} | changed
    theirs, rng = Glide(options), torch.Generator().manual_seed(1)
    length, low_side = options["text_ctx"], SIDE // 4
    tokens = TOKENS.repeat(1, 2)[:, :length] % options["n_vocab"]
    mask = torch.arange(length) < torch.tensor([[2], [length]])

    def some(channels: int, side: int) -> torch.Tensor:
        return torch.randn(2, channels, side, side, generator=rng, dtype=torch.float64)

    x, image, keep, low = some(3, SIDE), some(3, SIDE), some(1, SIDE) > 0, some(3, low_side)
    beside = [image * keep, keep.double()] if kind.endswith("inpaint") else []
    if kind.startswith("upsample"):
        beside.append(F.interpolate(low, (SIDE, SIDE), mode="bilinear"))
    want = theirs(torch.cat([x, *beside], dim=1), T, tokens, mask)
    write(folder, kind, theirs.state, options | noted)
    net = imported(folder)
    known = known_channels(image, keep) if kind.endswith("inpaint") else None
    if kind.startswith("upsample"):
        return net(x, T, low, words=net.read(tokens, mask), known=known), want
    return net(x, T, tokens=tokens, mask=mask, known=known), want


def imported(folder: Path) -> Any:
    """The network that an import makes of the only file of weights, in float64."""
    (found,) = find(local(folder), half=False)
    check_together([found])
    with torch.device("meta"):
        net: Any = registry.STAGES[found.stage].build_network(found.experiment, found.sizes)
    ours = to_ours(found.state(), found.rules(net), expected=net.state_dict(), source="")
    net.load_state_dict(ours, assign=True)
    return net.double().eval()


def write(folder: Path, kind: str, state: dict[str, torch.Tensor], options: dict[str, Any]) -> None:
    torch.save(state, folder / f"{kind}.pt")
    values = {k: v for k, v in options.items() if k not in ("n_vocab", "norm_groups")}
    shared = {k: options[k] for k in ("n_vocab", "norm_groups")}
    shared |= {"end_token": options["n_vocab"] - 1}
    section = {"image_size": SIDE, **values}
    (folder / "config.json").write_text(json.dumps({kind: section, **shared}))
    merges = FIRST[: options["n_vocab"] - 257]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")


SAME = [
    {},
    dict(model_channels=12, num_head_channels=6),
    dict(model_channels=12, num_head_channels=8),  # divides the channels of level 1 alone
    dict(channel_mult=[2, 3], num_res_blocks=2),
    dict(channel_mult=[1, 2, 2], attention_resolutions=[1, 4]),
    dict(use_scale_shift_norm=False, norm_groups=2),
    dict(num_head_channels=2, num_heads=4),  # of which the former counts
    dict(text_ctx=9, n_vocab=258, xf_heads=8, xf_layers=2, xf_width=16),
]
MORE = [
    dict(model_channels=16),
    dict(model_channels=4, channel_mult=[2, 4], norm_groups=8),
    dict(num_res_blocks=2),
    dict(channel_mult=[1, 1]),
    dict(channel_mult=[1, 3, 2]),
    dict(channel_mult=[1], attention_resolutions=[1]),
    dict(channel_mult=[1, 2, 2], attention_resolutions=[2, 4]),
    dict(channel_mult=[1, 2, 2], attention_resolutions=[1]),
    dict(attention_resolutions=[1, 2, 8]),
    dict(num_head_channels=8),
    dict(num_head_channels=1),
    dict(use_scale_shift_norm=False),
    dict(norm_groups=8),
    dict(text_ctx=4),
    dict(xf_width=12),
    dict(xf_layers=3),
    dict(xf_heads=1),
]
NOTES = [  # that say nothing of what a network computes, or what it does anyway
    dict(num_heads=4),
    dict(num_heads_upsample=2),
    dict(cache_text_emb=True),
    dict(use_fp16=True),
    dict(use_checkpoint=True),
    dict(conv_resample=False),
    dict(dims=2, num_classes=None, encoder_channels=8),
    dict(share_unemb=True, xf_ar=0.0),
    dict(use_new_attention_order=False, legacy=None),
    dict(inpaint=False, super_res=False),
]
REFUSED = [
    dict(num_head_channels=-1, num_heads=2),
    dict(resblock_updown=False),
    dict(attention_resolutions=[]),
    dict(attention_resolutions=[64]),
    dict(out_channels=3),
    dict(xf_final_ln=False),
    dict(xf_padding=False),
    dict(xf_ar=0.5),
]


@torch.no_grad()
@pytest.mark.parametrize(
    "changed", SAME + [pytest.param(row, marks=pytest.mark.slow) for row in MORE], ids=str
)
def test_other_options_compute_what_glide_does(changed, tmp_path):
    got, want = both(tmp_path, "base", **changed)
    assert want.std() > 0.2
    assert (got - want).abs().max() < 1e-10


@torch.no_grad()
@pytest.mark.parametrize("kind", ["upsample", "base_inpaint", "upsample_inpaint"])
def test_so_do_upsamplers_and_inpainting(kind, tmp_path):
    got, want = both(tmp_path, kind, channel_mult=[1, 3], use_scale_shift_norm=False, xf_heads=1)
    assert want.std() > 0.2
    assert (got - want).abs().max() < 1e-10


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A base with its configuration."""
    folder = tmp_path_factory.mktemp("base")
    with torch.no_grad():
        both(folder, "base")
    return folder


def configured(base: Path, folder: Path, changed: dict[str, Any]) -> Path:
    """A copy of ``base`` with another configuration; None removes a value."""
    for file in base.iterdir():
        (folder / file.name).hardlink_to(file)
    file = folder / "config.json"
    content = json.loads(file.read_text())
    content |= {name: changed[name] for name in changed if name in content}
    section = {k: v for k, v in (content.pop("base") | changed).items() if v is not None}
    file.unlink()
    file.write_text(json.dumps(content | {"base": section}))
    return folder


@pytest.mark.parametrize("changed", NOTES, ids=str)
def test_notes_change_nothing(changed, base, tmp_path):
    (plain,) = find(local(base), half=False)
    (found,) = find(local(configured(base, tmp_path, changed)), half=False)
    assert found.experiment == plain.experiment


@torch.no_grad()
@pytest.mark.parametrize("changed", REFUSED, ids=str)
def test_an_option_without_a_network_is_refused_by_name(changed, tmp_path):
    with pytest.raises(UserError) as caught:
        both(tmp_path, "base", **changed)
    assert any(f"{name}={value}" in str(caught.value) for name, value in changed.items())
    assert "config.json" in str(caught.value)


@torch.no_grad()
@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (dict(xf_width=0), "base.pt: time_embed.0.weight is not a tensor of a network that unclip"),
        (dict(xf_layers=0), "base.pt: transformer.resblocks.0 is missing"),
    ],
    ids=str,
)
def test_a_network_without_a_caption_transformer_is_refused(changed, says, tmp_path):
    with pytest.raises(UserError, match=says):
        both(tmp_path, "base", **changed)


@torch.no_grad()
@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (dict(num_head_channels=3), "model.unet.head_channels: does not divide the 16 channels"),
        (dict(norm_groups=3), "model.unet.norm_groups: does not divide the 8 channels"),
        (dict(noise_schedule="quad"), "noise_schedule=quad"),
        (dict(timestep_respacing="ddim50"), "timestep_respacing=ddim50"),
        (dict(timestep_respacing="2000"), "timestep_respacing=2000"),
        (dict(timestep_respacing=[100]), "timestep_respacing=.100"),
        (dict(in_channels=4), "in_channels=4"),
        (dict(inpaint=None, super_res=True), "super_res=True"),
        (dict(num_classes=10), "num_classes=10"),
        (dict(dims=3), "dims=3"),
        (dict(encoder_channels=4), "encoder_channels=4"),
        (dict(use_new_attention_order=True), "use_new_attention_order=True"),
        (dict(num_heads=4, num_head_channels=None), "num_heads=4"),
        (dict(xf_heads=3), "xf_heads=3"),
        (dict(model_channels=16), "model_channels=16"),
        (dict(text_ctx=7), "text_ctx=7"),
        (dict(channel_mult=[1, 2.5]), "channel_mult="),
        (dict(use_scale_shift_norm=False), "use_scale_shift_norm=False"),
    ],
    ids=str,
)
def test_a_configuration_of_another_file_is_refused(changed, says, base, tmp_path):
    with pytest.raises(UserError, match=says):
        check_together(find(local(configured(base, tmp_path, changed)), half=False))


@pytest.mark.parametrize(
    ("changed", "steps"),
    [
        ({}, 100),
        ({"diffusion_steps": 60}, 60),
        ({"timestep_respacing": ""}, 100),
        ({"timestep_respacing": "27"}, "27"),
        ({"timestep_respacing": "10,10,3,2,2"}, "10,10,3,2,2"),
        ({"timestep_respacing": "fast27"}, "fast27"),
    ],
    ids=str,
)
def test_steps_are_those_of_the_file_or_of_the_notebooks(changed, steps, base, tmp_path):
    (found,) = find(local(configured(base, tmp_path, changed)), half=False)
    assert found.experiment.sampler.steps == steps


@pytest.mark.parametrize(("total", "steps"), [(1000, "fast27"), (50, "fast27"), (49, 49)])
def test_an_upsampler_takes_all_steps_where_fast27_does_not_fit(total, steps, tmp_path):
    with torch.no_grad():
        both(tmp_path, "upsample", diffusion_steps=total)
    (found,) = find(local(tmp_path), half=False)
    assert found.experiment.sampler.steps == steps
    found.experiment.validate()
