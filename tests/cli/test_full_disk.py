"""A disk that takes no more, or nothing at all: one line, and no part of a file is left."""

import builtins
import errno
import io
import os
import resource
from contextlib import contextmanager

import pytest
from tiny_data import picture, png, records, write_sidecars

from unclip.cli import main


@contextmanager
def limited(size):
    """No file grows beyond ``size`` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def words_of(command, tmp_path, cascade, experiment):
    (tmp_path / "photo.png").write_bytes(png(picture(1, 64, 64)))
    photos = write_sidecars(tmp_path / "photos", records(40))
    out = f"--out={tmp_path / 'out'}"
    clip = f"clip={cascade / 'clip'}"
    return {
        "embed": ["embed", photos, "--clip", cascade / "clip", out],
        "pack": ["data", "pack", photos, out, "--workers", "0"],
        "parquet": ["data", "pack", photos, out, "--workers", "0", "--format", "parquet"],
        "inspect": ["data", "inspect", photos, out, "--workers", "0"],
        "degrade": ["degrade", tmp_path / "photo.png", out + ".png", "--size", "64"],
        "fit-pca": ["fit-pca", experiment("pca"), clip, f"run.dir={tmp_path / 'out'}"],
        "sample": ["sample", "a", "--pipeline", cascade, out],
        "shards": ["sample", "a", "--pipeline", cascade, out, "--devices", "1"],
        "tars": ["sample", "a", "--pipeline", cascade, out, "--format", "tar"],
        "train": ["train", experiment("clip"), f"run.dir={tmp_path / 'out'}"],
        "evaluate": ["evaluate", cascade / "upsampler", "--n=1", f"run.dir={tmp_path / 'out'}"],
    }[command]


@pytest.mark.parametrize("size", [0, 200, 2000])
@pytest.mark.parametrize(
    "command",
    ["embed", "pack", "parquet", "inspect", "degrade", "fit-pca", "sample", "shards", "tars"],
)
def test_a_full_disk_is_one_line_and_leaves_no_part(
    command, size, tmp_path, cascade, minute_experiment, capsys
):
    words = [str(word) for word in words_of(command, tmp_path, cascade, minute_experiment)]
    with limited(size):
        status = main(words)
    if size == 2000 and status == 0:
        return  # all of its files are smaller
    assert status == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "unclip: error:" in line]
    assert len(lines) == 1
    assert "None" not in lines[0]
    assert str(tmp_path) in lines[0]
    assert not [path.name for path in tmp_path.rglob("*.part")]


@pytest.fixture
def read_only(monkeypatch):
    """Nothing below a folder can be written any more, as on a disk that is mounted so."""

    def make(folder):
        def refuse(path):
            if isinstance(path, str | os.PathLike) and str(path).startswith(str(folder)):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

        def guarded(function, writes):
            def call(path, *args, **given):
                if writes(*args, **given):
                    refuse(path)
                return function(path, *args, **given)

            return call

        def mode(mode="r", *args, **given):
            return set(mode) & set("wax+")

        def flags(flags, *args, **given):
            return flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)

        for module in (builtins, io):
            monkeypatch.setattr(module, "open", guarded(io.open, mode))
        monkeypatch.setattr(os, "open", guarded(os.open, flags))
        for name in ("mkdir", "unlink", "rmdir", "rename", "replace"):
            always = guarded(getattr(os, name), lambda *args, **given: True)
            monkeypatch.setattr(os, name, always)
        access = os.access
        monkeypatch.setattr(
            os,
            "access",
            lambda path, mode, **given: (
                access(path, mode, **given)
                and not (mode & os.W_OK and str(path).startswith(str(folder)))
            ),
        )

    return make


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize(
    "command",
    [
        "embed",
        "pack",
        "parquet",
        "inspect",
        "degrade",
        "fit-pca",
        "sample",
        "shards",
        "train",
        "evaluate",
    ],
)
def test_a_read_only_disk_is_one_line(
    command, there, tmp_path, cascade, minute_experiment, capsys, read_only
):
    words = words_of(command, tmp_path, cascade, minute_experiment)
    disk = tmp_path / "disk"
    disk.mkdir()
    if there and command != "degrade":
        (disk / "out").mkdir()
    words = [str(word).replace(str(tmp_path / "out"), str(disk / "out")) for word in words]
    read_only(disk)
    assert main(words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "unclip: error:" in line]
    assert len(lines) == 1
    assert str(disk) in lines[0]
    assert "None" not in lines[0]
    assert not [path for path in disk.rglob("*") if path != disk / "out"]
