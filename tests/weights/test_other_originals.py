"""Karlo's own layout in other sizes: files with the values of its configurations, or a refusal.

What the names and rows of these tensors mean, the goldens hold; here shapes and values vary.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from imports import CONTEXT, D

from unclip.common.errors import UserError
from unclip.nn.config import UNetConfig
from unclip.stages import registry
from unclip.stages.experiment import ParentSizes
from unclip.weights.importing import find
from unclip.weights.karlo_experiments import (
    decoder_experiment,
    prior_experiment,
    upsampler_experiment,
)
from unclip.weights.maps import decoder, prior, upsampler
from unclip.weights.maps.rules import to_ours, to_theirs
from unclip.weights.reading.folders import local
from unclip.weights.settings import scheduler

GROUPS = 2
BASE = dict(
    image_size=16,
    num_channels=8,
    num_res_blocks=1,
    channel_mult="1,2",
    attention_resolutions="8",
    num_heads=-1,
    num_head_channels=4,
    use_scale_shift_norm=True,
    resblock_updown=True,
    dropout=0.1,
    clip_dim=D,
    clip_emb_mult=4,
    xf_width=20,
    learn_sigma=True,
)
PRIOR = dict(text_ctx=CONTEXT, xf_width=16, xf_layers=2, xf_heads=2, clip_dim=D, xf_final_ln=True)
SR = dict(channels=8, depth=1, channels_multiple=[1, 2], dropout=0.0)


def numbers(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]


def decoder_of(h: dict[str, Any], sides: list[int]) -> Any:
    unet = UNetConfig(
        channels=h["num_channels"],
        blocks=h["num_res_blocks"],
        multiples=numbers(h["channel_mult"]),
        attention=sides,
        head_channels=h["num_head_channels"],
        dropout=h["dropout"],
        norm_groups=GROUPS,
    )
    sizes = h["image_size"], h["clip_dim"], h["clip_emb_mult"], h["xf_width"]
    chain = scheduler({"variance_type": "learned_range"}, "", image=True)
    return decoder_experiment(*sizes, unet, 50, chain)


def prior_of(h: dict[str, Any]) -> Any:
    sizes = h["clip_dim"], h["text_ctx"], h["xf_width"], h["xf_layers"], h["xf_heads"]
    chain = scheduler({"prediction_type": "sample", "clip_sample_range": 10.0}, "", image=False)
    return prior_experiment(*sizes, 0.0, chain)


def upsampler_of(h: dict[str, Any]) -> Any:
    unet = UNetConfig(
        channels=h["channels"],
        blocks=h["depth"],
        multiples=h["channels_multiple"],
        attention=[],
        dropout=h["dropout"],
        norm_groups=GROUPS,
        time="additive",
    )
    return upsampler_experiment(256, 64, True, unet, scheduler({}, "", image=True))


def network(experiment: Any) -> Any:
    torch.manual_seed(0)
    stage = next(r for r in registry.STAGES.values() if isinstance(experiment, r.experiment))
    context = getattr(experiment.model, "context", CONTEXT)
    net = stage.build_network(experiment, ParentSizes(D, D, context))
    for parameter in net.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    return net


def write(folder: Path, kind: str, net: Any, values: dict[str, Any]) -> None:
    rules = {"prior": prior, "decoder": decoder, "improved_sr": upsampler}[kind].karlo(net)
    state = to_theirs(net.state_dict(), rules)
    if kind == "prior":
        torch.save((state.pop("stats.mean"), state.pop("stats.std")), folder / "stats.th")
    torch.save({"state_dict": state}, folder / f"{kind}.ckpt")
    section = {"model": {"type": kind, "hparams": values}}
    (folder / "config.json").write_text(json.dumps({kind: section, "norm_groups": GROUPS}))


def check(folder: Path, experiment: Any, net: Any) -> None:
    """The import is of the same network: of every value of its configuration, and every tensor."""
    (found,) = find(local(folder), half=False)
    own, theirs = found.experiment.model, experiment.model
    assert own.unet == theirs.unet if hasattr(own, "unet") else own == theirs
    again = network(found.experiment)
    expected = again.state_dict()
    state = to_ours(found.state(), found.rules(again), expected=expected, source="")
    assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(
    ("changed", "sides"),
    [
        ({}, [8]),
        ({"channel_mult": "1, 2"}, [8]),
        ({"channel_mult": "1,2,3", "attention_resolutions": "8,4"}, [8, 4]),
        ({"channel_mult": "1,2,3", "attention_resolutions": "4,8"}, [8, 4]),
        ({"channel_mult": "1,3,2", "attention_resolutions": "16,4"}, [16, 4]),
        ({"channel_mult": "1,1", "attention_resolutions": "32,16,8"}, [16, 8]),
        ({"channel_mult": "2,3"}, [8]),
        ({"channel_mult": "1", "attention_resolutions": "16"}, [16]),
        ({"num_res_blocks": 3}, [8]),
        ({"num_head_channels": 8}, [8]),
        ({"num_head_channels": 2, "num_channels": 12}, [8]),
        ({"image_size": 32, "attention_resolutions": "16"}, [16]),
        ({"clip_emb_mult": 3, "xf_width": 24}, [8]),
        ({"dropout": 0.3}, [8]),
    ],
    ids=str,
)
def test_decoders_of_other_sizes(changed, sides, tmp_path):
    values = BASE | changed
    experiment = decoder_of(values, sides)
    net = network(experiment)
    write(tmp_path, "decoder", net, values)
    check(tmp_path, experiment, net)


@pytest.mark.parametrize(
    "changed",
    [
        {"channel_mult": "1,3"},
        {"channel_mult": [1.5]},
        {"attention_resolutions": "16"},
        {"attention_resolutions": "16,8"},
        {"attention_resolutions": "eight"},
        {"num_res_blocks": 2},
        {"num_channels": 16},
        {"num_head_channels": -1},
        {"use_scale_shift_norm": False},
        {"resblock_updown": False},
        {"clip_emb_mult": 5},
        {"clip_emb_type": "text"},
        {"learn_sigma": False},
        {"tiling": True},
    ],
    ids=str,
)
def test_a_decoder_of_another_configuration_is_refused(changed, tmp_path):
    write(tmp_path, "decoder", network(decoder_of(BASE, [8])), BASE | changed)
    ((name, value),) = changed.items()
    with pytest.raises(UserError) as caught:
        find(local(tmp_path), half=False)
    assert f"config.json: {name}={value}" in str(caught.value)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"xf_heads": 4},
        {"xf_layers": 1, "text_ctx": 5},
        {"xf_width": 24, "xf_heads": 3},
        {"clip_dim": 20},
    ],
    ids=str,
)
def test_priors_of_other_sizes(changed, tmp_path):
    values = PRIOR | changed
    experiment = prior_of(values)
    net = network(experiment)
    write(tmp_path, "prior", net, values)
    check(tmp_path, experiment, net)


@pytest.mark.parametrize(
    "changed",
    [{"xf_heads": 3}, {"xf_padding": True}, {"xf_final_ln": False}, {"xf_layers": 3}],
    ids=str,
)
def test_a_prior_of_another_configuration_is_refused(changed, tmp_path):
    write(tmp_path, "prior", network(prior_of(PRIOR)), PRIOR | changed)
    ((name, value),) = changed.items()
    with pytest.raises(UserError, match=f"config.json: {name}={value}"):
        find(local(tmp_path), half=False)


@pytest.mark.parametrize(
    "changed",
    [{}, {"channels": 12}, {"depth": 2}, {"channels_multiple": [1, 2, 3]}, {"dropout": 0.2}],
    ids=str,
)
def test_upsamplers_of_other_sizes(changed, tmp_path):
    values = SR | changed
    experiment = upsampler_of(values)
    net = network(experiment)
    write(tmp_path, "improved_sr", net, values)
    (found,) = find(local(tmp_path), half=False)
    kept = ("channels", "blocks", "multiples", "dropout", "norm_groups", "time")
    assert all(
        getattr(found.experiment.model.unet, name) == getattr(experiment.model.unet, name)
        for name in kept
    )
    again = network(found.experiment)
    expected = again.state_dict()
    state = to_ours(found.state(), found.rules(again), expected=expected, source="")
    assert all(torch.equal(state[name], tensor) for name, tensor in net.state_dict().items())
