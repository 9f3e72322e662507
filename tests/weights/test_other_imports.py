"""GLIDE's networks and LAION's prior, imported: networks, settings and refusals."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from golden_files import GOLDENS, Recorded, state, tensors
from imports import clip_folder
from safetensors.torch import load_file

from unclip.cli import main
from unclip.common import artifacts
from unclip.common.types import Caption
from unclip.diffusion.config import DiffusionConfig
from unclip.diffusion.schedules import full_schedule
from unclip.pipeline.cascade import load_part
from unclip.stages import registry
from unclip.stages._diffusion.known import known_channels
from unclip.weights.importing import import_weights

FIRST = ["Ġ t", "Ġ a", "h e", "i n", "r e", "o n", "Ġt he"]  # GPT-2's tokens 256 to 262
VOCABULARY = 256 + len(FIRST) + 1
EXACT = dict(rtol=0, atol=1e-10)


def glide_folder(root: Path, *names: str, merges: str | None = "merges.txt") -> Path:
    """Networks of tests/goldens/glide with more tokens, none of which their captions have."""
    root.mkdir()
    for name in names:
        found = state(f"glide/{name}.pt")
        table = found["token_embedding.weight"]
        found["token_embedding.weight"] = torch.cat(
            [table, torch.zeros(VOCABULARY - len(table), table.shape[1])]
        )
        torch.save(found, root / f"{name}.pt")
    config = json.loads((GOLDENS / "glide/config.json").read_text())
    config |= {"n_vocab": VOCABULARY, "end_token": VOCABULARY - 1}
    for name in ("base", "upsample", "base_inpaint"):
        del config[name]["noise_schedule"]  # the published files have no configuration at all
    (root / "config.json").write_text(json.dumps(config))
    if merges:
        (root / merges).write_text("#version: 0.2\n" + "\n".join(FIRST) + "\n")
    return root


def loaded(kind: str, folder: Path):
    return registry.STAGES[kind].load(folder / kind)


def decoder_of(folder: Path):
    """Its CLIP is of no importance."""
    import_weights(str(clip_folder(folder.parent / "clip")), folder)
    clip = registry.STAGES["clip"].load(folder / "clip")
    return registry.STAGES["decoder"].load(folder / "decoder", clip)


@torch.no_grad()
@pytest.mark.parametrize("name", ["base", "base_inpaint"])
def test_glides_bases_are_decoders(tmp_path, name):
    out = tmp_path / "out"
    import_weights(str(glide_folder(tmp_path / "source", name)), out)
    part, io = decoder_of(out), tensors(f"glide/{name}_io")
    known = None
    if name == "base_inpaint":
        known = known_channels(io["inpaint_image"], io["inpaint_mask"] > 0)
    net = part.net.double()
    given = {"tokens": io["tokens"], "mask": io["mask"].bool(), "known": known}
    torch.testing.assert_close(
        net(io["x"], io["timesteps"], **given), io["output_float64"], **EXACT
    )
    assert (part.takes, part.sampler.sampler, part.sampler.steps) == ("none", "ddpm", 100)
    assert part.sampler.guidance == (5.0 if known is not None else 3.0)
    assert part.diffusion.schedule == "cosine"
    assert part.tokenize(["a the"]).tolist() == [[64, 262, *[VOCABULARY - 1] * 4]]
    model = artifacts.describe(out / "decoder").config["model"]
    assert model["merges"] == str(out / "decoder" / "merges.txt")  # for training it further


@torch.no_grad()
def test_glides_upsampler_is_one_of_ours(tmp_path):
    out = tmp_path / "out"
    import_weights(str(glide_folder(tmp_path / "source", "base", "upsample")), out)
    part, io = loaded("upsampler", out), tensors("glide/upsample_io")
    net = part.net.double()
    words = net.read(io["tokens"], io["mask"].bool())
    found = net(io["x"], io["timesteps"], io["low_res"], words=words)
    torch.testing.assert_close(found, io["output_float64"], **EXACT)
    config, sampler = part.net.config, part.sampler
    assert (config.image_size, config.low_size, config.enlarge) == (32, 16, "bilinear")
    assert (sampler.sampler, sampler.steps, sampler.start_scale) == ("ddim", "fast27", 0.997)
    assert part.diffusion.schedule == "linear"
    for kind in ("decoder", "upsampler"):  # they take no embeddings, so any CLIP will do
        found = artifacts.describe(out / kind)
        assert (found.embeddings, found.embed_dim, found.clip_fingerprint) == (None, None, None)


def test_an_inpainting_upsampler_takes_ten_channels(tmp_path):
    source = glide_folder(tmp_path / "source", "upsample")
    found = torch.load(source / "upsample.pt", weights_only=True)
    first = found["input_blocks.0.0.weight"]
    x, low = first.split(3, dim=1)
    found["input_blocks.0.0.weight"] = torch.cat([x, torch.zeros(16, 4, 3, 3), low], dim=1)
    torch.save(found, source / "upsample.pt")
    config = json.loads((source / "config.json").read_text())
    config["upsample_inpaint"] = config.pop("upsample") | {"in_channels": 10}
    (source / "config.json").write_text(json.dumps(config))
    import_weights(str(source), tmp_path / "out")
    part, io = loaded("upsampler", tmp_path / "out"), tensors("glide/upsample_io")
    assert part.net.config.inpaint
    assert part.sampler.sampler == "ddpm"
    net = part.net.double()
    with torch.no_grad():  # what is known goes between, into channels that weigh nothing
        words = net.read(io["tokens"], io["mask"].bool())
        image, keep = torch.randn(3, 3, 32, 32), torch.rand(3, 1, 32, 32) < 0.5
        known = known_channels(image, keep)
        got = net(io["x"], io["timesteps"], io["low_res"], words=words, known=known)
    torch.testing.assert_close(got, io["output_float64"], **EXACT)


def laion_folder(root: Path) -> Path:
    """The plain weights of tests/goldens/dalle2-pytorch, of which its outputs are."""
    root.mkdir(parents=True)
    torch.save(torch.load(GOLDENS / "dalle2-pytorch/prior.pth")["model"], root / "latest.pth")
    shutil.copy(GOLDENS / "dalle2-pytorch/prior_config.json", root)
    return root


@pytest.fixture(scope="module")
def laion(tmp_path_factory):
    """LAION's prior with a CLIP of its size, from the folder ``prior`` of a larger one."""
    root = tmp_path_factory.mktemp("laion")
    laion_folder(root / "source" / "prior")
    (root / "source" / "decoder").mkdir()
    torch.save({"x": torch.zeros(2)}, root / "source" / "decoder" / "latest.pth")
    clip = clip_folder(root / "clip", 16)
    import_weights(str(root / "source"), root / "out", clip=str(clip))
    return root / "out"


def their_ddim(net, z_t, caption, noise, *, off: int) -> torch.Tensor:
    """dalle2-pytorch's sampling of 64 of 100 steps; it reads alpha-bar ``off`` timesteps early."""
    alpha_bar = full_schedule(DiffusionConfig(steps=100)).alpha_bar
    early = torch.cat([torch.ones(off, dtype=torch.float64), alpha_bar])
    times = torch.linspace(-1.0, 100, 65)[:-1].int().tolist()[::-1]
    x = next(noise)
    for time, after in pairwise(times):
        x0 = net(x, torch.full((len(x),), time), z_t=z_t, caption=caption)
        eps = (x - alpha_bar[time].sqrt() * x0) / (1 - alpha_bar[time]).sqrt()
        if after < 0:
            return x0
        here, there = early[time], early[after]
        c1 = ((1 - here / there) * (1 - there) / (1 - here)).sqrt()
        c2 = (1 - there - c1**2).sqrt()
        x = x0 * there.sqrt() + c1 * next(noise) + c2 * eps
    raise AssertionError


@torch.no_grad()
def test_laions_prior_is_a_stage_that_samples_as_dalle2_pytorch_does(laion):
    part = load_part("prior", laion / "prior", registry.STAGES["clip"].load(laion / "clip"))
    io, net = load_file(GOLDENS / "dalle2-pytorch/prior_io.safetensors"), part.net
    words = io["text_encodings"]
    caption = Caption(None, words, (words != 0).any(dim=-1))
    found = net(io["image_embed"], io["timesteps"], z_t=io["text_embed"], caption=caption)
    torch.testing.assert_close(found, io["output"], rtol=0, atol=1e-5)

    net.double()
    z_t, caption = io["text_embed"].double(), caption._replace(features=words.double())
    noise = torch.randn(64, 3, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sampler = replace(part.sampler, candidates=1)
    got = part.sample(z_t, caption, Recorded(noise[:, :, None]), sampler=sampler)
    exact = F.normalize(their_ddim(net, z_t, caption, iter(noise), off=0), dim=-1)
    torch.testing.assert_close(got, exact, rtol=0, atol=1e-8)
    theirs = F.normalize(their_ddim(net, z_t, caption, iter(noise), off=1), dim=-1)
    assert 1e-6 < (got - theirs).abs().max() < 0.2


def test_laions_prior_brings_its_clip_to_unit_embeddings(laion, tmp_path, capsys):
    assert artifacts.describe(laion / "clip").embeddings == "unit"
    assert artifacts.describe(laion / "prior").stage == "laion_prior"
    out = tmp_path / "out"  # the CLIP alone is raw
    clip = str(clip_folder(tmp_path / "clip", 16))
    assert main(["import", clip, "--out", str(out)]) == 0
    assert artifacts.describe(out / "clip").embeddings == "raw"
    source = str(laion_folder(tmp_path / "source"))
    capsys.readouterr()
    assert main(["import", source, "--out", str(out)]) == 2
    assert "is of unit embeddings" in capsys.readouterr().err
    assert main(["import", source, "--out", str(out), "--clip", clip, "--force"]) == 0
    assert artifacts.describe(out / "clip").embeddings == "unit"
    assert main(["import", clip, "--out", str(out), "--force"]) == 0
    assert artifacts.describe(out / "clip").embeddings == "unit"
