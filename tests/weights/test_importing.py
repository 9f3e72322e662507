"""Published layouts become a cascade that computes what the original networks do."""

from __future__ import annotations

import shutil

import pytest
import torch
from imports import GOLDENS, D, change, karlo_folder
from safetensors.torch import load_file, save_file

from unclip.cli import main
from unclip.common import artifacts
from unclip.common.types import Caption, TextFeatures
from unclip.pipeline.cascade import open_folder
from unclip.stages import registry
from unclip.weights.importing import import_weights
from unclip.weights.reading.tensors import read_file


@pytest.fixture(scope="module")
def karlo(tmp_path_factory):
    """The tiny Karlo of diffusers' layout, imported with its CLIP."""
    root = tmp_path_factory.mktemp("karlo")
    out = root / "cascade"
    import_weights(str(karlo_folder(root / "source")), out)
    return out


def check_networks(prior, decoder, upsampler):
    """Each forward in float64 against Karlo's own networks."""
    io = {
        k: v.double() if v.is_floating_point() else v
        for k, v in load_file(GOLDENS / "karlo" / "prior_io.safetensors").items()
    }
    caption = Caption(features=io["text_enc"], tokens=None, mask=io["mask"].bool())
    found = prior.net.double()(io["x"], io["timesteps"], z_t=io["text_emb"], caption=caption)
    assert (found - io["output_float64"]).abs().max() < 1e-10
    io = {
        k: v.double() if v.is_floating_point() else v
        for k, v in load_file(GOLDENS / "karlo" / "decoder_io.safetensors").items()
    }
    text = TextFeatures(io["text_emb"], io["text_enc"], io["mask"].bool())
    found = decoder.net.double()(io["x"], io["timesteps"], z_i=io["z_i"], text=text)
    assert (found - io["output_float64"]).abs().max() < 1e-10
    io = {
        k: v.double() if v.is_floating_point() else v
        for k, v in load_file(GOLDENS / "karlo" / "improved_sr_io.safetensors").items()
    }
    net = upsampler.net.double()
    both = torch.cat([io["x"], io["low_res"]], dim=1)
    for which, one in (("first", net.unet), ("last", net.last)):
        assert (one(both, io["timesteps"]) - io[f"{which}_float64"]).abs().max() < 1e-10


def test_diffusers_folders_become_a_cascade(karlo):
    cascade = open_folder(karlo)
    assert cascade.embeddings == "raw"
    check_networks(cascade.prior, cascade.decoder, cascade.upsamplers[0])
    assert cascade.prior.sampler.clip_range == 5
    assert cascade.decoder.sampler.guidance == 8


def test_original_files_become_the_same_networks(karlo, tmp_path):
    names = ("prior.ckpt", "stats.th", "decoder.ckpt", "improved_sr.ckpt", "config.json")
    source = tmp_path / "files"
    source.mkdir()
    for k, name in enumerate(names):  # called something else: what is inside counts
        target = name if name == "config.json" else f"file{k}{name[name.index('.') :]}"
        shutil.copy(GOLDENS / "karlo" / name, source / target)
    made = import_weights(str(source), tmp_path / "out")
    assert [path.name for path in made] == ["prior", "decoder", "upsampler"]
    for path in made:
        weights = artifacts.describe(path).weights()
        theirs = artifacts.describe(karlo / path.name).weights()
        assert all(torch.equal(weights[name], theirs[name]) for name in theirs), path
    assert artifacts.describe(made[0]).config["sampler"]["clip_range"] == 10


def test_a_clip_of_transformers_is_open_clips(tmp_path):
    source = GOLDENS / "clip-transformers"
    import_weights(str(source), tmp_path / "out")
    clip = registry.STAGES["clip"].load(str(tmp_path / "out" / "clip")).model
    io = load_file(source / "io.safetensors")
    model = clip.model
    with torch.no_grad():
        assert (model.encode_text(io["input_ids"]) - io["text_embeds"]).abs().max() < 1e-5
        assert (clip.encode_text(io["input_ids"])[1] - io["last_hidden_state"]).abs().max() < 1e-5
        model = model.double()
        for found, name in (
            (model.encode_text(io["input_ids"]), "text_embeds_float64"),
            (model.encode_image(io["pixel_values"].double()), "image_embeds_float64"),
        ):
            assert (found - io[name]).abs().max() < 1e-10


def test_the_command_imports_and_the_result_is_sampled_and_changed(karlo, tmp_path, capsys):
    small = ["prior.steps=2", "decoder.steps=2", "upsampler.steps=2", "--pipeline", str(karlo)]
    assert main(["sample", "a corgi", "--out", str(tmp_path), *small]) == 0
    image = str(tmp_path / "a-corgi_seed0.png")
    vary = ["decoder.steps=2", "upsampler.steps=2", "--pipeline", str(karlo), "--iterations", "1"]
    assert main(["vary", image, "--n", "1", "--out", str(tmp_path / "v"), *vary]) == 0
    assert main(["interpolate", image, image, "--n", "3", "--out", str(tmp_path / "i"), *vary]) == 0
    capsys.readouterr()


def test_a_text_half_samples_and_says_what_it_cannot(tmp_path, capsys, karlo):
    source, out = karlo_folder(tmp_path / "source", image=False), tmp_path / "out"
    assert main(["import", str(source), "--out", str(out)]) == 0
    steps = ["decoder.steps=2", "upsampler.steps=2", "--pipeline", str(out), "--out", str(tmp_path)]
    assert main(["sample", "a corgi", "prior.steps=2", *steps]) == 0
    capsys.readouterr()
    assert main(["vary", str(tmp_path / "a-corgi_seed0.png"), *steps]) == 2
    assert "--clip SOURCE" in capsys.readouterr().err
    whole = karlo_folder(tmp_path / "whole")
    assert main(["import", str(source), "--out", str(tmp_path / "two"), "--clip", str(whole)]) == 0
    a, b = (artifacts.describe(p / "clip").weights() for p in (tmp_path / "two", karlo))
    assert all(torch.equal(a[name], b[name]) for name in b)
    change(
        whole / "text_encoder" / "model.safetensors", lambda s: s["text_projection.weight"].add_(1)
    )
    capsys.readouterr()
    again = ["import", str(source), "--out", str(tmp_path / "three"), "--clip", str(whole)]
    assert main(again) == 2
    assert "is another CLIP" in capsys.readouterr().err


def test_half_precision_is_kept_on_request_and_computes_the_same(tmp_path):
    for half in (False, True):
        out = tmp_path / str(half)
        import_weights(str(GOLDENS / "clip-transformers"), out, half=half)
        stored = load_file(out / "clip" / "weights.safetensors")
        assert stored["text_projection"].dtype == (torch.float16 if half else torch.float32)
    one, two = (
        registry.STAGES["clip"].load(str(tmp_path / str(h) / "clip")) for h in (0 == 1, True)
    )
    assert one.fingerprint == two.fingerprint


def test_shards_with_an_index_are_one_state(tmp_path):
    import json

    source = karlo_folder(tmp_path / "source")
    whole = source / "prior" / "diffusion_pytorch_model.safetensors"
    state = load_file(whole)
    names = sorted(state)
    placed = {}
    for k, part in enumerate((names[::2], names[1::2]), 1):
        shard = f"diffusion_pytorch_model-0000{k}-of-00002.safetensors"
        save_file({n: state[n].clone() for n in part}, source / "prior" / shard)
        placed |= dict.fromkeys(part, shard)
    whole.unlink()
    index = source / "prior" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    import_weights(str(source), tmp_path / "out")
    again = artifacts.describe(tmp_path / "out" / "prior").weights()
    assert torch.equal(again["query"], state["prd_embedding"].flatten())
    index.write_text(json.dumps({"weight_map": placed | {names[0]: "../../secret.safetensors"}}))
    with pytest.raises(Exception, match="leads out of the folder"):
        import_weights(str(source), tmp_path / "two")


def test_wrappers_prefixes_are_dropped_and_a_lightning_checkpoint_is_read(tmp_path):
    state = read_file(GOLDENS / "karlo" / "prior.ckpt", "x")["state_dict"]
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(GOLDENS / "karlo" / "stats.th", source)
    shutil.copy(GOLDENS / "karlo" / "config.json", source)
    wrapped = {f"module._orig_mod.{k.removeprefix('model.')}": v for k, v in state.items()}
    checkpoint = {"state_dict": wrapped, "optimizer_states": [{"state": {}}], "epoch": 3}
    torch.save(checkpoint, source / "last.ckpt")
    import_weights(str(source), tmp_path / "out")
    found = artifacts.describe(tmp_path / "out" / "prior").weights()
    assert torch.equal(found["query"], state["model.prd_emb"].flatten())


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_torchscript_is_read_without_its_code(tmp_path):
    class Tower(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(3, 4).half()
            self.scale = torch.nn.Parameter(torch.tensor(2.0))

        def forward(self, x):
            return self.inner(x) * self.scale

    tower = Tower()
    torch.jit.save(torch.jit.script(tower), str(tmp_path / "clip.pt"))
    found = read_file(tmp_path / "clip.pt", "clip.pt")
    assert {k: v.shape for k, v in found.items()} == {
        k: v.shape for k, v in tower.state_dict().items()
    }
    assert all(torch.equal(found[k], v) for k, v in tower.state_dict().items())


def test_provenance_says_where_it_is_from(karlo):
    found = artifacts.describe(karlo / "decoder").provenance["imported"]
    assert found["source"] == "source"
    assert len(found["files"]["decoder/diffusion_pytorch_model.safetensors"]) == 64
    assert artifacts.describe(karlo / "prior").embed_dim == D
