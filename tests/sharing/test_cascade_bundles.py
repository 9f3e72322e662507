"""A whole cascade as one bundle: packed, sampled, trained again, refused where it is not one."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path

import pytest
import yaml
from PIL import Image

import unclip
from tests.sharing.conftest import seal_cascade, zipped
from unclip.cli import main
from unclip.common import artifacts
from unclip.sharing import rerun

STAGES = ["clip", "pca", "ar_prior", "decoder", "prior", "upsampler"]


def error(capsys, *words) -> str:
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    return capsys.readouterr().err.strip().splitlines()[-1]


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def shared(cascade, tmp_path_factory) -> Path:
    """The bundle of the minute cascade, which was moved after its training."""
    root = tmp_path_factory.mktemp("shared")
    shutil.copytree(cascade, root / "moved")
    where = root / "cascade.zip"
    assert main(["share", str(root / "moved"), "--to", str(where), "--weights"]) == 0
    return where


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """An empty folder to work in, and training in this process."""
    commands = []

    def command(words, variables):
        commands.append(words)
        assert main(words) == 0

    monkeypatch.setattr(rerun, "in_a_process", command)
    monkeypatch.setenv("UNCLIP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return commands


def test_every_stage_is_in_it_and_every_parent_once(shared, cascade):
    members = members_of(shared)
    manifest = json.loads(members["manifest.json"])
    assert manifest["format_version"] == 2
    assert sorted(manifest["weights"]) == sorted(STAGES)
    weights = [name for name in members if name.endswith(".safetensors")]
    assert sorted(weights) == sorted(f"{stage}/artifact/weights.safetensors" for stage in STAGES)
    for stage in STAGES:
        assert manifest["weights"][stage] == artifacts.describe(cascade / stage).sha256
    for stage, parents in {"prior": ["clip"], "ar_prior": ["clip", "pca"]}.items():
        experiment = yaml.safe_load(members[f"{stage}/experiment.yaml"])
        assert {experiment[p] for p in parents} == {f"parents/{p}" for p in parents}
    card = members["README.md"].decode()
    assert [line for line in card.splitlines() if line in [f"## {s}" for s in STAGES]] == [
        f"## {stage}" for stage in STAGES
    ]
    assert "(decoder/samples/step_" in card


def test_the_same_cascade_gives_the_same_bytes(shared, tmp_path):
    words = ["share", str(shared.parent / "moved"), "--to", str(tmp_path / "b.zip"), "--weights"]
    assert main(words) == 0
    assert (tmp_path / "b.zip").read_bytes() == shared.read_bytes()


def test_links_to_finished_runs_are_shared_and_artifacts_alone_are_not(shared, tmp_path, capsys):
    moved, made = shared.parent / "moved", tmp_path / "moved"
    made.mkdir()
    for stage in moved.iterdir():
        (made / stage.name).symlink_to(stage / "artifact")
    words = ["share", str(made), "--weights", "--to", str(tmp_path / "b.zip")]
    assert main(words) == 0
    assert (tmp_path / "b.zip").read_bytes() == shared.read_bytes()
    capsys.readouterr()
    decoder, words[-1] = made / "decoder", str(tmp_path / "c.zip")
    decoder.unlink()
    shutil.copytree(moved / "decoder" / "artifact", decoder)
    alone = f"{decoder} is an artifact alone, and a bundle repeats its run; "
    assert f"{alone}put the whole folder of the finished run" in error(capsys, *words)
    origin = json.loads((decoder / "provenance.json").read_text())
    (decoder / "provenance.json").write_text(json.dumps({**origin, "merged": []}))
    assert f"{alone}it was merged; share the runs of" in error(capsys, *words)
    assert not (tmp_path / "c.zip").exists()


def drawn(out: Path) -> list[bytes]:
    return [Image.open(path).tobytes() for path in sorted(out.glob("*.png"))]


def test_a_bundle_in_the_cache_is_looked_at_again(shared, tmp_path, elsewhere, capsys):
    """Its manifest is known, so nothing is unpacked; what lies beside the manifest counts still."""
    words = ["sample", "red", "--device", "cpu", "decoder.steps=2", "--out", "o", "--pipeline"]
    assert main([*words, str(shared)]) == 0
    members = members_of(shared)
    for said, changed in {
        "evil.txt: is not a file of a bundle": {**members, "evil.txt": b"x"},
        "clip/samples/step_0000009.png: is not in manifest.json": {
            **members,
            "clip/samples/step_0000009.png": b"x",
        },
        "../evil.txt: ": {**members, "../evil.txt": b"x"},
        "clip/experiment.yaml: is missing": {
            name: data for name, data in members.items() if name != "clip/experiment.yaml"
        },
    }.items():
        other = tmp_path / "other.zip"
        with zipfile.ZipFile(other, "w") as archive:
            for name, data in changed.items():
                archive.writestr(name, data)
        assert said in error(capsys, *words, other)


@pytest.mark.parametrize("form", ["zip", "folder"])
def test_it_samples_the_same_images_as_its_cascade(shared, cascade, tmp_path, elsewhere, form):
    bundle = shared
    if form == "folder":
        bundle = tmp_path / "bundle"
        zipfile.ZipFile(shared).extractall(bundle)
    words = ["sample", "a red circle", "--device", "cpu", "--pipeline"]
    assert main([*words, str(cascade), "--out", "one"]) == 0
    for out in ("two", "three"):  # the second from the cache
        assert main([*words, str(bundle), "--out", out]) == 0
        assert drawn(Path(out)) == drawn(Path("one")) != []
    assert unclip.Pipeline.load(bundle).cascade.decoder.net.config.image_size > 0
    (unpacked,) = (tmp_path / "cache" / "bundles").iterdir()
    assert sorted(p.name for p in unpacked.iterdir() if p.is_dir()) == sorted(STAGES)


@pytest.mark.slow
def test_a_cascade_without_weights_is_trained_again_to_the_same_bits(
    cascade, tmp_path, elsewhere, capsys
):
    assert main(["share", str(cascade), "--to", "c.zip"]) == 0
    assert "has no weights" in error(capsys, "sample", "x", "--pipeline", "c.zip")
    assert main(["reproduce", "c.zip", "--dir", "out"]) == 0
    found = json.loads(Path("out/report.json").read_text())
    assert found["verdict"] == "bit-identical"
    assert list(found["stages"]) == STAGES
    assert {stage["verdict"] for stage in found["stages"].values()} == {"bit-identical"}
    assert [words[0] for words in elsewhere] == [
        "fit-pca" if stage == "pca" else "train" for stage in STAGES
    ]  # each once
    assert main(["reproduce", "c.zip", "--dir", "out"]) == 0
    assert len(elsewhere) == len(STAGES)
    assert main(["sample", "a red circle", "--pipeline", "out", "--out", "images"]) == 0


@pytest.mark.slow
def test_an_override_is_for_the_stages_that_have_it(shared, tmp_path, elsewhere, capsys):
    words = ["reproduce", str(shared), "--dir", "out"]
    assert "no stage of this cascade has this field" in error(capsys, *words, "optim.nonsense=1")
    assert "cannot be changed here" in error(capsys, *words, "run.dir=x")
    assert not Path("out").exists()
    with pytest.raises(SystemExit) as ended:
        main([*words, "model.unet.channels=64"])
    assert ended.value.code == 1
    found = json.loads(Path("out/report.json").read_text())
    changed = {name for name, stage in found["stages"].items() if stage["changed"]}
    assert changed == {"decoder", "upsampler"}
    different = {n for n, s in found["stages"].items() if s["verdict"] == "different"}
    assert (different, found["verdict"]) == (changed, "different")


def test_a_check_of_a_cascade_leaves_nothing(shared, elsewhere, capsys):
    assert main(["reproduce", str(shared), "--check-only"]) == 0
    assert capsys.readouterr().out.startswith("verified: ")
    assert list(Path().iterdir()) == []
    assert elsewhere == []


def without(*begins):
    return lambda members: seal_cascade(
        {n: b for n, b in members.items() if not n.startswith(begins)}
    )


def copied(source, target):
    return lambda members: seal_cascade(
        members
        | {target + n.removeprefix(source): b for n, b in members.items() if n.startswith(source)}
    )


def with_file(name):
    return lambda members: seal_cascade({**members, name: b"{}"})


def with_text(name, old, new):
    def changed(members):
        assert old in members[name]
        twin = name.replace("experiment.yaml", "artifact/config.yaml")
        both = members[name].replace(old, new)
        return seal_cascade({**members, name: both, twin: both})

    return changed


REFUSED = {
    "no clip": (without("clip/"), "must have clip and decoder"),
    "no decoder": (without("decoder/"), "must have clip and decoder"),
    "no pca": (without("pca/"), "pca/experiment.yaml: is missing"),
    "no metrics": (without("prior/metrics"), "prior/metrics.jsonl: is missing"),
    "another stage": (copied("clip/", "helper/"), "is not a file of a bundle"),
    "a pca for nobody": (
        copied("pca/artifact/config", "parents/pca/artifact/config"),
        "has no experiment.yaml beside it",
    ),
    "the wrong stage": (
        copied("clip/", "upsampler_9/"),
        "upsampler_9/experiment.yaml: stage: is a",
    ),
    "code": (with_file("decoder/run.py"), "decoder/run.py: is not a file of a bundle"),
    "a run's own file": (with_file("summary.json"), "summary.json: is not a file of a bundle"),
    "outside": (with_file("decoder/../../x.json"), "is not a file of a bundle"),
    "a path": (
        with_text("decoder/experiment.yaml", b"clip: parents/clip", b"clip: /etc"),
        "decoder/experiment.yaml: clip='/etc': names a place outside",
    ),
    "too large": (
        with_text("decoder/experiment.yaml", b"max_steps: 3", b"max_steps: 20000000"),
        "the most that a bundle may have",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_cascade_is_refused(case, shared, tmp_path, elsewhere, capsys):
    spoil, message = REFUSED[case]
    place = zipped(spoil(members_of(shared)), tmp_path / "b.zip")
    before = {path for path in tmp_path.rglob("*") if path.name != "bundles"}
    for words in (["reproduce", place], ["sample", "x", "--pipeline", place]):
        assert message in error(capsys, *words)
        assert str(place) in capsys.readouterr().err + error(capsys, *words)
    (tmp_path / "cache").mkdir(exist_ok=True)
    left = {path for path in tmp_path.rglob("*") if path.name != "bundles"}
    assert left - {tmp_path / "cache"} == before - {tmp_path / "cache"}


def test_what_is_no_bundle_of_a_cascade_does_not_sample(cascade, tmp_path, elsewhere, capsys):
    assert main(["share", str(cascade / "clip"), "--to", "clip.zip", "--weights"]) == 0
    message = error(capsys, "sample", "x", "--pipeline", "clip.zip")
    assert "is a bundle of the run clip/clip; give one of a cascade" in message
    Path("text.zip").write_text("no zip")
    assert "is not a complete zip file" in error(capsys, "sample", "x", "--pipeline", "text.zip")
    assert "no such folder" in error(capsys, "sample", "x", "--pipeline", "nowhere.zip")


def test_stages_of_different_clips_are_not_shared_together(
    cascade, minute_experiment, tmp_path, capsys
):
    shutil.copytree(cascade, tmp_path / "mixed")
    shutil.rmtree(tmp_path / "mixed" / "clip")
    words = ["train", minute_experiment("clip"), f"run.dir={tmp_path / 'mixed' / 'clip'}"]
    assert main([*map(str, words), "trainer.seed=9"]) == 0
    message = error(capsys, "share", tmp_path / "mixed", "--to", tmp_path / "b.zip")
    assert "trained on the embeddings of another CLIP" in message
    shutil.rmtree(tmp_path / "mixed" / "clip")
    message = error(capsys, "share", tmp_path / "mixed", "--to", tmp_path / "b.zip")
    assert "a cascade without clip; share its stages one by one" in message


@pytest.mark.slow
def test_the_ar_priors_own_pca_goes_with_it(cascade, minute_experiment, tmp_path, elsewhere):
    """A cascade whose PCA for figures is another than the AR prior's."""
    shutil.copytree(cascade, tmp_path / "mine")
    shutil.rmtree(tmp_path / "mine" / "pca")
    for name in ("ar_prior", "prior"):
        shutil.rmtree(tmp_path / "mine" / name)
    shutil.copytree(cascade / "ar_prior", tmp_path / "mine" / "prior")
    words = ["fit-pca", minute_experiment("pca"), f"run.dir={tmp_path / 'mine' / 'pca'}"]
    assert main([*map(str, words), f"clip={cascade / 'clip'}", "pca.components=3"]) == 0
    assert main(["share", str(tmp_path / "mine"), "--to", "c.zip"]) == 0
    names = set(members_of(Path("c.zip")))
    assert {"pca/experiment.yaml", "parents/pca/experiment.yaml"} <= names
    assert main(["reproduce", "c.zip", "--dir", "out"]) == 0
    found = json.loads(Path("out/report.json").read_text())
    assert found["verdict"] == "bit-identical"
    assert list(found["stages"]) == ["clip", "pca", "decoder", "prior", "upsampler"]
    assert [w[0] for w in elsewhere].count("fit-pca") == 2


def test_a_kept_bundle_is_found_by_what_its_manifest_says(shared, tmp_path, elsewhere):
    """Another bundle at the same path is another cascade."""
    words = ["sample", "a red circle", "--pipeline", "c.zip", "--out"]
    shutil.copy(shared, "c.zip")
    assert main([*words, "one"]) == 0
    text = with_text("decoder/experiment.yaml", b"guidance: 2.0", b"guidance: 5.0")
    os.remove("c.zip")
    zipped(text(members_of(shared)), Path("c.zip"))
    assert main([*words, "two"]) == 0
    assert drawn(Path("one")) != drawn(Path("two"))
