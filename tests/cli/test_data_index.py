"""`unclip data index`: tars are indexed once, so that no run has to."""

from __future__ import annotations

import io
import tarfile

import pytest
from PIL import Image

from unclip.cli import main
from unclip.data.readers import tar_index


def tar(path, keys):
    with tarfile.open(path, "w") as archive:
        for key in keys:
            image = io.BytesIO()
            Image.new("RGB", (4, 4)).save(image, "PNG")
            for name, data in ((f"{key}.png", image.getvalue()), (f"{key}.txt", b"a square")):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


@pytest.fixture
def shards(tmp_path, monkeypatch):
    monkeypatch.setenv("UNCLIP_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "shards"
    folder.mkdir()
    tar(folder / "0.tar", "abc")
    tar(folder / "1.tar", "de")
    return folder


def test_afterwards_no_tar_is_scanned(shards, capsys, monkeypatch):
    assert main(["data", "index", str(shards)]) == 0
    assert capsys.readouterr().out.strip() == f"{shards}: tars 2, samples 5, indexed"
    assert len(list((shards.parent / "cache").rglob("*.npz"))) == 2
    monkeypatch.setattr(tar_index, "scan_tar", None)
    assert main(["data", "index", str(shards / "{0..1}.tar")]) == 0


def test_an_index_beside_a_tar_needs_no_cache(shards, capsys, monkeypatch):
    assert main(["data", "index", str(shards), "--beside"]) == 0
    assert sorted(p.name for p in shards.glob("*.npz")) == ["0.tar.index.npz", "1.tar.index.npz"]
    assert not list((shards.parent / "cache").rglob("*.npz"))
    monkeypatch.setattr(tar_index, "scan_tar", None)
    assert main(["data", "index", str(shards)]) == 0


@pytest.mark.parametrize("source", ["nowhere.tar", "scenes", "images"])
def test_what_is_no_tar_is_refused(shards, source, capsys, monkeypatch):
    monkeypatch.chdir(shards.parent)
    images = shards.parent / "images"
    images.mkdir()
    Image.new("RGB", (4, 4)).save(images / "0.png")
    assert main(["data", "index", source]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert source in error
