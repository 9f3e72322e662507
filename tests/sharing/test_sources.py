"""What a stranger's experiment may read: nothing outside, nothing private, nothing unasked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from server import serving

from unclip.cli import main
from unclip.common.errors import UserError
from unclip.config.load import load_experiment
from unclip.data import files
from unclip.data.remote import PUBLIC_ONLY, is_public
from unclip.runs.parents import count_parameters
from unclip.sharing import bounds
from unclip.sharing.sources import check_source, check_sources, named_sources

OUTSIDE = [
    "/etc",
    "~/x",
    "~root/x",
    "../x",
    "runs/../../x",
    "runs/{.,}./../x",
    "{a,/etc}",
    "..\\x",
    "C:/x",
    "a\0b",
    "{0..9999999}",
    "{0..99999}{0..99999}",
    "hf:/etc",
    "hf:../x",
    "hf:hf:/etc",
    "photos.json?images=../x",
    "photos.json?images=/etc",
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "local:///etc/passwd",
    "simplecache::local:///etc/passwd",
    "simplecache::simplecache::file:///etc",
    "filecache::../x",
    "reference://a.tar::http://example.org/x.json",
    "Reference://a.tar",
    "zip://a::https://example.org/x.zip",
    "https://example.org/x::file:///etc",
    "https://example.org/../x",
    "memory://x",
    "ftp://example.org/x",
    "github://a:b@c/x",
    "",
]
INSIDE = [
    "scenes",
    "photos",
    "data/photos-{000..003}.tar",
    "data/*.tar",
    "hf:somebody/photos",
    "captions.json?images=photos",
    "https://example.org/{0..9}.tar",
    "simplecache::https://example.org/0.tar",
    "s3://bucket/0.tar",
    "a..b/c",
]


@pytest.mark.parametrize("source", OUTSIDE)
def test_what_leads_elsewhere_is_refused(source):
    with pytest.raises(ValueError, match=r"must|names more|brace"):
        check_source(source)


@pytest.mark.parametrize("source", INSIDE)
def test_what_is_below_the_working_folder_or_public_may_be_asked_for(source):
    check_source(source)


@given(st.text(st.sampled_from("ab./\\~:{},?=*hf\0#"), max_size=25))
@example("a/{.,b}./../..")
def test_no_path_that_passes_leaves_the_working_folder(source):
    try:
        check_source(source)
    except ValueError:
        return
    here = Path("/home/me/folder")
    for part in source.partition("?images=")[::2]:
        for place in files.braceexpand(part, escape=False):
            place = os.path.expanduser(place.removeprefix("hf:"))
            if not files.is_url(place):
                assert Path(os.path.normpath(here / place)).is_relative_to(here)


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("169.254.169.254", False),
        ("192.168.0.1", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("::ffff:127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
    ],
)
def test_private_addresses_are_told_from_public_ones(address, public):
    assert is_public(address) is public


def test_a_private_address_is_never_read_even_when_allowed(tmp_path):
    with serving() as server:
        for host in ("127.0.0.1", "localhost"):
            url = f"http://{host}:{server.server_port}/a.tar"
            found = load(tmp_path, f"data: {{source: '{url}'}}")
            with pytest.raises(UserError, match="private address"):
                check_sources(found, allow=True)
        assert not server.requests


def test_a_name_that_later_leads_to_a_private_address_is_not_read_either(monkeypatch):
    monkeypatch.setenv(PUBLIC_ONLY, "1")
    monkeypatch.setattr("unclip.data.remote._PAUSES", ())
    with serving() as server:
        server.files["a.tar"] = b"secret"
        with pytest.raises(UserError, match="Cannot connect to host"):
            files.read(server.url("a.tar"))
        assert not server.requests
        monkeypatch.delenv(PUBLIC_ONLY)
        assert files.read(server.url("a.tar")) == b"secret"


def test_reference_files_are_never_read():
    with pytest.raises(UserError, match="reference files are not read"):
        files.read("reference://a.tar::https://example.org/x.json")


def load(folder: Path, text: str, *overrides: str):
    file = folder / "x.yaml"
    file.write_text(f"stage: clip\n{text}\n")
    return load_experiment(str(file), list(overrides))


def test_what_is_read_is_shown_and_asked_for(tmp_path):
    mixed = "data: {source: mixture, mixture: {a: {source: photos}, b: {source: scenes}}}"
    found = load(tmp_path, mixed)
    assert named_sources(found) == {"data.mixture.a.source": "photos"}
    with pytest.raises(UserError, match=r"data.mixture.a.source='photos': would be read.*--allow"):
        check_sources(found, allow=False)
    assert check_sources(found, allow=True)
    typed = load(tmp_path, "data: {source: photos}", "data.source=/my/photos")
    assert not check_sources(typed, allow=False)
    assert not check_sources(load(tmp_path, "data: {source: scenes}"), allow=False)


@pytest.mark.parametrize(
    ("text", "typed", "says"),
    [
        ("trainer: {devices: 9}", "trainer.devices=9", "trainer.devices=9: this machine has"),
        ("trainer: {nodes: 8}", "trainer.nodes=8", "trainer.nodes=8: this machine has 1"),
        ("trainer: {threads: 1000}", "trainer.threads=1000", "trainer.threads=1,000: this machine"),
        ("data: {batch_size: 1000000}\nmodel: {image_size: 512}", None, "GiB or more"),
    ],
)
def test_numbers_are_bounded_by_this_machine_or_typed(tmp_path, text, typed, says):
    small = "model: {text_layers: 1, vision_layers: 1}\n" if "model" not in text else ""
    with pytest.raises(UserError, match=r"x\.yaml: ") as caught:
        bounds.check_machine(load(tmp_path, small + text))
    assert says in str(caught.value)
    if typed:
        bounds.check_machine(load(tmp_path, small + text, typed))


@pytest.mark.parametrize("linked", ["samples/step_3.png", "samples", "metrics.jsonl"])
def test_share_follows_no_links(cascade, tmp_path, linked, capsys):
    import shutil

    run, secret = tmp_path / "run", tmp_path / "secret"
    shutil.copytree(cascade / "clip", run)
    (run / "samples").mkdir(exist_ok=True)
    (run / "samples/step_3.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (run / linked).rename(secret)
    (run / linked).symlink_to(secret)
    assert main(["share", str(run), "--to", str(tmp_path / "b.zip")]) == 2
    assert "is a link" in capsys.readouterr().err
    assert not (tmp_path / "b.zip").exists()


def test_share_packs_no_file_that_only_is_called_an_image(cascade, tmp_path, capsys):
    import shutil

    shutil.copytree(cascade / "clip", tmp_path / "run")
    (tmp_path / "run/samples").mkdir(exist_ok=True)
    (tmp_path / "run/samples/step_3.png").write_text("secret")
    assert main(["share", str(tmp_path / "run"), "--to", str(tmp_path / "b.zip")]) == 2
    assert "is not a PNG" in capsys.readouterr().err


def test_every_device_holds_the_model(tmp_path, monkeypatch):
    small = "model: {text_layers: 1, vision_layers: 1}\n"
    resolved = load(tmp_path, small)
    needed = count_parameters(resolved) * bounds._BYTES
    monkeypatch.setattr(bounds, "_memory", lambda: 2 * needed + 2**30)
    bounds.check_machine(resolved)
    bounds.check_machine(load(tmp_path, small + "trainer: {devices: 2}", "trainer.devices=2"))
    many = load(tmp_path, small + "trainer: {devices: 99}", "trainer.devices=99")
    with pytest.raises(UserError, match="GiB or more"):
        bounds.check_machine(many)
