"""The hub and W&B, by stand-ins that keep what the real clients are asked."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from unclip.cli import main
from unclip.sharing import remote


class Hub:
    """The calls of `huggingface_hub.HfApi` that are used, on a folder."""

    def __init__(self, folder: Path, token: str | None = "token"):
        self.folder, self.token = folder, token
        self.asked: list[tuple[str, dict]] = []

    def file_exists(self, repository, name):
        return (self.folder / name).is_file()

    def create_repo(self, repository, **how):
        self.asked.append((repository, how))

    def upload_folder(self, *, repo_id, folder_path, commit_message, delete_patterns):
        self.asked.append((repo_id, {"delete_patterns": delete_patterns}))
        shutil.copytree(folder_path, self.folder, dirs_exist_ok=True)
        (self.folder / ".gitattributes").write_text("*.safetensors filter=lfs\n")

    def model_info(self, repository, files_metadata):
        files = [p for p in self.folder.rglob("*") if p.is_file()]
        named = [(p.relative_to(self.folder).as_posix(), p.stat().st_size) for p in files]
        return SimpleNamespace(
            sha="abc", siblings=[SimpleNamespace(rfilename=n, size=s) for n, s in named]
        )

    def snapshot_download(self, repository, *, revision, local_dir, allow_patterns):
        assert revision == "abc"
        for name in allow_patterns:
            (local_dir / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.folder / name, local_dir / name)
        (local_dir / ".cache" / "huggingface").mkdir(parents=True)


class Wandb:
    """The calls of `wandb` that are used, on a folder."""

    def __init__(self, folder: Path, logged_in: bool = True):
        self.folder, self.logged_in = folder, logged_in
        self.asked: list[dict] = []
        self.Settings = SimpleNamespace
        self.run = SimpleNamespace(log_artifact=lambda a: a, finish=lambda: None)

    def login(self, prompt):
        assert prompt is False
        return self.logged_in

    def init(self, **how):
        self.asked.append(how)
        return self.run

    def Artifact(self, name, type):
        add = lambda folder: shutil.copytree(folder, self.folder)  # noqa: E731
        return SimpleNamespace(add_dir=add, wait=lambda: None, version="v0")

    def Api(self):
        return self

    def artifact(self, name, type):
        self.asked.append({"name": name, "type": type})
        files = {p.relative_to(self.folder).as_posix(): p for p in self.folder.rglob("*")}
        entries = {
            n: SimpleNamespace(size=p.stat().st_size) for n, p in files.items() if p.is_file()
        }
        return SimpleNamespace(manifest=SimpleNamespace(entries=entries), download=self.download)

    def download(self, root):
        shutil.copytree(self.folder, root, dirs_exist_ok=True)


def error(capsys, *words) -> str:
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    line = capsys.readouterr().err.strip()
    assert len(line.splitlines()) == 1
    return line


def check(place, tmp_path) -> int:
    return main(["reproduce", place, "--dir", str(tmp_path / "out"), "--check-only"])


def test_to_the_hub_and_back(cascade, tmp_path, monkeypatch, capsys):
    hub = Hub(tmp_path / "hub")
    monkeypatch.setattr(remote, "_hub", lambda: hub)
    words = ["share", str(cascade / "prior"), "--to", "hf://me/tiny", "--weights"]
    assert main(words) == 0
    assert capsys.readouterr().out.strip() == "hf://me/tiny"
    assert hub.asked == [
        ("me/tiny", {"private": True, "exist_ok": True}),
        ("me/tiny", {"delete_patterns": None}),
    ]
    assert check("hf://me/tiny", tmp_path) == 0
    assert "holds a bundle; name another, or add --force" in error(capsys, *words)
    assert main([*words, "--force"]) == 0
    assert hub.asked[-1] == ("me/tiny", {"delete_patterns": "*"})
    (tmp_path / "hub" / "run.py").write_text("evil")
    message = error(capsys, "reproduce", "hf://me/tiny", "--dir", tmp_path / "out")
    assert "hf://me/tiny: run.py: is not a file of a bundle" in message


def test_the_hub_without_credentials_or_network(cascade, tmp_path, monkeypatch, capsys):
    words = ["share", cascade / "clip", "--to", "hf://me/tiny"]
    monkeypatch.setattr(remote, "_hub", lambda: Hub(tmp_path / "hub", token=None))
    assert "no credentials; run `hf auth login` or set HF_TOKEN" in error(capsys, *words)
    monkeypatch.undo()  # the real client, offline as all tests are
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    assert "hf://me/tiny: Cannot reach" in error(capsys, "reproduce", "hf://me/tiny", "--dir", "x")
    assert not Path("x").exists()


def test_to_wandb_and_back(cascade, tmp_path, monkeypatch, capsys):
    stand_in = Wandb(tmp_path / "wandb")
    monkeypatch.setitem(__import__("sys").modules, "wandb", stand_in)
    words = ["share", str(cascade / "prior"), "--to", "wandb://team/unclip/tiny"]
    assert main(words) == 0
    assert capsys.readouterr().out.strip() == "wandb://team/unclip/tiny:v0"
    asked = stand_in.asked[0]
    assert (asked["entity"], asked["project"]) == ("team", "unclip")
    assert asked["settings"].disable_git
    assert asked["settings"].disable_code
    assert check("wandb://team/unclip/tiny", tmp_path) == 0
    assert stand_in.asked[-1] == {"name": "team/unclip/tiny:latest", "type": "unclip-bundle"}
    assert check("wandb://team/unclip/tiny:v3", tmp_path) == 0
    assert stand_in.asked[-1]["name"] == "team/unclip/tiny:v3"
    stand_in.logged_in = False
    assert "no credentials; run `wandb login`" in error(capsys, *words)


@pytest.mark.parametrize("place", ["hf://me", "hf://me/../x/y", "wandb://a/b", "wandb://a/b/../c"])
def test_a_wrong_address_is_named(place, tmp_path, capsys):
    scheme = place.split(":")[0]
    message = error(capsys, "reproduce", place, "--dir", tmp_path / "out")
    assert f"{place}: must be of the form {scheme}://" in message
    assert not (tmp_path / "out").exists()
