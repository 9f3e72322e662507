"""What tells of the machine is taken out, and nothing else."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unclip.sharing.privacy import public, public_command, public_tree

STAYS = (
    "scenes",
    "prior/tiny",
    "parents/clip",
    "open_clip:ViT-L-14/openai",
    "hf:user/set:config@train",
    "s3://bucket/data/{000..099}.tar",
    "runs/clip/tiny/20260101-000000-abcd",
    "photos/train.parquet",
    "10,10,3,2,2",
    "a caption: red or blue, 3 of 4",
)
GOES = {
    "/home/alice/photos": "photos",
    "/home/alice/my photos": "my photos",
    "~/photos": "photos",
    "../../alice/photos": "photos",
    "C:\\Users\\alice\\photos": "photos",
    "file:///home/alice/a.tar": "a.tar",
    "/home/alice/c.json?images=/home/alice/images": "c.json?images=images",
    "data.source=/home/alice/my photos": "data.source=my photos",
    "open_clip:ViT-B-32@/home/alice/w.safetensors": "open_clip:ViT-B-32@w.safetensors",
    "https://alice:secret@host.org/a.tar?signature=abc": "https://host.org/a.tar",
    "see /home/alice/x, please": "see x, please",
}


@pytest.mark.parametrize("text", STAYS)
def test_names_stay(text):
    assert public(text) == text


@pytest.mark.parametrize("text", GOES)
def test_paths_go(text):
    assert public(text) == GOES[text]


@given(st.text(alphabet=string.ascii_letters + "/\\~.:=?@ ,{}-_", max_size=40))
def test_what_is_public_stays_so(text):
    once = public(text)
    assert public(once) == once
    assert not once.startswith(("/", "~", "../"))


def test_trees_and_commands():
    tree = {"a": ["/home/alice/x", 3, None, {"b": "~/y"}]}
    assert public_tree(tree) == {"a": ["x", 3, None, {"b": "y"}]}
    assert public_command("unclip train '/home/a b/x.yaml' k=/y/z") == "unclip train x.yaml k=z"
    assert public_command("unclip 'unclosed") == "unclip ''\"'\"'unclosed'"


def test_user_and_machine_are_nameless(monkeypatch):
    monkeypatch.setattr("platform.node", lambda: "lab7.example.org")
    monkeypatch.setattr("getpass.getuser", lambda: "alice")
    tree = {"on": "Linux on lab7", "by": "alice@lab7.example.org", "malice": "malice"}
    assert public_tree(tree, names=True) == {
        "on": "Linux on host",
        "by": "user@host",
        "malice": "malice",
    }
    assert public("/home/alice") == "user"
