"""dalle2-pytorch's prior in other options, one at a time: its own outputs and samplings, or a line.

The golden is of its own classes; the metadata of the file has each ``prior_config.json``.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from golden_files import GOLDENS, Recorded
from safetensors import safe_open

from unclip.common.errors import UserError
from unclip.common.types import Caption
from unclip.stages._prior.diffusion_sampling import sample_prior
from unclip.stages.experiment import ParentSizes
from unclip.stages.laion_prior.network import build_network
from unclip.weights.importing import find
from unclip.weights.maps.rules import to_ours
from unclip.weights.reading.folders import local
from unclip.weights.together import check_together

GOLDEN = GOLDENS / "dalle2-pytorch" / "options.safetensors"
with safe_open(GOLDEN, "pt") as opened:
    CONFIGS = {name: json.loads(text) for name, text in sorted(opened.metadata().items())}
SAMPLED = ["eps", "v_clamped"] + [
    pytest.param(name, marks=pytest.mark.slow) for name in ("plain", "linear", "v", "final_clamp")
]
CLOSE = 1e-5  # of the largest: the golden numbers, float32, are up to 0.4 of that off themselves


def golden(name: str) -> dict[str, torch.Tensor]:
    with safe_open(GOLDEN, "pt") as file:
        found = {key: file.get_tensor(key) for key in sorted(file.keys())}
    prefix = f"{name}/"
    return {k.removeprefix(prefix): v for k, v in found.items() if k.startswith(prefix)}


def read(folder: Path, name: str, **changed):
    """What an import makes of a row of the golden, the configuration changed in some keys."""
    state = {k: v for k, v in golden(name).items() if k.startswith(("net.", "noise_scheduler."))}
    torch.save(state, folder / "latest.pth")
    config = CONFIGS[name]["prior"]
    config = config | changed | {"net": config["net"] | changed.get("net", {})}
    (folder / "prior_config.json").write_text(json.dumps({"prior": config}))
    (found,) = find(local(folder), half=False)
    check_together([found])
    with torch.device("meta"):
        net = build_network(found.experiment, ParentSizes()).eval()
    expected = net.state_dict()
    ours = to_ours(found.state(), found.rules(net), expected=expected, source=name)
    net.load_state_dict(ours, assign=True)
    return found.experiment, net


def given(io: dict[str, torch.Tensor]) -> tuple[torch.Tensor, Caption]:
    words = io["words"]
    return io["z_t"], Caption(None, words, (words != 0).any(dim=-1))


def assert_close(found: torch.Tensor, golden: torch.Tensor) -> None:
    torch.testing.assert_close(found, golden, rtol=0, atol=CLOSE * golden.abs().max().item())


@torch.no_grad()
@pytest.mark.parametrize("name", CONFIGS)
def test_other_options_compute_what_dalle2_pytorch_does(name, tmp_path):
    _, net = read(tmp_path, name)
    io = golden(name)
    z_t, caption = given(io)

    def predict(keep=None):
        return net(io["x"], io["t"], z_t=z_t, caption=caption, keep=keep)

    assert_close(predict(), io["output"])
    nothing = torch.zeros(len(z_t), dtype=torch.bool)
    assert_close(predict(nothing), io["dropped"])


@torch.no_grad()
@pytest.mark.parametrize("name", SAMPLED)
def test_other_predictions_are_sampled_as_dalle2_pytorch_does(name, tmp_path):
    """All steps, guided by 2, with its noise. Its samples keep their length, ours are unit."""
    experiment, net = read(tmp_path, name)
    io = golden(name)
    z_t, caption = given(io)
    sampler = experiment.sampler
    assert (sampler.sampler, sampler.steps) == ("ddpm", experiment.diffusion.steps)
    found = sample_prior(
        net,
        z_t=z_t,
        caption=caption,
        diffusion=experiment.diffusion,
        sampler=replace(sampler, guidance=2.0, candidates=1),
        noise=Recorded(io["noise"][:, :, None]),  # one candidate of each caption
    )
    assert_close(found, F.normalize(io["sample"], dim=-1))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"net": {"num_text_embeds": 2}}, "prior.net.num_text_embeds=2: only 1"),
        ({"net": {"num_image_embeds": 2}}, "prior.net.num_image_embeds=2: only 1"),
        ({"net": {"ff_mult": 1.5}}, "prior.net.ff_mult=1.5: only 1"),
        ({"net": {"dim_head": 7}}, "prior.net.dim_head=7: only 8"),
        ({"beta_schedule": "quadratic"}, "prior.beta_schedule=quadratic"),
        ({"sampling_clamp_l2norm": True}, "prior.sampling_clamp_l2norm=True: only false"),
        ({"init_image_embed_l2norm": True}, "prior.init_image_embed_l2norm=True: only false"),
        ({"sample_timesteps": 0}, "prior.sample_timesteps=0"),
        ({"text_cond_drop_prob": 2}, "prior.text_cond_drop_prob=2"),
        ({"net": {"max_text_len": 6}}, "prior.net.max_text_len=6: only 5"),
        ({"sample_timesteps": 2}, "prior.sample_timesteps=2"),
    ],
    ids=str,
)
def test_an_option_without_a_network_is_refused_by_name(changed, says, tmp_path):
    with pytest.raises(UserError, match=f"prior_config.json: .*{says}"):
        read(tmp_path, "plain", **changed)


@pytest.mark.parametrize(
    ("changed", "shares"),
    [
        ({}, (0.1, 0.1)),
        ({"text_cond_drop_prob": 0.0}, (0.0, 0.1)),
        ({"image_cond_drop_prob": 0.3, "text_cond_drop_prob": None}, (0.1, 0.3)),
    ],
    ids=str,
)
def test_what_is_dropped_in_training_is_of_its_own_or_of_both(changed, shares, tmp_path):
    experiment, _ = read(tmp_path, "plain", **changed)
    assert (experiment.drop_text, experiment.drop_x_t) == shares
