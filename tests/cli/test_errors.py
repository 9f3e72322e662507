"""Ten bad inputs and more: one line on standard error, exit status 2, nothing written."""

from __future__ import annotations

import io
import shutil
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from unclip.cli import main


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> str:
        status = main([str(w) for w in words])
        error = capsys.readouterr().err.strip()
        assert status == 2
        assert error.startswith("unclip: error: ")
        assert len(error.splitlines()) == 1, error
        return error

    return call


@pytest.fixture
def clip_experiment(minute_experiment):
    return minute_experiment("clip")


def png(colour="red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(buffer, "PNG")
    return buffer.getvalue()


def folder(path: Path, count: int = 8, **files: bytes | str) -> Path:
    path.mkdir()
    lines = []
    for k in range(count):
        (path / f"{k}.png").write_bytes(png())
        lines.append(f'{{"file_name": "{k}.png", "caption": "a red square {k}"}}')
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        (path / f"{name}.png").write_bytes(data)
        lines.append(f'{{"file_name": "{name}.png", "caption": "a red square"}}')
    (path / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return path


STRICT = ("data.on_error=error", "data.held_out=0", "trainer.max_steps=40")


def test_unknown_key(run, clip_experiment):
    assert "did you mean 'embed_dim'" in run("train", clip_experiment, "model.embed_dimm=3")


def test_wrong_type(run, clip_experiment):
    assert "trainer.max_steps" in run("train", clip_experiment, "trainer.max_steps=soon")


def test_negative_steps(run, clip_experiment):
    assert "trainer.max_steps=-1: must be" in run("train", clip_experiment, "trainer.max_steps=-1")


def test_missing_experiment(run):
    assert "did you mean 'clip/tiny'" in run("train", "clip/tinny")


def test_missing_data_file(run, clip_experiment):
    error = run("train", clip_experiment, "data.source=nowhere.parquet")
    assert "data.source: nowhere.parquet does not exist" in error


def test_unknown_stage(run, tmp_path):
    (tmp_path / "x.yaml").write_text("stage: dreams\n")
    assert "unknown stage 'dreams'" in run("train", tmp_path / "x.yaml")


def test_cyclic_extends(run, tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b\n")
    (tmp_path / "b.yaml").write_text("extends: a\n")
    assert "cycle" in run("train", tmp_path / "a.yaml")


def test_truncated_tar(run, clip_experiment, tmp_path):
    path = tmp_path / "cut.tar"
    with tarfile.open(path, "w") as tar:
        for k in range(8):
            for name, data in ((f"{k}.png", png()), (f"{k}.txt", b"a red square")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    whole = path.read_bytes()
    path.write_bytes(whole[: 7 * 1024 + 700])
    assert "cut.tar" in run("train", clip_experiment, f"data.source={path}", *STRICT)


def test_text_file_named_png(run, clip_experiment, tmp_path):
    source = folder(tmp_path / "images", note="dear diary")
    error = run("train", clip_experiment, f"data.source={source}", *STRICT)
    assert "note.png" in error


def test_missing_caption(run, clip_experiment, tmp_path):
    source = folder(tmp_path / "images")
    lines = (source / "metadata.jsonl").read_text().splitlines()
    lines[3] = '{"file_name": "3.png", "caption": ""}'
    (source / "metadata.jsonl").write_text("\n".join(lines))
    error = run("train", clip_experiment, f"data.source={source}", *STRICT)
    assert "caption" in error


def test_artifact_of_another_embedding_size(run, cascade, minute_experiment, tmp_path):
    run_dir = tmp_path / "other"
    assert (
        main(["train", str(minute_experiment("clip")), f"run.dir={run_dir}", "model.embed_dim=8"])
        == 0
    )
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    shutil.copytree(run_dir / "artifact", mixed / "clip")
    for part in ("prior", "decoder", "upsampler"):
        shutil.copytree(cascade / part / "artifact", mixed / part)
    error = run("sample", "a red circle", "--pipeline", mixed)
    assert "embedding size 16, but the CLIP" in error


def test_no_caption(run):
    assert "no caption" in run("sample")


def test_missing_pipeline(run):
    assert "no such folder" in run("sample", "a red circle", "--pipeline", "nowhere")


def test_a_captions_file_that_is_no_text(run, tmp_path):
    (tmp_path / "captions.txt").write_bytes(b"\xff\xfe\x00")
    assert "is not UTF-8 text" in run("sample", "--captions", tmp_path / "captions.txt")
    said = run("sample", "--captions", "/dev/zero")
    assert "--captions /dev/zero: is larger than 16 MiB" in said


def test_an_unwritable_run_folder(run, clip_experiment, tmp_path):
    (tmp_path / "file").write_text("in the way")
    error = run("train", clip_experiment, f"run.dir={tmp_path / 'file' / 'run'}")
    assert "cannot be made" in error


def test_unknown_recipe_key(run, tmp_path):
    (tmp_path / "r.yaml").write_text("promps: 3\n")
    assert "did you mean 'prompts'" in run("recipe", tmp_path / "r.yaml")
