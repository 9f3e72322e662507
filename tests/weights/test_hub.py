"""Sources on the hub: only what is needed is fetched, at one revision; a fake hub stands in."""

from __future__ import annotations

import os
import shutil
from types import SimpleNamespace

import pytest
from imports import karlo_folder

from unclip.cli import main
from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.weights import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """A repository in a folder."""

    def __init__(self, root):
        self.root, self.fetched, self.online, self.commit = root, [], True, COMMIT

    def HfApi(self):
        return self

    def model_info(self, repository, revision=None, files_metadata=False):
        if not self.online:
            raise ConnectionError("no route to host")
        names = [p for p in self.root.rglob("*") if p.is_file()]
        siblings = [
            SimpleNamespace(rfilename=p.relative_to(self.root).as_posix(), size=p.stat().st_size)
            for p in names
        ]
        return SimpleNamespace(
            sha=self.commit,
            siblings=siblings,
            tags=["license:creativeml-openrail-m"],
            card_data=None,
        )

    def hf_hub_download(self, repository, name, revision):
        assert revision == self.commit
        self.fetched.append(name)
        return str(self.root / name)

    def snapshot_download(self, repository, revision=None, local_files_only=False):
        raise FileNotFoundError("not in the cache")


@pytest.fixture
def fake(tmp_path, monkeypatch):
    root = karlo_folder(tmp_path / "repository")
    shutil.copy(
        root / "prior" / "diffusion_pytorch_model.safetensors",
        root / "prior" / "diffusion_pytorch_model.fp16.safetensors",
    )
    (root / "prior" / "diffusion_pytorch_model.bin").write_bytes(b"never read")
    (root / "safety_checker.safetensors").write_bytes(b"never read")
    found = Hub(root)
    monkeypatch.setattr(hub, "_hub", lambda: found)
    return found


def test_only_what_is_needed_is_fetched(fake, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["import", "hf://someone/karlo", "--out", str(out)]) == 0
    weights = [name for name in fake.fetched if not name.endswith(".json")]
    assert "prior/diffusion_pytorch_model.safetensors" in weights
    assert len(weights) == len(set(weights)) == 7
    found = artifacts.describe(out / "prior").provenance["imported"]
    assert (found["source"], found["revision"]) == ("hf://someone/karlo", COMMIT)
    assert found["licence"] == "creativeml-openrail-m"
    pinned = f"hf://someone/karlo@{COMMIT}"
    assert f"hf://someone/karlo is {pinned} now" in capsys.readouterr().err
    assert main(["import", pinned, "--out", str(out), "--force"]) == 0
    assert capsys.readouterr().err == ""


def test_half_takes_the_variant(fake, tmp_path):
    assert main(["import", "hf://someone/karlo@main", "--out", str(tmp_path / "o"), "--half"]) == 0
    assert "prior/diffusion_pytorch_model.fp16.safetensors" in fake.fetched


def test_offline_is_one_line(fake, tmp_path, capsys):
    fake.online = False
    assert main(["import", "hf://someone/karlo", "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "cannot be reached and is not in the cache" in error
    assert error.count("\n") == 1


def test_offline_the_cached_commit_of_an_earlier_import_is_found(tmp_path, monkeypatch):
    """As the hub's client leaves it if files are fetched by commit: no branch points to it."""
    from huggingface_hub import constants

    cache = tmp_path / "cache"
    for commit, age in (("a" * 40, 100), (COMMIT, 50)):
        folder = cache / "models--someone--karlo" / "snapshots" / commit
        blob = cache / "models--someone--karlo" / "blobs" / commit
        for path in (folder, blob.parent):
            path.mkdir(parents=True, exist_ok=True)
        blob.write_text("{}")
        os.utime(blob, (1e9 - age, 1e9 - age))
        (folder / "config.json").symlink_to(blob)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    for spec in ("hf://someone/karlo", "hf://someone/karlo@main", f"hf://someone/karlo@{COMMIT}"):
        source = hub.open_source(spec)
        assert source.origin == {"source": "hf://someone/karlo", "revision": COMMIT}
        assert source.names == ["config.json"]
    with pytest.raises(UserError, match="not in the cache"):
        hub.open_source("hf://someone/karlo@v2")
    with pytest.raises(UserError, match="not in the cache"):
        hub.open_source("hf://someone/else")


def test_two_revisions_do_not_meet_in_a_cascade(fake, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["import", "hf://someone/karlo", "--out", str(out)]) == 0
    fake.commit = "f" * 40
    shutil.rmtree(out / "decoder")
    for name in ("prior", "clip", "upsampler"):
        shutil.rmtree(
            fake.root / {"clip": "text_encoder", "upsampler": "super_res_first"}.get(name, name)
        )
    for name in ("image_encoder", "super_res_last"):
        shutil.rmtree(fake.root / name)
    (fake.root / "model_index.json").unlink()
    assert main(["import", "hf://someone/karlo", "--out", str(out)]) == 2
    assert "one revision" in capsys.readouterr().err


@pytest.mark.parametrize(
    "address",
    [
        *(
            "hf://karlo",
            "hf://",
            "hf://a/b/c",
            "hf://a/b@",
            "hf://a/b@x y",
            "hf://../b",
            "hf://a/..",
        ),
        *(
            "hf://a/b@../../c",
            "hf://a/b@/c",
            "hf://a/b--c",
            "hf://a/b\nc",
            "https://",
            "https://host",
        ),
        *("https:///a.pt", "https://[/a.pt", "https://host:port/a.pt"),
    ],
)
def test_a_wrong_address_says_its_form(capsys, tmp_path, address):
    assert main(["import", address, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert ("hf://ORG/NAME@REVISION" if address.startswith("hf") else "https://HOST/FILE") in error
    assert error.count("\n") == 1
