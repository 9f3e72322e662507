"""LAION's prior: dalle2-pytorch's network with its weights, and what a checkpoint of it holds."""

from __future__ import annotations

import collections
import json
import sys
import types
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file

from unclip.common import json_text
from unclip.common.errors import UserError
from unclip.common.types import Caption
from unclip.stages.experiment import ParentSizes
from unclip.stages.laion_prior.config import LaionPriorExperiment
from unclip.stages.laion_prior.network import LaionPrior, build_network
from unclip.weights.maps.dalle2_prior import RULES
from unclip.weights.maps.rules import to_ours, to_theirs
from unclip.weights.originals.laion import from_dalle2
from unclip.weights.reading.tensors import read_file, state_of

GOLDEN = Path(__file__).parents[1] / "goldens" / "dalle2-pytorch"
CONFIG, CHECKPOINT = GOLDEN / "prior_config.json", GOLDEN / "prior.pth"


class Read(NamedTuple):
    experiment: LaionPriorExperiment
    weights: dict[str, torch.Tensor]


def read_prior(checkpoint: Path, config: Path) -> Read:
    """What an import of the two files writes."""
    where = str(checkpoint)
    state = state_of(read_file(checkpoint, where), where)
    found = from_dalle2(state, where, json_text.read_object(config), str(config))
    with torch.device("meta"):
        expected = build_network(found.experiment, ParentSizes()).state_dict()
    weights = to_ours(found.state(), found.rules(None), expected=expected, source=where)
    return Read(found.experiment, weights)


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> LaionPrior:
    """The plain weights, of which the golden's outputs are."""
    plain = tmp_path_factory.mktemp("plain") / "prior.pth"
    torch.save(torch.load(CHECKPOINT, weights_only=True)["model"], plain)
    read = read_prior(plain, CONFIG)
    net = build_network(read.experiment, ParentSizes()).eval()
    net.load_state_dict(read.weights)
    return net


@torch.no_grad()
@pytest.mark.parametrize("longer", [0, 3])
def test_it_computes_what_dalle2_pytorch_computes(net, longer):
    """Words after the ``max_text_len`` that it reads are cut."""
    io = load_file(GOLDEN / "prior_io.safetensors")
    words = torch.cat([io["text_encodings"], torch.ones(3, longer, 16)], dim=1)
    none, every = torch.zeros(3, dtype=torch.bool), torch.ones(3, dtype=torch.bool)
    given = dict(z_t=io["text_embed"], caption=Caption(None, words, (words != 0).any(dim=-1)))

    def predict(**dropped):
        return net(io["image_embed"], io["timesteps"], **given, **dropped)

    alone, nothing = predict(), predict(keep=none)
    close = dict(atol=1e-5, rtol=0)
    torch.testing.assert_close(alone, io["output"], **close)
    torch.testing.assert_close(predict(keep=every), io["output"], **close)
    without_text = predict(keep=none, keep_x_t=every)
    torch.testing.assert_close(without_text, io["output_text_dropped"], **close)
    torch.testing.assert_close(nothing, io["output_all_dropped"], **close)
    torch.testing.assert_close(torch.lerp(nothing, alone, 2.0), io["output_scale_2"], **close)
    assert net.scale == pytest.approx(io["image_embed_scale"].item())


@torch.no_grad()
def test_words_that_clip_does_not_have_are_padding(net):
    """CLIP's 77 tokens in a sequence of 256 words, as LAION's prior has it."""
    io = load_file(GOLDEN / "prior_io.safetensors")
    short = io["text_encodings"][:, :4]
    filled = torch.cat([short, torch.zeros(3, 2, 16)], dim=1)
    found = [
        net(
            io["image_embed"],
            io["timesteps"],
            z_t=io["text_embed"],
            caption=Caption(None, words, (words != 0).any(dim=-1)),
        )
        for words in (short, filled)
    ]
    assert torch.equal(*found)


def test_the_averaged_weights_are_read_and_names_go_back_bit_for_bit():
    stored = torch.load(CHECKPOINT, weights_only=True)
    read = read_prior(CHECKPOINT, CONFIG)
    theirs = to_theirs(read.weights, RULES)
    wanted = {k: v for k, v in stored["ema_model"].items() if k.startswith("net.")}
    others = {k for k in wanted if "layers.1" in k and k.endswith(".freqs")}
    assert theirs.keys() == wanted.keys() - others
    assert all(torch.equal(theirs[name], wanted[name]) for name in theirs)
    wanted = stored["model"]
    assert not torch.equal(theirs["net.learned_query"], wanted["net.learned_query"])


def test_what_its_config_says_is_what_is_sampled():
    experiment = read_prior(CHECKPOINT, CONFIG).experiment
    model = experiment.model
    assert (model.embed_dim, model.layers, model.heads, model.head_channels) == (16, 2, 4, 8)
    assert (model.context, model.mlp_ratio, model.dropout) == (6, 2, 0.05)
    assert (experiment.diffusion.steps, experiment.diffusion.prediction) == (100, "x0")
    sampler = experiment.sampler
    assert (sampler.sampler, sampler.steps, sampler.eta) == ("ddim", "inner63", 1.0)
    assert (experiment.drop_text, experiment.drop_x_t) == (0.1, 0.1)


def written(tmp_path: Path, content: dict, *, config: dict | None = None) -> tuple[Path, Path]:
    files = tmp_path / "latest.pth", tmp_path / "prior_config.json"
    torch.save(content, files[0])
    stored = json.loads(CONFIG.read_text())
    stored["prior"]["net"] |= (config or {}).pop("net", {})
    stored["prior"] |= config or {}
    files[1].write_text(json.dumps(stored))
    return files


@pytest.fixture
def stored() -> dict:
    return torch.load(CHECKPOINT, weights_only=True)


class Version:
    """Would tell if it was made."""

    made = 0

    def __setstate__(self, state):
        Version.made += 1
        self.__dict__.update(state)


def test_a_trainers_objects_are_passed_over(tmp_path, stored, monkeypatch):
    """`packaging.version` objects and optimizers, as the published files hold them."""
    module = types.ModuleType("packaging.of_a_test")
    module.Version = Version
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(Version, "__module__", module.__name__)
    stored["version"] = Version()
    stored["version"].release = (1, 15)
    stored["optimizer"] = {"state": collections.defaultdict(dict, {0: {"step": 1}})}
    read = read_prior(*written(tmp_path, stored))
    assert torch.equal(read.weights["query"], stored["ema_model"]["net.learned_query"])
    assert Version.made == 0


def test_a_slim_file_and_the_clip_in_it(tmp_path, stored):
    slim = stored["model"] | {"clip.clip.logit_scale": torch.zeros(())}
    read = read_prior(*written(tmp_path, slim))
    assert torch.equal(read.weights["query"], slim["net.learned_query"])


class Elsewhere:
    pass


def broken(change: str, stored: dict) -> tuple[dict, dict]:
    """A checkpoint and changes to its config."""
    net = stored["model"]
    stored.pop("ema_model")
    extra: dict[str, torch.Tensor] = {}
    if change == "missing":
        net.pop("net.causal_transformer.layers.1.0.to_q.weight")
    if change == "extra":
        extra = {"net.more": torch.zeros(2)}
    if change == "another":
        extra = {"unets.0.weight": torch.zeros(2)}
    if change == "shape":
        net["net.null_text_embeds"] = torch.zeros(1, 1, 8)
    if change == "schedule":
        net["noise_scheduler.alphas_cumprod"] = torch.linspace(1, 0, 100)
    if change == "frequencies":
        net["net.causal_transformer.layers.1.0.rotary_emb.freqs"] = torch.ones(4)
    if change == "class":
        stored["version"] = Elsewhere()
    stored["model"] = net | extra
    return stored, {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", "net.causal_transformer.layers.1.0.to_q.weight is missing"),
        ("extra", "net.more has no place"),
        ("another", "unets.0.weight has no place in a prior"),
        ("shape", r"net.null_text_embeds has the shape \[1, 1, 8\]"),
        ("schedule", "alphas_cumprod is not that of diffusion.schedule=cosine of 100"),
        ("frequencies", "layers.1.0.rotary_emb.freqs differs"),
        ("class", "Elsewhere, which could run code"),
    ],
)
def test_another_checkpoint_is_refused(tmp_path, stored, change, message):
    with pytest.raises(UserError, match=message) as refused:
        read_prior(*written(tmp_path, broken(change, stored)[0]))
    assert "\n" not in str(refused.value)
    assert "latest.pth" in str(refused.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"net": {"num_time_embeds": 2}}, "prior.net.num_time_embeds=2: only 1"),
        ({"net": {"self_cond": True}}, "prior.net.self_cond=True: only false"),
        ({"net": {"flash": 1}}, "prior.net.flash=1: no network of unclip does that"),
        ({"guess": 1}, "prior.guess=1: no network of unclip does that"),
        ({"condition_on_text_encodings": False}, "condition_on_text_encodings=False"),
        ({"net": {"num_timesteps": None}}, "prior.net.num_timesteps=None: only 100"),
        ({"timesteps": 50}, "prior.timesteps=50: the weights have a table of 100"),
        ({"beta_schedule": "jsd"}, "prior.beta_schedule=jsd"),
        ({"image_embed_scale": 1.0}, "prior.image_embed_scale=1.0: only the root"),
        ({"image_embed_dim": 32}, "prior.image_embed_dim=32"),
        ({"sample_timesteps": 200}, r"prior.sample_timesteps=200: must be null, or in \[3, 100\]"),
        ({"net": {"heads": 2}}, "prior.net.heads=2: only 4"),
        ({"net": {"normformer": False}}, "prior.net.normformer=False: only true"),
        ({"net": {"rotary_emb": False}}, "prior.net.rotary_emb=False: only true"),
        ({"net": {"depth": "two"}}, "prior.net.depth=two: only 2"),
        ({"net": {"depth": 10**9}}, "prior.net.depth=1000000000: only 2"),
        ({"image_embed_scale": "big"}, "prior.image_embed_scale=big: no network"),
    ],
)
def test_another_configuration_is_refused(tmp_path, stored, config, message):
    with pytest.raises(UserError, match=message) as refused:
        read_prior(*written(tmp_path, stored, config=config))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"not a checkpoint"])
def test_a_damaged_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.pth: "):
        read_prior(tmp_path / "a.pth", CONFIG)
