"""`unclip plan CASCADE`: what sampling takes, against cascades that are loaded and sampled."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.append(str(Path(__file__).parents[1] / "weights"))
from imports import karlo_folder

from unclip.cli import main
from unclip.pipeline.pipeline import Pipeline
from unclip.pipeline.settings import Settings
from unclip.planning.sampling_memory import PROCESS
from unclip.weights.importing import import_weights

KARLO = {"clip": 427_616_513, "prior": 1_022_028_544, "decoder": 893_318_086}
STEPS = {"prior": {"steps": 3}, "decoder": {"steps": 2}, "upsampler": {"steps": 4}}


@pytest.fixture(scope="module")
def karlo(tmp_path_factory):
    root = tmp_path_factory.mktemp("karlo")
    import_weights(str(karlo_folder(root / "source")), root / "cascade")
    return root / "cascade"


def plan(capsys, *words):
    assert main(["plan", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def words(changes):
    return [f"{s}.{k}={v}" for s, each in changes.items() for k, v in each.items()]


@pytest.mark.slow
def test_its_parameters_and_weights_are_those_of_the_loaded_networks(karlo, capsys):
    found = plan(capsys, karlo, "--device", "cpu")
    cascade = Pipeline.load(karlo).cascade
    nets = {"clip": cascade.clip.model, "prior": cascade.prior.net, "decoder": cascade.decoder.net}
    nets["upsampler"] = cascade.upsamplers[0].net
    for stage in found["stages"]:
        net = nets[stage["stage"]]
        tensors = [*net.parameters(), *net.buffers()]
        assert stage["parameters"] == sum(p.numel() for p in net.parameters())
        assert stage["weights_bytes"] == sum(t.numel() * t.element_size() for t in tensors)
        file = karlo / stage["stage"] / "weights.safetensors"
        assert stage["file_bytes"] == file.stat().st_size
    largest = max(stage["file_bytes"] for stage in found["stages"])
    assert found["import_bytes"] - largest == PROCESS
    (cpu,) = found["devices"]
    assert cpu["weights_bytes"] == sum(stage["weights_bytes"] for stage in found["stages"])
    assert cpu["peak_bytes"] >= cpu["weights_bytes"] + cpu["activations_bytes"]
    half = Pipeline.load(karlo, precision="bf16").cascade.decoder.net
    tensors = [*half.parameters(), *half.buffers()]
    (said,) = (s["weights_bytes_half"] for s in found["stages"] if s["stage"] == "decoder")
    assert said == sum(t.numel() * t.element_size() for t in tensors)


def test_its_arithmetic_is_that_of_a_sampling(karlo, capsys):
    """Besides the caption's features: what is read once counts once."""
    found = plan(capsys, karlo, "--device", "cpu", "--batch", "2", *words(STEPS))
    pipeline = Pipeline.load(karlo)
    clip = pipeline.cascade.clip.model
    with FlopCounterMode(display=False) as reading:
        clip.encode_text(clip.tokenize(["a", "b"]))
    with FlopCounterMode(display=False) as counter:
        pipeline.generate(["a", "b"], [0, 1], settings=Settings(STEPS))
    known = sum(stage["flops"] for stage in found["stages"])
    drawn = counter.get_total_flops() - 3 * reading.get_total_flops()  # prior, decoder, null text
    assert known == pytest.approx(drawn, rel=1e-3)
    assert {s["stage"]: s["evaluations"] for s in found["stages"]} == {
        "clip": 0,
        "prior": 3,
        "decoder": 2,
        "upsampler": 4,
    }


@pytest.mark.slow
def test_guidance_doubles_the_samples_and_a_batch_multiplies_them(karlo, capsys):
    def samples(*more):
        found = plan(capsys, karlo, "--device", "cpu", *more)
        return {s["stage"]: s["samples"] for s in found["stages"]}, found["devices"][0]

    one, cost = samples()
    assert one == {"clip": 0, "prior": 2, "decoder": 2, "upsampler": 1}
    alone = ("prior.guidance=1", "decoder.guidance=1", "prior.candidates=3")
    assert samples(*alone)[0] == {"clip": 0, "prior": 3, "decoder": 1, "upsampler": 1}
    four, more = samples("--batch", "4")
    assert four == {name: 4 * count for name, count in one.items()}
    assert more["activations_bytes"] == pytest.approx(4 * cost["activations_bytes"], rel=0.01)
    assert more["seconds"] == pytest.approx(4 * cost["seconds"])


@pytest.mark.slow
def test_heun_evaluates_twice_but_in_its_last_step_and_half_precision_halves(karlo, capsys):
    found = plan(capsys, karlo, "--device", "h100", "decoder.sampler=heun", "decoder.steps=5")
    assert [s["evaluations"] for s in found["stages"] if s["stage"] == "decoder"] == [9]
    (half,) = found["devices"]
    assert half["precision"] == "bf16"
    (full,) = plan(capsys, karlo, "--device", "h100", "--precision", "32")["devices"]
    clip = found["stages"][0]["weights_bytes"]
    assert full["weights_bytes"] - clip == pytest.approx(
        2 * (half["weights_bytes"] - clip), rel=0.05
    )
    assert full["peak_bytes"] == full["weights_bytes"] + full["activations_bytes"]


def test_the_activations_are_those_that_a_forward_pass_holds(karlo, capsys):
    """Counted on real tensors: the most that live at once during the upsampler's evaluation."""
    from unclip.planning.trace import Watch

    (cost,) = plan(capsys, karlo, "--device", "cpu")["devices"]
    net = Pipeline.load(karlo).cascade.upsamplers[0].net
    most = []
    for part, low in ((net, 16),):
        watch = Watch([*part.parameters(), *part.buffers()])
        with torch.no_grad(), watch:
            x = torch.zeros(1, 3, 32, 32)
            part(x, torch.zeros(1, dtype=torch.long), torch.zeros(1, 3, low, low))
        most.append(max(live.activations for live in watch.live))
    assert cost["activations_bytes"] == pytest.approx(max(most), rel=0.01)


@pytest.mark.slow
def test_a_name_is_planned_without_a_download(capsys, monkeypatch, tmp_path):
    from unclip.weights import hub

    monkeypatch.setattr(hub, "_hub", lambda: pytest.fail("asked the hub"))
    monkeypatch.setenv("UNCLIP_CACHE", str(tmp_path))
    assert main(["plan", "karlo", "--device", "h200"]) == 0
    said = capsys.readouterr().out
    assert "3,726,122,189 parameters, 1 image at a time" in said
    for name, count in KARLO.items():
        assert f"{name} " in said
        assert f"{count:,}" in said
    assert re.search(r"h200 .* fits", said)


def test_the_configuration_of_the_hub_alone_makes_a_plan(capsys, monkeypatch, tmp_path, karlo):
    from unclip.planning import cascades
    from unclip.weights.reading.folders import local

    source = local(karlo_folder(tmp_path / "source"))
    monkeypatch.setattr(cascades, "open_source", lambda spec: source)
    found = plan(capsys, "hf://someone/karlo", "--device", "cpu")
    assert found["stages"][1:] == [
        stage | {"file_bytes": stage["weights_bytes"]}
        for stage in plan(capsys, karlo, "--device", "cpu")["stages"][1:]
    ]
    assert not [name for name in source.used if not name.endswith(".json")]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--batch", "0"], "--batch=0: must be at least 1"),
        (["--precision", "int8"], "--precision int8: must be one of"),
        (["--precision", "bf16", "--device", "t4"], "t4 has no bfloat16 units; use fp16"),
        (["--device", "h300"], "--device: unknown device 'h300'"),
        (["--gpus", "2"], "--gpus: is for experiments"),
        (["decoder.stepz=3"], "decoder.stepz: this decoder has no such setting"),
        (["prior.temperature=0.5"], "prior.temperature: this prior has no such setting"),
        (["--mfu", "0"], "--mfu=0: must be above 0"),
    ],
)
def test_what_cannot_be_is_one_line(karlo, capsys, more, said):
    assert main(["plan", str(karlo), *more]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_options_of_the_other_kind_are_refused(tmp_path, capsys):
    for more, said in (
        (["--batch", "2"], "--batch: is for cascades"),
        (["--precision", "32"], "--precision: is for cascades"),
        ([], "--gpus: is needed"),
        (["--gpus", "1"], "--device: is needed"),
    ):
        assert main(["plan", "decoder/tiny", *more]) == 2
        assert said in capsys.readouterr().err
    assert main(["plan", str(tmp_path)]) == 2
    assert "no stages in it" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["decoder", "prior"])
def test_a_stage_that_reads_a_clip_is_not_planned_without_one(kind, cascade, tmp_path, capsys):
    shutil.copytree(cascade / kind / "artifact", tmp_path / kind)
    assert main(["plan", str(tmp_path)]) == 2
    assert f"its {kind} reads a CLIP, and there is none" in capsys.readouterr().err
    shutil.copytree(cascade / "clip" / "artifact", tmp_path / "clip")
    assert main(["plan", str(tmp_path)]) == 0


def test_trained_cascades_are_planned_with_either_prior(cascade, tmp_path, capsys):
    for prior in ("prior", "ar_prior"):
        root = tmp_path / prior
        for name in ("clip", "decoder", "upsampler"):
            shutil.copytree(cascade / name / "artifact", root / name)
        shutil.copytree(cascade / prior / "artifact", root / "prior")
        found = plan(capsys, root, "--device", "cpu")
        parts = Pipeline.load(root).cascade
        (said,) = (s for s in found["stages"] if s["stage"] == "prior")
        assert said["parameters"] == sum(p.numel() for p in parts.prior.net.parameters())
        assert said["flops"] > 0


def test_fast_plans_what_fast_samples_with(karlo, capsys):
    given = [str(karlo), "--device", "cpu", "--fast", "decoder.steps=5"]
    assert main(["plan", *given, "--json"]) == 0
    out, err = capsys.readouterr()
    steps = {s["stage"]: s["evaluations"] for s in json.loads(out)["stages"]}
    assert steps["decoder"] == 5  # what is given wins
    assert steps["prior"] == 8  # of 25
    assert "--fast: decoder.sampler=ab2 upsampler.sampler=ddim upsampler.steps=4 prior." in err


def test_a_training_has_nothing_that_fast_would_shorten(capsys):
    assert main(["plan", "prior/tiny", "--device", "cpu", "--gpus", "1", "--fast"]) == 2
    assert "--fast: is for cascades" in capsys.readouterr().err
