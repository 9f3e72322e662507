"""What is put in the place of earlier folders takes nothing else with it."""

from __future__ import annotations

import os

import pytest

from unclip.common import replacing
from unclip.common.errors import UserError


def folder(path, *names):
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(str(path))
    return path


@pytest.mark.parametrize("more", ["thesis.txt", "a/b/.hidden", "a/c"])
def test_a_folder_that_holds_more_is_refused(tmp_path, more):
    out = folder(tmp_path / "out", "a/b/c", "d")
    replacing.require_only(out, ["a/b/c", "d", "e"], option="--out ")
    folder(out, more)
    with pytest.raises(UserError, match=f"--out .*: holds {more}"):
        replacing.require_only(out, ["a/b/c", "d"], option="--out ")


def test_links_are_refused(tmp_path):
    out = folder(tmp_path / "out", "a")
    (tmp_path / "link").symlink_to(out)
    with pytest.raises(UserError, match="is a symbolic link"):
        replacing.require_only(tmp_path / "link", ["a"], option="--out ")
    (out / "b").symlink_to(tmp_path)
    with pytest.raises(UserError, match="holds b"):
        replacing.require_only(out, ["a"], option="--out ")


@pytest.mark.parametrize("fails", [None, 0, 1, 2, 3])
def test_all_are_put_in_place_or_none(tmp_path, monkeypatch, fails):
    """Two that replace others, and a third that is new: five moves, one of which may fail."""
    new = [folder(tmp_path / f"new{n}", "x") for n in range(3)]
    targets = [tmp_path / f"out{n}" for n in range(3)]
    for target in targets[:2]:
        folder(target, "y")
    (tmp_path / "scratch").mkdir()
    moves, rename = [], os.rename

    def watched(source, target):
        moves.append(source)
        if len(moves) - 1 == fails:
            raise OSError("full")
        rename(source, target)

    monkeypatch.setattr(os, "rename", watched)
    made = dict(zip(targets, new))
    if fails is None:
        replacing.put_in_place(made, tmp_path / "scratch")
        assert all((target / "x").is_file() for target in targets)
        return
    with pytest.raises(OSError, match="full"):
        replacing.put_in_place(made, tmp_path / "scratch")
    assert all(os.listdir(target) == ["y"] for target in targets[:2])
    assert not targets[2].exists()
