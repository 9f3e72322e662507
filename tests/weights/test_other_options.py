"""Networks of other sizes and options than the published ones: the same numbers, or a refusal.

Each is made with random weights by diffusers' own class, changed in one option at a time.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unclip.common.errors import UserError
from unclip.common.types import Caption, TextFeatures
from unclip.stages import registry
from unclip.weights.diffusers.find import find
from unclip.weights.maps.rules import to_ours
from unclip.weights.reading.folders import local
from unclip.weights.together import check_together

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
B, D, L, X = 2, 12, 7, 24

PRIOR: dict[str, Any] = dict(
    num_attention_heads=2, attention_head_dim=8, num_layers=2, embedding_dim=D, num_embeddings=L
)
DECODER: dict[str, Any] = dict(
    sample_size=16,
    in_channels=3,
    out_channels=6,
    down_block_types=["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
    up_block_types=["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
    mid_block_type="UNetMidBlock2DSimpleCrossAttn",
    block_out_channels=[8, 16],
    layers_per_block=1,
    norm_num_groups=4,
    cross_attention_dim=X,
    attention_head_dim=4,
    class_embed_type="identity",
    resnet_time_scale_shift="scale_shift",
)
UPSAMPLER: dict[str, Any] = dict(
    sample_size=16,
    in_channels=6,
    out_channels=3,
    down_block_types=["ResnetDownsampleBlock2D"] * 2,
    up_block_types=["ResnetUpsampleBlock2D"] * 2,
    block_out_channels=[8, 16],
    layers_per_block=1,
    norm_num_groups=4,
    add_attention=False,
)


def shaken(module: nn.Module) -> nn.Module:
    """With all weights random, also those that begin as zeros or ones."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in module.parameters():
            tensor += 0.2 * torch.randn(tensor.shape, generator=rng)
    return module.eval()


def imported(folder: Path, learned: bool = True) -> nn.Module:
    """The network that an import makes of the only stage in a folder, in float64."""
    found = find(local(folder), half=False)
    check_together(found)
    (each,) = found
    net = registry.STAGES[each.stage].build_network(each.experiment, each.sizes)
    state = to_ours(each.state(), each.rules(net), expected=net.state_dict(), source=str(folder))
    net.load_state_dict(state)
    return net.double().eval()


def some(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


T = torch.tensor([3, 977])
MASK = torch.tensor([[True] * 4 + [False] * (L - 4), [True] * L])


def both_priors(folder: Path, changed: dict[str, Any], absent: tuple[str, ...] = ()) -> tuple:
    values = PRIOR | changed
    theirs = shaken(diffusers.PriorTransformer(**values)).double()
    save(theirs, folder / "prior", absent)
    net = imported(folder)
    d, n = net.embed_dim, values["num_embeddings"]
    x, z_t, features = some(B, d), some(B, d) + 1, some(B, n, d)
    mask = MASK[:, :n]
    want = theirs(x, T, z_t, features, mask).predicted_image_embedding
    got = net(x, T, z_t=z_t, caption=Caption(features=features, tokens=None, mask=mask))
    return got, want


def both_decoders(folder: Path, changed: dict[str, Any], absent: tuple[str, ...] = ()) -> tuple:
    from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel

    values = DECODER | changed
    unet = shaken(diffusers.UNet2DConditionModel(**values)).double()
    save(unet, folder / "decoder", absent)
    project = shaken(
        UnCLIPTextProjModel(
            clip_embeddings_dim=D,
            clip_extra_context_tokens=3,
            time_embed_dim=4 * values["block_out_channels"][0],
            cross_attention_dim=values["cross_attention_dim"],
        )
    ).double()
    save(project, folder / "text_proj")
    if values["out_channels"] == 3:
        scheduler(folder / "decoder_scheduler", variance_type="fixed_small_log")
    net = imported(folder)
    size = values["sample_size"]
    x, z_i, z_t, features = some(B, 3, size, size), some(B, D), some(B, D) + 1, some(B, L, D)
    context, offset = project(
        image_embeddings=z_i,
        prompt_embeds=z_t,
        text_encoder_hidden_states=features,
        do_classifier_free_guidance=False,
    )
    mask = torch.nn.functional.pad(MASK, (3, 0), value=True)
    want = unet(
        x, T, encoder_hidden_states=context, class_labels=offset, attention_mask=mask.double()
    ).sample
    got = net(x, T, z_i=z_i, text=TextFeatures(z_t, features, MASK))
    return got, want


def both_upsamplers(folder: Path, changed: dict[str, Any], absent: tuple[str, ...] = ()) -> tuple:
    values = UPSAMPLER | changed
    theirs = shaken(diffusers.UNet2DModel(**values)).double()
    save(theirs, folder / "super_res_first", absent)
    if values["out_channels"] == 6:
        scheduler(folder / "super_res_scheduler", variance_type="learned_range")
    net = imported(folder)
    size = values["sample_size"]
    x = some(B, 6, size, size)
    return net.unet(x, T), theirs(x, T).sample


def scheduler(folder: Path, **values: Any) -> None:
    folder.mkdir()
    (folder / "scheduler_config.json").write_text(json.dumps(values))


def save(module: nn.Module, folder: Path, absent: tuple[str, ...] = ()) -> None:
    """As `save_pretrained` does in float32, without the fields in ``absent``."""
    module.float().save_pretrained(folder)
    file = folder / "config.json"
    values = {k: v for k, v in json.loads(file.read_text()).items() if k not in absent}
    file.write_text(json.dumps(values))
    module.double()


THREE = dict(
    block_out_channels=[8, 16, 24],
    down_block_types=["ResnetDownsampleBlock2D"] * 3,
    up_block_types=["ResnetUpsampleBlock2D"] * 3,
)
ATTENTION = ("SimpleCrossAttnDownBlock2D", "SimpleCrossAttnUpBlock2D")
PLAIN = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")


def levels(*kinds: tuple[str, str]) -> dict[str, Any]:
    """Blocks of these kinds going down."""
    down, up = zip(*kinds)
    return {"down_block_types": list(down), "up_block_types": list(up[::-1])}


WIDER = [
    {},
    dict(block_out_channels=[8, 8]),
    dict(layers_per_block=2),
    dict(norm_num_groups=2),
    dict(norm_num_groups=8),
    dict(dropout=0.3),
    dict(sample_size=20),
    dict(resnet_time_scale_shift="scale_shift"),
    dict(resnet_time_scale_shift="default"),
]
NARROWER = [  # of what a reader has no place for
    dict(block_out_channels=[16, 8]),
    dict(norm_eps=1e-6),
    dict(act_fn="gelu"),
    dict(flip_sin_to_cos=False),
    dict(freq_shift=1),
    dict(center_input_sample=True),
    dict(mid_block_scale_factor=2.0),
    dict(time_embedding_type="fourier"),
    dict(time_embedding_dim=40),
    dict(in_channels=7),
    dict(sample_size=[16, 16]),
    dict(mid_block_type=None),
]
SAME = [
    *[(both_priors, changed) for changed in (
        {},
        dict(num_attention_heads=4, attention_head_dim=4),
        dict(attention_head_dim=5),
        dict(num_layers=1),
        dict(embedding_dim=20),
        dict(num_embeddings=5),
        dict(dropout=0.5),
        dict(time_embed_dim=16, embedding_proj_dim=D, clip_embed_dim=D),
    )],
    *[(both_decoders, changed) for changed in (
        *WIDER,
        dict(attention_head_dim=8),
        dict(attention_head_dim=2),
        dict(cross_attention_dim=20),
        dict(out_channels=3),
        levels(ATTENTION, ATTENTION),
        levels(ATTENTION, PLAIN),
        levels(PLAIN, ATTENTION, ATTENTION) | dict(block_out_channels=[8, 16, 24]),
        levels(PLAIN, ATTENTION, PLAIN) | dict(block_out_channels=[8, 24, 16]),
        levels(ATTENTION) | dict(block_out_channels=[8]),
    )],
    *[(both_upsamplers, changed) for changed in (*WIDER, THREE, dict(out_channels=6))],
]  # fmt: skip
REFUSED = [
    *[(both_priors, changed) for changed in (
        dict(time_embed_act_fn="gelu"),
        dict(norm_in_type="layer"),
        dict(embedding_proj_norm_type="layer"),
        dict(encoder_hid_proj_type=None),
        dict(added_emb_type=None, additional_embeddings=3),
        dict(additional_embeddings=5),
        dict(time_embed_dim=20),
        dict(embedding_proj_dim=10),
        dict(clip_embed_dim=10),
    )],
    *[(both_decoders, changed) for changed in (
        *NARROWER,
        dict(attention_head_dim=[4, 8]),
        dict(layers_per_block=[1, 2]),
        dict(only_cross_attention=True),
        dict(only_cross_attention=[True, False]),
        dict(mid_block_only_cross_attention=True),
        dict(cross_attention_norm="layer_norm"),
        dict(resnet_skip_time_act=True),
        dict(resnet_out_scale_factor=2.0),
        dict(class_embed_type=None),
        dict(class_embed_type="timestep"),
        dict(class_embed_type="projection", projection_class_embeddings_input_dim=32),
        dict(class_embeddings_concat=True),
        dict(time_embedding_act_fn="silu"),
        dict(timestep_post_act="silu"),
        dict(encoder_hid_dim=X),
        dict(addition_embed_type="text"),
        dict(time_cond_proj_dim=8),
        dict(conv_in_kernel=5),
        dict(conv_out_kernel=5),
        dict(mid_block_type="UNetMidBlock2D"),
        levels(("DownBlock2D", "UpBlock2D"), ATTENTION),
    )],
    *[(both_upsamplers, changed) for changed in (
        *NARROWER,
        dict(out_channels=4),
        dict(add_attention=True, attention_head_dim=8),
        dict(time_embedding_type="learned", num_train_timesteps=1000),
        dict(class_embed_type="timestep"),
        dict(num_class_embeds=5),
        levels(("DownBlock2D", "UpBlock2D"), PLAIN),
    )],
]  # fmt: skip


def told(row: Any) -> str:
    return str(row)[:60] if isinstance(row, dict) else row.__name__.removeprefix("both_")


@torch.no_grad()
@pytest.mark.parametrize(("both", "changed"), SAME, ids=told)
def test_other_sizes_compute_what_diffusers_does(both, changed, tmp_path):
    got, want = both(tmp_path, changed)
    assert want.std() > 0.2
    assert (got - want).abs().max() < 1e-10


@torch.no_grad()
@pytest.mark.parametrize(("both", "changed"), REFUSED, ids=told)
def test_other_options_are_refused_by_name(both, changed, tmp_path):
    with pytest.raises(UserError) as caught:
        both(tmp_path, changed)
    assert any(f"{name}={value}" in str(caught.value) for name, value in changed.items())
    assert "config.json" in str(caught.value)


@torch.no_grad()
@pytest.mark.parametrize(
    ("both", "cls", "base"),
    [
        (both_priors, diffusers.PriorTransformer, PRIOR),
        (both_decoders, diffusers.UNet2DConditionModel, DECODER),
        (both_upsamplers, diffusers.UNet2DModel, UPSAMPLER),
    ],
    ids=told,
)
def test_a_field_that_is_absent_means_its_classs_default(both, cls, base, tmp_path):
    """With the default it is the same network; without, its files are refused."""
    defaults = inspect.signature(cls.__init__).parameters
    for name, field in defaults.items():
        if name == "self":
            continue
        folder = tmp_path / name
        folder.mkdir()
        try:
            got, want = both(folder, {}, (name,))
        except UserError:
            assert base.get(name, field.default) != field.default or name == "sample_size"
        else:
            assert (got - want).abs().max() < 1e-10
            assert base.get(name, field.default) == field.default or name in NOTED


NOTED = ("in_channels", "out_channels", "mid_block_type", "add_attention")
"""Their tensors say them too."""


def test_a_decoder_without_class_embeddings_is_another(tmp_path):
    """Its network ignores the CLIP embeddings: diffusers' default, where the field is absent."""
    with torch.no_grad(), pytest.raises(UserError, match="class_embed_type=null"):
        both_decoders(tmp_path, {"class_embed_type": None}, ("class_embed_type",))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"clip_sample": False, "num_train_timesteps": 10}, None),
        ({"clip_sample_range": 3.0, "prediction_type": "sample"}, None),
        ({"prediction_type": "v_prediction"}, "prediction_type=v_prediction"),
        ({"beta_schedule": "linear"}, "beta_schedule=linear"),
        ({"variance_type": "learned"}, "variance_type=learned"),
        ({"timestep_spacing": "trailing"}, "timestep_spacing=trailing"),
        ({"_class_name": "DDPMScheduler"}, "_class_name=DDPMScheduler"),
    ],
)
def test_schedulers_are_read_or_refused(values, says, tmp_path):
    save(shaken(diffusers.PriorTransformer(**PRIOR)), tmp_path / "prior")
    scheduler(tmp_path / "scheduler", **values)
    if says:
        with pytest.raises(UserError, match=f"scheduler_config.json: {says}"):
            find(local(tmp_path), half=False)
        return
    (found,) = find(local(tmp_path), half=False)
    experiment = found.experiment
    assert experiment.diffusion.steps == values.get("num_train_timesteps", 1000)
    assert experiment.sampler.steps == min(25, experiment.diffusion.steps)
    assert experiment.sampler.clip == ("static" if values.get("clip_sample", True) else "none")
    assert experiment.diffusion.prediction == ("x0" if "prediction_type" in values else "eps")
