"""`unclip evaluate cascade`: a made-up MS-COCO, sampled by a minute cascade and measured."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from unclip.cli import main
from unclip.common.errors import UserError
from unclip.evaluation.protocols.captioned import captioned, coco30k
from unclip.evaluation.protocols.paper import not_comparable

CAPTIONS_EACH = 4


def save_coco(root, images, captions, *, side=(20, 16)):
    """``images`` noise images, and ``captions`` captions that go round them."""
    rng = np.random.default_rng(0)
    folder = root / "val2014"
    folder.mkdir(parents=True)
    listed = []
    for k in range(images):
        name = f"COCO_val2014_{k:012}.png"
        pixels = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize(side).save(folder / name)
        listed.append({"id": 1000 + k, "file_name": name})
    said = [
        {"id": 7 * k, "image_id": 1000 + k % images, "caption": f"image {k % images} in words {k}"}
        for k in range(captions)
    ]
    random.Random(0).shuffle(said)
    file = root / "captions.json"
    file.write_text(json.dumps({"images": listed, "annotations": said}))
    return file, folder


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    return save_coco(tmp_path_factory.mktemp("coco"), 12, 12 * CAPTIONS_EACH)


@pytest.fixture
def words(coco, cascade):
    annotations, images = coco
    return [
        *("evaluate", "cascade", str(cascade), "--protocol", "coco30k"),
        *("--annotations", str(annotations), "--images", str(images)),
        *("--device", "cpu", "decoder.steps=2", "prior.steps=2", "upsampler.steps=2"),
    ]


def error(capsys, given):
    status = main(given)
    lines = [line for line in capsys.readouterr().err.splitlines() if "unclip: error: " in line]
    assert status == 2, lines
    return lines[-1]


def test_both_readings_of_captions_and_of_the_reference(coco):
    everything = coco30k(*coco, n=30, size=16)
    keys = [one.key for one in everything.captions]
    in_file = [str(one["id"]) for one in json.loads(coco[0].read_text())["annotations"]]
    assert keys == [key for key in in_file if key in set(keys)]
    assert len(set(keys)) == 30
    assert len(everything.reference(16)) == 12
    each = coco30k(*coco, n=5, size=16, captions_of="images", reference_of="matched")
    shown = [one.text.split(" in words")[0] for one in each.captions]
    assert len(set(shown)) == 5
    real = each.reference(16)
    # The images of the captions, and no others.
    assert {f"image {int(real(k).key[-12:])}" for k in range(len(real))} == {
        f"image {int(one.split()[1])}" for one in shown
    }
    assert real(0).image.shape == (16, 16, 3)
    assert "5 one caption each" in each.chosen
    assert each.compared == "the 5 images of these captions, of 12"
    with pytest.raises(UserError, match=r"--limit 49: is more than 48 captions"):
        coco30k(*coco, n=49)
    with pytest.raises(UserError, match=r"--limit 13: is more than 12 images"):
        coco30k(*coco, n=13, captions_of="images")


def test_the_choice_is_that_of_unclip_sample(coco):
    from unclip.data.readers.captions import choose_captions, read_captions

    assert coco30k(*coco, n=20).captions == choose_captions(read_captions(coco[0]), 20)


def test_an_evaluation_is_kept_extended_and_compared(words, cascade, tmp_path, capsys):
    own, out = f"own:{cascade}", tmp_path / "coco"
    words = [*words, "--limit", "20", "--size", "16", "--out", str(out), "--neighbours", "1"]
    assert main([*words, "--features", own]) == 0
    shown = capsys.readouterr().out
    assert "GLIDE (the paper)" in shown
    found = json.loads((out / "evaluation.json").read_text())
    (one,) = found["evaluations"]
    conditions = one["conditions"]
    assert (conditions["n"], conditions["reference_n"], conditions["size"]) == (20, 12, 16)
    assert conditions["guidance"] == "prior 2.0, decoder 2.0"
    assert conditions["steps"] == "prior 2, decoder 2, upsamplers 2"
    assert (conditions["seeds"], conditions["sampled_in"]) == ("0-19", "32")
    assert "decoder sampler=" in conditions["samplers"]
    assert any("samples of 32 px were brought to 16" in note for note in one["notes"])
    (reasons,) = found["not_comparable_with_the_paper"]
    assert "20 captions, not 30,000" in reasons
    assert "features of own, not Inception" in reasons
    page = (out / "index.html").read_text()
    assert "12.24" in page
    assert page.count("data:image/png") == 1
    assert "| FD-own-CLIP |" in (out / "evaluation.md").read_text()
    samples = {path: path.stat().st_mtime_ns for path in (out / "samples/images").rglob("*.png")}
    assert len(samples) == 20
    # Another reference, by the same images; both stay.
    assert main([*words, "--features", own, "--reference-of", "matched"]) == 0
    found = json.loads((out / "evaluation.json").read_text())["evaluations"]
    assert [one["conditions"]["reference_n"] for one in found][1] == 12
    assert found[0]["conditions"]["reference_n"] < 12
    assert {path: path.stat().st_mtime_ns for path in samples} == samples
    # `evaluate images` reads how they were made, and finds the same.
    capsys.readouterr()
    images = ["evaluate", "images", str(out / "samples"), "--features", own, "--size", "16"]
    images += ["--reference", words[words.index("--images") + 1], "--neighbours", "1"]
    assert main([*images, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["conditions"] == conditions
    assert again["figures"] == one["figures"]
    assert "manifest.json says how" in error(capsys, [*images, "--guidance", "2"])
    (tmp_path / "images.json").write_text(json.dumps(again))
    both = [str(tmp_path / "images.json"), str(out / "evaluation.json")]
    assert "figures of own, own" in error(capsys, ["evaluate", "compare", *both])
    assert "started with settings.seed 0" in error(
        capsys, [*words, "--features", own, "--seed", "1"]
    )
    assert main([*words, "--features", own, "--seed", "1", "--force"]) == 0
    (only,) = json.loads((out / "evaluation.json").read_text())["evaluations"]
    assert only["conditions"]["seeds"] == "1-20"
    assert main(["evaluate", "compare", str(out / "evaluation.json")]) == 0
    assert "seeds" in error(capsys, ["evaluate", "compare", *both])


def test_scenes_are_read_by_the_oracle_too(cascade, tmp_path):
    words = ["evaluate", "cascade", str(cascade), "--protocol", "scenes", "--limit", "6"]
    words += ["--features", f"own:{cascade}", "--device", "cpu", "--out", str(tmp_path / "s")]
    assert main([*words, "decoder.steps=2", "upsampler.steps=2"]) == 0
    (one,) = json.loads((tmp_path / "s/evaluation.json").read_text())["evaluations"]
    assert 0 <= one["figures"]["oracle: colour and shape"]["value"] <= 1
    assert one["conditions"]["size"] == 32
    assert one["conditions"]["reference_n"] == 6


def test_ids_are_numbers_or_texts_and_annotations_of_nothing_are_refused(tmp_path):
    file, folder = save_coco(tmp_path, 3, 6)
    content = json.loads(file.read_text())
    content["annotations"][0]["image_id"] = str(content["annotations"][0]["image_id"])
    content["images"][1]["id"] = float(content["images"][1]["id"])
    file.write_text(json.dumps(content))
    assert len(coco30k(file, folder, n=3, captions_of="images").captions) == 3
    one = {**content, "annotations": content["annotations"][:1]}
    file.write_text(json.dumps(one))
    with pytest.raises(UserError, match="1 image to compare with; needs 2"):
        coco30k(file, folder, n=1)
    content["annotations"][0]["image_id"] = 77
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match="has no image '77'"):
        coco30k(file, folder, n=3)


def test_captioned_images_have_a_caption_each(coco):
    annotations, images = coco
    found = captioned(f"{annotations}?images={images}", n=7, size=16)
    assert len({one.text.split(" in words")[0] for one in found.captions}) == 7
    assert len(found.reference(16)) == 12
    matched = captioned(
        f"{annotations}?images={images}", n=7, captions_of="all", reference_of="matched"
    )
    assert len(matched.reference(16)) == len({o.text.split(" in ")[0] for o in matched.captions})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--features": "inceptoin"}, "no such network"),
        ({"--limit": "1"}, "--limit: must be at least 2"),
        ({"--limit": "99"}, "--limit 99: is more than 48 captions"),
        ({"--annotations": None}, "needs --annotations"),
        ({"--annotations": "no.json"}, "--annotations no.json: cannot be read"),
        ({"--images": "nowhere"}, "--images nowhere: no such folder"),
        ({"--images": "EMPTY"}, "12 of 12 images"),
        ({"--probe": "nothing"}, "nothing"),
        ({"--reference": "nothing"}, "nothing"),
        ({"--protocol": "scenes"}, "--annotations: does not apply to --protocol scenes"),
        ({"--out": "HERE"}, "is not a folder of `unclip evaluate`"),
        ({"--size": "0"}, "--size: must be at least 1"),
        ({"CASCADE": ""}, "cascade: must not be empty"),
        ({"--neighbours": "12"}, "--neighbours 12: needs 13 images or more a side"),
        ({"--reference": "STATISTICS"}, "bring both to one size with --size 256"),
    ],
)
def test_wrong_words_are_a_line_before_anything_is_sampled(
    change, said, words, cascade, tmp_path, capsys
):
    (tmp_path / "empty").mkdir()
    places = {"EMPTY": str(tmp_path / "empty"), "HERE": str(tmp_path)}
    places["STATISTICS"] = str(tmp_path / "empty" / "s.npz")
    if "STATISTICS" in change.values():
        save = ["evaluate", "images", str(words[words.index("--images") + 1]), "--size", "16"]
        save += ["--features", f"own:{cascade}", "--save-statistics", places["STATISTICS"]]
        assert main(save) == 0
    given = [*words, "--limit", "20", "--features", f"own:{cascade}", "--out", str(tmp_path / "o")]
    for option, value in change.items():
        if option == "CASCADE":
            given[given.index(str(cascade))] = value
            continue
        if option in given:
            at = given.index(option)
            given[at : at + 2] = []
        given += [] if value is None else [option, places.get(value, value)]
    assert said in error(capsys, given)
    assert not (tmp_path / "o").exists()


def test_what_keeps_a_figure_from_the_papers_is_named(coco):
    from unclip.evaluation.metrics.conditions import Conditions, ImagesEvaluation
    from unclip.evaluation.protocols.captioned import Protocol

    protocol = Protocol("coco30k", [], lambda _: None, 256, "30,000 of all captions (202,654)", "")
    theirs = Conditions(n=30_000, size=256, features="inception", sha256="6726825d" + "0" * 56)
    assert not_comparable(ImagesEvaluation(conditions=theirs), protocol) == []
    other = Conditions(n=30_000, size=256, features="inception", sha256="0" * 64)
    (reason,) = not_comparable(ImagesEvaluation(conditions=other), protocol)
    assert reason == "other weights of Inception"


@pytest.mark.slow
def test_killed_twice_by_one_and_by_two_processes_the_number_is_the_same(cascade, tmp_path):
    annotations, images = save_coco(tmp_path / "coco", 500, 2000)
    words = [
        *("evaluate", "cascade", str(cascade), "--protocol", "coco30k", "--limit", "600"),
        *("--annotations", str(annotations), "--images", str(images), "--size", "16"),
        *("--features", f"own:{cascade}", "--device", "cpu", "--shard-size", "50"),
        *("decoder.steps=2", "prior.steps=2", "upsampler.steps=2"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    alone = [sys.executable, "-m", "unclip"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "-m", "unclip"]
    figures = {}
    for name, start in {"one": alone, "two": torchrun}.items():
        out = tmp_path / name
        command = [*start, *words, "--out", str(out)]
        for shards in (2, 5):
            process = subprocess.Popen(
                command, env=environment, start_new_session=True,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            while len(list((out / "samples/shards").glob("*.json"))) < shards:
                assert process.poll() is None
                time.sleep(0.02)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            assert not (out / "evaluation.json").exists()
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        (one,) = json.loads((out / "evaluation.json").read_text())["evaluations"]
        assert one["conditions"]["n"] == 600
        figures[name] = one
    assert figures["one"]["conditions"] == figures["two"]["conditions"]
    for name, figure in figures["one"]["figures"].items():
        other = figures["two"]["figures"][name]["value"]
        assert other == pytest.approx(figure["value"], rel=1e-9, abs=1e-12)


def guidance(words, out, *more):
    command = [
        "evaluate",
        "guidance",
        *words[2:],
        "--limit",
        "12",
        "--size",
        "16",
        "--neighbours",
        "1",
    ]
    return [*command, "--out", str(out), *more]


def test_a_probe_is_of_one_clip_of_several(cascade, monkeypatch):
    """Its own CLIP need not be the first that is named; if it is none, that is the line."""
    from unclip.evaluation.features.network import open_network
    from unclip.runs import evaluate_cascade as module

    own = open_network(f"own:{cascade}", device=torch.device("cpu"))
    other = replace(own, name="clip", clip=replace(own.clip, fingerprint="0" * 64))
    networks = {"clip:other": other, "own": own}
    monkeypatch.setattr(module, "open_network", lambda spec, **_: networks[spec])
    probe = object()

    def load(path, clip):
        if clip.fingerprint == "0" * 64:
            raise UserError("--probe=p: trained on the embeddings of another CLIP")
        return probe

    monkeypatch.setattr(module, "load_probe", load)
    both = module.Measuring(features=["clip:other", "own"], probe=Path("p"))
    assert [found for _, found in both.open(torch.device("cpu"))] == [None, probe]
    with pytest.raises(UserError, match="another CLIP"):
        module.Measuring(features=["clip:other"], probe=Path("p")).open(torch.device("cpu"))


@pytest.fixture
def glide(cascade, minute_experiment, tmp_path):
    """A cascade whose decoder reads captions alone."""
    from unclip.config.load import load_experiment
    from unclip.runs.train import train

    words = ["model.use_z_i=false", "drop_caption=0.2", "trainer.max_steps=2"]
    words += [f"clip={cascade / 'clip'}", f"run.dir={tmp_path / 'glide/decoder'}"]
    train(load_experiment(str(minute_experiment("decoder")), words))
    shutil.copytree(cascade / "upsampler", tmp_path / "glide/upsampler")
    return tmp_path / "glide"


@pytest.mark.slow
def test_guidance_of_an_unclip_beside_a_glide_with_a_probe(words, cascade, glide, tmp_path, capsys):
    rng = np.random.default_rng(0)
    table = pa.table({"embedding": list(rng.normal(size=(40, 16))), "rating": rng.normal(size=40)})
    pq.write_table(table, tmp_path / "r.parquet")
    probe = ["fit-probe", "aesthetics", tmp_path / "r.parquet", "--clip", cascade / "clip"]
    assert main([str(w) for w in [*probe, "--out", tmp_path / "probe"]]) == 0
    words.insert(3, str(glide))  # prior.steps=2 among the words: a GLIDE has none
    out = tmp_path / "g"
    own = ["--features", f"own:{cascade}", "--probe", str(tmp_path / "probe")]
    assert main(guidance(words, out, *own, "--scales", "1", "3")) == 0
    found = json.loads((out / "guidance.json").read_text())
    assert [line["title"] for line in found["lines"]] == [cascade.name, "glide"]
    for line in found["lines"]:
        scores = line["figures"]["predicted aesthetics"]
        assert all(each["low"] <= each["value"] <= each["high"] for each in scores)
    assert len(found["slopes_per_doubling"]["predicted aesthetics"]) == 3
    told = {one["samplers"].startswith("prior") for one in found["conditions"]}
    assert told == {True, False}
    capsys.readouterr()
    words.remove(str(cascade))
    line = error(capsys, guidance(words, tmp_path / "h", "--features", f"own:{cascade}"))
    assert "prior.steps: no cascade has a prior" in line
    assert not (tmp_path / "h").exists()


@pytest.mark.slow
def test_guidance_at_every_scale_of_two_cascades(words, cascade, tmp_path, capsys):
    own, out = f"own:{cascade}", tmp_path / "g"
    shutil.copytree(cascade, tmp_path / "glide")
    words.insert(3, str(tmp_path / "glide"))
    words = guidance(words, out, "--features", own, "--scales", "3", "1", "1.5")
    assert main(words) == 0
    assert "Change with the scale" in capsys.readouterr().out
    folders = sorted((out / "samples").glob("*/*"))
    assert len(folders) == 6
    told = {
        f"{f.parent.name} {f.name}": json.loads((f / "manifest.json").read_text()) for f in folders
    }
    for name, manifest in told.items():
        settings = manifest["settings"]
        assert f"scale-{settings['decoder']['guidance']:g}" == name.split()[1]
        assert settings["prior"]["guidance"] == 2.0  # the decoder's alone changes
        assert settings["seed"] == 0
    found = json.loads((out / "guidance.json").read_text())
    one, two = found["lines"]
    assert one["scales"] == [1.0, 1.5, 3.0]
    assert one["figures"] == two["figures"]  # they are the same network
    for name, (first, second, difference) in found["slopes_per_doubling"].items():
        assert first == second, name
        assert [difference[key] for key in ("value", "low", "high")] == [0, 0, 0]
    points = one["figures"]["recall, own-CLIP"]
    assert all(point["low"] <= point["value"] <= point["high"] for point in points)
    assert (out / "index.html").read_text().count("data:image/png") == 2
    times = {path: path.stat().st_mtime_ns for path in out.rglob("samples/*/*/images/*/*.png")}
    assert len(times) == 72
    assert main([*words, "4"]) == 0  # a further scale
    assert {path: path.stat().st_mtime_ns for path in times} == times
    more = json.loads((out / "guidance.json").read_text())["lines"][0]
    assert more["scales"] == [1.0, 1.5, 3.0, 4.0]
    assert more["figures"]["KID, own-CLIP"][:3] == one["figures"]["KID, own-CLIP"]


def test_a_cascade_that_is_not_there_is_refused_before_another_is_sampled(
    words, cascade, tmp_path, capsys
):
    words.insert(3, str(tmp_path / "glide"))
    line = error(capsys, guidance(words, tmp_path / "o", "--features", f"own:{cascade}"))
    assert "glide: no such folder" in line
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--scales", "0"], "--scales: must each be in"),
        (["--scales", "nan"], "--scales: must each be in"),
        (["--scales", "2", "2.0"], "--scales: one is given twice"),
        (["TWICE"], "--features: own-CLIP, own-CLIP: two have one name"),
        (["--scales", "2", "2.0000001"], "--scales: one is given twice, to six digits"),
        (["--steps", "2", "1001"], "decoder.steps"),
        (["--steps", "0"], "--steps: must each be at least 1"),
        (["decoder.guidance=2"], "decoder.guidance: is set by --scales"),
        (["--steps", "4", "decoder.steps=4"], "decoder.steps: is set by --steps"),
    ],
)
def test_wrong_scales_are_a_line(more, said, words, cascade, tmp_path, capsys):
    words = [word for word in words if not word.startswith("decoder.")]
    more = [f"own:{cascade}/clip" if word == "TWICE" else word for word in more]
    given = guidance(words, tmp_path / "o", "--features", f"own:{cascade}", *more)
    assert said in error(capsys, given)
    assert not (tmp_path / "o").exists()
