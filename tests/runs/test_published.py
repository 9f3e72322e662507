"""`--pipeline karlo`: a published cascade is fetched and imported once, then it is a folder."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.append(str(Path(__file__).parents[1] / "weights"))
from imports import GOLDENS, change, karlo_folder

import unclip
from unclip.cli import main
from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.common.images import to_uint8
from unclip.config.cascades import cascade_files, find_cascade, read_cascade
from unclip.config.files import shipped_experiments
from unclip.config.text import opening
from unclip.pipeline.settings import Settings
from unclip.runs import published
from unclip.stages import registry
from unclip.stages.experiment import ParentSizes
from unclip.weights.maps.rules import to_theirs

SIZES = ParentSizes(768, 768, 77)
FEW = ["prior.steps=2", "decoder.steps=2", "upsampler.steps=2"]
NAMES = sorted(p.stem for p in (shipped_experiments() / "cascades").glob("*.yaml"))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a published cascade ``mine``, whose source is a folder too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNCLIP_CACHE", str(tmp_path / "cache"))
    karlo_folder(tmp_path / "source")
    write("about: a test\nsources: [source]\nlicence: none\ndownload: 1 MB\n")
    return tmp_path


def write(text, name="mine"):
    path = Path("experiments/cascades") / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_name_is_fetched_imported_once_and_sampled(project, capsys):
    words = ["sample", "a corgi", "--pipeline", "mine", *FEW]
    assert main([*words, "--out", "one"]) == 0
    said = capsys.readouterr().err
    assert "mine: fetching 1 MB, then importing into" in said
    assert "licence of the weights: none" in said
    shutil.rmtree("source")  # it is not needed again
    for name in ("mine", "cascades/mine", "experiments/cascades/mine.yaml"):
        words[3] = name
        assert main([*words, "--out", name.replace("/", "-")]) == 0
        assert "importing" not in capsys.readouterr().err
        image = Path(name.replace("/", "-")) / "a-corgi_seed0.png"
        assert image.read_bytes() == Path("one/a-corgi_seed0.png").read_bytes()
    assert main(["evaluate", "mine", "--n", "1"]) == 0
    assert "oracle/colour" in capsys.readouterr().out


def test_python_opens_what_the_command_line_does(project, capsys):
    pipeline = unclip.Pipeline.load("mine")
    assert "mine: fetching 1 MB, then importing into" in capsys.readouterr().err
    shutil.rmtree("source")
    settings = Settings({stage: {"steps": 2} for stage in ("prior", "decoder", "upsampler")})
    (image,) = pipeline.generate(["a corgi"], [0], settings=settings).image
    words = ["sample", "a corgi", "--pipeline", "mine", "--precision", "32", *FEW, "--out", "o"]
    assert main(words) == 0
    drawn = np.asarray(Image.open("o/a-corgi_seed0.png"))
    assert np.array_equal(to_uint8(image[None])[0], drawn)
    for word, said in (
        ("min", "pipeline=min: no such folder; did you mean the cascade 'mine'?"),
        ("hf://someone", "must be of the form hf://ORG/NAME"),
        (Path("o") / "a-corgi_seed0.png", "a-corgi_seed0.png: is not a complete zip file"),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            unclip.Pipeline.load(word)
    shutil.rmtree("cache")
    for wrong in ({"device": "tpu"}, {"precision": "half"}):  # before anything is fetched
        with pytest.raises(UserError, match=next(iter(wrong))):
            unclip.Pipeline.load("mine", **wrong)
    assert capsys.readouterr().err.count("fetching") == 0


def test_a_cascade_that_is_there_comes_before_a_name(project, capsys):
    Path("mine/clip").mkdir(parents=True)
    assert main(["sample", "a corgi", "--pipeline", "mine"]) == 2
    assert "mine: decoder missing in it" in capsys.readouterr().err


def test_the_address_of_the_hub_is_a_pipeline(project, monkeypatch, capsys):
    seen = []

    def stand_in(spec, out, *, reached, **how):
        seen.append((list(spec), how))
        from unclip.weights.importing import import_weights

        return import_weights("source", out)

    monkeypatch.setattr(published, "_import", stand_in)
    words = ["sample", "a corgi", "--pipeline", "hf://someone/karlo@v1", *FEW, "--out", "o"]
    assert main(words) == 0
    how = {"clip": None, "merges": None, "half": False, "force": False}
    assert seen == [(["hf://someone/karlo@v1"], how)]
    assert main([*words, "--force"]) == 0
    assert len(seen) == 1
    assert main([*words[:3], "hf://someone/karlo@v2", *FEW, "--out", "p"]) == 0
    assert len(seen) == 2  # another revision is another cascade


def test_a_name_is_imported_where_one_wants_it(project, capsys):
    assert main(["import", "mine", "--out", "here", "--half"]) == 0
    for stage in ("clip", "prior", "decoder", "upsampler"):
        weights = artifacts.describe(Path("here") / stage).weights()
        imported = artifacts.describe(Path("here") / stage).provenance["imported"]
        assert imported["source"] == "source"
        assert any(tensor.dtype == torch.float16 for tensor in weights.values()) == (
            stage == "clip"
        )
    Path("mine").mkdir()  # a folder is meant before a name
    capsys.readouterr()
    assert main(["import", "mine", "--out", "there"]) == 2
    assert "mine: holds no weights" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["karlo", "hf://someone/karlo"])
def test_without_a_network_it_is_one_line_and_nothing_is_left(project, monkeypatch, capsys, word):
    from unclip.weights import hub

    class Offline:
        def __getattr__(self, name):
            raise ConnectionError("no route to host")

    monkeypatch.setattr(hub, "_hub", Offline)
    assert main(["sample", "a corgi", "--pipeline", word]) == 2
    said = capsys.readouterr().err.splitlines()
    assert "cannot be reached and is not in the cache (no route to host)" in said[-1]
    assert said[-1].startswith("unclip: error: hf://")
    assert len(said) == 1  # nothing is said to be fetched
    assert not list(Path("cache/cascades").iterdir())


def test_a_broken_source_leaves_nothing(project, capsys):
    change(Path("source/prior/diffusion_pytorch_model.safetensors"), lambda s: s.popitem())
    assert main(["sample", "a corgi", "--pipeline", "mine"]) == 2
    assert "is missing" in capsys.readouterr().err
    assert not list(Path("cache/cascades").iterdir())


def test_of_several_sources_the_first_that_has_a_stage_gives_it(project, tmp_path):
    prior = tmp_path / "prior_only"
    prior.mkdir()
    for name in ("prior", "text_encoder", "image_encoder"):
        shutil.copytree(tmp_path / "source" / name, prior / name)
    weights = prior / "prior" / "diffusion_pytorch_model.safetensors"
    change(weights, lambda s: s["prd_embedding"].add_(1))
    write("sources: [prior_only, source]", "both")
    both, mine = (published.fetch(find_cascade(name)) for name in ("both", "mine"))
    assert {p.name for p in both.iterdir()} == {"clip", "prior", "decoder", "upsampler"}
    a, b = (artifacts.describe(each / "prior").weights()["query"] for each in (both, mine))
    assert (a - b).abs().min() > 0.9
    assert (
        artifacts.describe(both / "decoder").sha256 == artifacts.describe(mine / "decoder").sha256
    )
    other = "text_encoder/model.safetensors"
    change(tmp_path / "source" / other, lambda s: s["text_projection.weight"].add_(1))
    write("sources: [prior_only, source]\nlicence: x", "both")
    shutil.rmtree(both)
    with pytest.raises(UserError, match="is another CLIP than"):
        published.fetch(find_cascade("both"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sources: []", "sources: is empty"),
        (
            "sources: [a, 'https://127.0.0.1/x.pt']",
            "sources[1]=https://127.0.0.1/x.pt: a cascade's",
        ),
        ("sources: ['https://example.org/x.pt']", "sources[0]=https://example.org/x.pt: a cascade"),
        ("sources: [a]\nclip: http://10.0.0.1/x", "clip=http://10.0.0.1/x: a cascade's file names"),
        ("sources: [a]\nmerges: 'HTTPS://[::1]/x'", "merges=HTTPS://[::1]/x: a cascade's file"),
        ("sources: ['file:///etc/passwd']", "sources[0]=file:///etc/passwd: a cascade's file"),
        ("source: [a]", "source: unknown key; did you mean 'sources'?"),
        ("sources: hf://a/b", "must be a list of texts"),
        ("sources: [a]\nstages: {decodr: {}}", "unknown stage 'decodr'; did you mean 'decoder'?"),
        ("sources: [a]\nstages: {decoder: {model: {widht: 3}}}", "stages.decoder.model.widht"),
    ],
)
def test_a_file_that_is_none_is_refused_by_its_key(project, capsys, text, said):
    write(text)
    assert main(["sample", "a corgi", "--pipeline", "mine"]) == 2
    error = capsys.readouterr().err
    assert "experiments/cascades/mine.yaml: " in error
    assert said in error
    assert main(["experiments", "list"]) == 0
    assert "not listed: experiments/cascades/mine.yaml" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["glide", "glide_inpaint"])
def test_glides_files_say_what_their_weights_say(name, monkeypatch):
    """Networks of the sizes that the file has, read back from their tensors' names and shapes."""
    from unclip.weights.maps.glide import glide as names
    from unclip.weights.originals import glide
    from unclip.weights.settings import Settings

    monkeypatch.setattr(glide, "ready", lambda tokenizer: None)  # the merges are not here
    named = find_cascade(name)
    for stage in ("decoder", "upsampler"):
        said = named.stages[stage]
        with torch.device("meta"):
            net = registry.STAGES[stage].build_network(said, SIZES)
        state = to_theirs(net.state_dict(), names(net))
        kind = glide.kind_of(state, "x")
        assert kind in Path(named.published.sources[stage == "upsampler"]).stem
        found = glide.network(kind, state, "x", Settings({}, "x"), Path("m"), 64).experiment
        for section in ("model", "diffusion", "sampler"):
            assert getattr(said, section) == getattr(found, section), section


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_ones_say_what_they_are(name):
    (path, *_) = cascade_files()[f"cascades/{name}"]
    found, notes = read_cascade(path), opening(path)
    assert {"parameters", "hardware", "time", "expect"} <= set(notes)
    count = 0
    for stage, experiment in found.stages.items():
        with torch.device("meta"):
            net = registry.STAGES[stage].build_network(experiment, SIZES)
        count += sum(p.numel() for p in net.parameters())
    assert notes["parameters"] == f"{count:,}"
    assert f'unclip sample "a photo of a corgi" --pipeline {name}' in path.read_text()
    assert all([found.published.about, found.published.licence, found.published.download])


def test_karlos_file_says_what_its_weights_say(tmp_path):
    """The configuration that diffusers publishes, imported, is what the file has for a plan."""
    from unclip.weights.diffusers.find import find
    from unclip.weights.reading.folders import local

    published_values = json.loads((GOLDENS / "karlo-published.json").read_text())
    values = {
        p.relative_to(GOLDENS / "karlo-diffusers").as_posix(): json.loads(p.read_text())
        for p in (GOLDENS / "karlo-diffusers").rglob("*.json")
    }
    published_values["super_res_last/config.json"] = published_values["super_res_first/config.json"]
    for name, content in published_values.items():
        values[name] = values.get(name, {}) | content
    for name, content in values.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    named = find_cascade("karlo")
    for found in find(local(tmp_path), half=False):
        said = named.stages[found.stage]
        for section in ("model", "diffusion", "sampler"):
            if hasattr(found.experiment, section):
                assert getattr(said, section) == getattr(found.experiment, section), section
    assert set(named.stages) == {"clip", "diffusion_prior", "decoder", "upsampler"}
