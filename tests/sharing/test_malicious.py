"""Bundles made to harm, or broken: each refused in one line, nothing written, little memory."""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from tests.sharing.conftest import seal, zipped
from unclip.cli import main
from unclip.common.errors import UserError
from unclip.sharing import reproduce
from unclip.sharing.fetch import fetch

EXPERIMENT, WEIGHTS = "experiment.yaml", "artifact/weights.safetensors"
CENTRAL = b"PK\x01\x02"


def with_member(name, data=b"evil"):
    return lambda members, path: zipped({**members, name: data}, path)


def sealed_with(name, data):
    """The member takes the place of the bundle's, and the manifest agrees."""
    return lambda members, path: zipped(seal({**members, name: data}), path)


def edited(name, old, new, count=1):
    """The member's text changed, and the manifest agrees."""

    def spoil(members, path):
        assert old.encode() in members[name]
        changed = members[name].replace(old.encode(), new.encode(), count)
        return zipped(seal({**members, name: changed}), path)

    return spoil


def experiment(*changes):
    """The experiment and its twin in the artifact changed, and the manifest agrees."""

    def spoil(members, path):
        text = members[EXPERIMENT].decode()
        for old, new in changes:
            assert old in text
            text = text.replace(old, new, 1)
        twins = dict.fromkeys((EXPERIMENT, "artifact/config.yaml"), text.encode())
        return zipped(seal({**members, **twins}), path)

    return spoil


def provenance(**fields):
    def spoil(members, path):
        changed = json.dumps(json.loads(members["provenance.json"]) | fields).encode()
        twins = {"provenance.json": changed, "artifact/provenance.json": changed}
        return zipped(seal({**members, **twins}), path)

    return spoil


def manifest(text=None, **fields):
    def spoil(members, path):
        changed = text or json.dumps(json.loads(members["manifest.json"]) | fields).encode()
        return zipped({**members, "manifest.json": changed}, path)

    return spoil


def without(name):
    return lambda members, path: zipped({n: b for n, b in members.items() if n != name}, path)


def special(name, mode):
    """A member whose Unix mode says that it is a link, a device, ..."""

    def spoil(members, path):
        with zipfile.ZipFile(zipped(members, path), "a") as archive:
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, mode << 16
            archive.writestr(info, "/etc/passwd")

    return spoil


def patched(name, offset, value, local=None):
    """Bytes in the central directory's entry of ``name`` (and in its local header) overwritten."""

    def spoil(members, path):
        data = bytearray(zipped(members, path).read_bytes())
        at = data.index(CENTRAL)
        while data[at + 46 : at + 46 + len(name)] != name.encode():
            at = data.index(CENTRAL, at + 1)
        start = struct.unpack_from("<I", data, at + 42)[0]
        data[at + offset : at + offset + len(value)] = value
        if local is not None:
            data[start + local : start + local + len(value)] = value
        path.write_bytes(data)

    return spoil


def bomb(members, path):
    zeros = {**members, WEIGHTS: bytes(16 << 20)}
    zipped(seal(zeros), path, zipfile.ZIP_DEFLATED)


def many(count):
    def spoil(members, path):
        with zipfile.ZipFile(zipped(members, path), "a") as archive:
            for k in range(count):
                archive.writestr(f"samples/step_{k}.png", b"")

    return spoil


def endless(members, path):
    """The directory repeated until it has more than 4 MiB."""
    data = zipped(members, path).read_bytes()
    end = data.rindex(b"PK\5\6")
    start = struct.unpack_from("<I", data, end + 16)[0]
    directory = data[start:end] * ((5 << 20) // (end - start))
    tail = bytearray(data[end:])
    struct.pack_into("<I", tail, 12, len(directory))
    path.write_bytes(data[:start] + directory + tail)


def twice(members, path):
    with zipfile.ZipFile(zipped(members, path), "a") as archive, pytest.warns(match="Duplicate"):
        archive.writestr(EXPERIMENT, b"stage: clip\n")


def cut(members, path):
    whole = zipped(members, path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def cycle(members, path):
    changed = {f"parents/clip/{n}": members[n] for n in (EXPERIMENT, "provenance.json")}
    kept = {n: b for n, b in members.items() if not n.startswith("parents/")}
    zipped(seal({**kept, **changed}), path)


def folder_with(make):
    """A bundle that is a folder, in which ``make`` puts something."""

    def spoil(members, path):
        for name, data in members.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        make(path)

    return spoil


def link_out(path):
    (path / "summary.json").unlink()
    (path / "summary.json").symlink_to("/etc/passwd")


def header(size):
    """Weights whose header promises other tensors than there are."""
    text = json.dumps({"w": {"dtype": "F32", "shape": [size], "data_offsets": [0, 4 * size]}})
    return struct.pack("<Q", len(text)) + text.encode() + bytes(16)


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{new}: &{new} [*{old}, *{old}]\n" for old, new in zip("abcdefgh", "bcdefghi")
)
DEEP = "[" * 100_000 + "]" * 100_000

CASES = {
    "traversal": (with_member("../evil"), "../evil: is not a file of a bundle"),
    "absolute": (with_member("/tmp/evil"), "/tmp/evil: is not a file of a bundle"),
    "inner traversal": (with_member("samples/../../evil.png"), "is not a file of a bundle"),
    "backslash": (with_member("..\\evil"), "evil: is not a file of a bundle"),
    "drive": (with_member("C:\\evil.png"), "is not a file of a bundle"),
    "newline": (with_member("a\nunclip: all is well"), r"'a\nunclip: all is well': is not a file"),
    "zero byte": (with_member(f"{EXPERIMENT}\0../evil"), "is not a file of a bundle"),
    "link": (special("samples/step_1.png", 0o120777), "step_1.png: is not a plain file"),
    "device": (special("samples/step_1.png", 0o060644), "step_1.png: is not a plain file"),
    "folder mode": (special("samples/step_1.png", 0o040755), "step_1.png: is not a plain file"),
    "folder as file": (with_member(f"{EXPERIMENT}/", b""), "experiment.yaml/: is not a file of"),
    "bomb": (bomb, "weights.safetensors: unpacks to more than 200 times its size"),
    "overlap": (patched(WEIGHTS, 42, bytes(4)), "lies over another file"),
    "smaller than told": (
        patched(WEIGHTS, 24, struct.pack("<I", 9), local=22),
        "weights.safetensors: ",
    ),
    "larger than told": (
        patched("summary.json", 24, struct.pack("<I", 2000), local=22),
        "summary.json: ",
    ),
    "encrypted": (patched(EXPERIMENT, 8, b"\1\0", local=6), "experiment.yaml: is encrypted"),
    "unknown compression": (
        patched(EXPERIMENT, 10, b"\x63\0", local=8),
        "experiment.yaml: cannot be unpacked",
    ),
    "many files": (many(300), "holds more than 256 files"),
    "endless directory": (endless, "its directory is too large"),
    "twice": (twice, "experiment.yaml: is there twice"),
    "other case": (with_member("Experiment.yaml"), "Experiment.yaml: is not a file of a bundle"),
    "pt": (with_member("artifact/weights.pt"), "weights.pt: is not a file of a bundle"),
    "code": (with_member("artifact/setup.py"), "setup.py: is not a file of a bundle"),
    "nested": (
        with_member(f"parents/clip/parents/clip/{EXPERIMENT}"),
        "parents/clip/parents/clip/experiment.yaml: is not a file of a bundle",
    ),
    "cycle": (cycle, "parents/clip/experiment.yaml: stage: is a diffusion_prior, a clip"),
    "checksum": (with_member(EXPERIMENT, b"stage: clip\n"), "experiment.yaml: is not the file"),
    "missing": (without("summary.json"), "summary.json: is missing"),
    "missing weights": (without(WEIGHTS), "weights.safetensors: is missing"),
    "no manifest": (without("manifest.json"), "is not a bundle: it has no manifest.json"),
    "extra": (with_member("artifact/errors.json"), "errors.json: is not in manifest.json"),
    "long card": (with_member("README.md", b"a" * (2 << 20)), "README.md: has more than"),
    "twin": (
        edited("artifact/config.yaml", "stage: ", "stage:  "),
        "artifact/config.yaml: differs from experiment.yaml",
    ),
    "pickle": (
        sealed_with(WEIGHTS, pickle.dumps({"w": [1.0]})),
        "weights.safetensors: ",
    ),
    "short weights": (sealed_with(WEIGHTS, header(1 << 40)), "weights.safetensors: "),
    "long weights": (sealed_with(WEIGHTS, header(1)), "weights.safetensors: "),
    "endless header": (
        sealed_with(WEIGHTS, struct.pack("<Q", 1 << 62) + bytes(16)),
        "weights.safetensors: ",
    ),
    "artifact of another stage": (
        edited("artifact/artifact.json", "diffusion_prior", "decoder"),
        "artifact.json: stage: must be diffusion_prior",
    ),
    "tag": (
        experiment(("about: ''", "about: !!python/object/apply:os.system [echo]")),
        "has the tag 'tag:yaml.org,2002:python/object/apply:os.system'",
    ),
    "laughs": (experiment(("stage:", LAUGHS + "stage:")), "has an alias"),
    "deep yaml": (experiment(("about: ''", f"about: {DEEP[:4000]}")), "nested deeper than 16"),
    "no yaml": (experiment(("about: ''", "about: [")), "experiment.yaml: not valid YAML"),
    "no text": (sealed_with("summary.json", b"\xff\xfe{}"), "summary.json: is not UTF-8"),
    "yaml twice": (experiment(("about: ''", "about: ''\nabout: ''")), "'about' is given twice"),
    "extends": (experiment(("about: ''", "extends: /etc/passwd")), "extends: a bundle's"),
    "interpolation": (experiment(("about: ''", "about: ${oc.env:HOME}")), "is not allowed"),
    "unknown field": (experiment(("model:", "model:\n  evil: 1")), "model.evil: unknown key"),
    "unknown stage": (experiment(("diffusion_prior", "os.system")), "unknown stage 'os.system'"),
    "absolute data": (
        experiment(("source: scenes", "source: /etc")),
        "data.source='/etc': names a place outside",
    ),
    "parent's data": (experiment(("source: scenes", "source: ../x")), "names a place outside"),
    "absolute clip": (experiment(("parents/clip", "/etc/clip")), "names a place outside"),
    "other clip": (experiment(("clip: parents/clip", "clip: clip/tiny")), "must be parents/clip"),
    "tracked": (experiment(("wandb: false", "wandb: true")), "tracking: a bundle's must be"),
    "run folder": (experiment(("root: runs", "root: evil")), "run: a bundle's must be"),
    "endless run": (
        experiment(("max_steps: 3", f"max_steps: {10**12}")),
        "trainer.max_steps=1000000000000: the most that a bundle may have is 10,000,000",
    ),
    "huge width": (
        experiment(("\n  width: 32", f"\n  width: {10**15}")),
        "model.width=1000000000000000: ",
    ),
    "larger than memory": (
        experiment(("\n  width: 32", "\n  width: 65536"), ("layers: 1", "layers: 200")),
        "GiB or more; this machine has",
    ),
    "huge integer": (
        experiment(("\n  width: 32", "\n  width: " + "9" * 9000)),
        "experiment.yaml: ",
    ),
    "control characters": (
        experiment(("about: ''", 'about: "\\e[2J"')),
        "experiment.yaml: about: holds control characters",
    ),
    "future": (manifest(format_version=3), "format version 3, this unclip reads 1 and 2; use a"),
    "version of true": (manifest(format_version=True), "format version True"),
    "other format": (manifest(format="zip"), "manifest.json: is not of a bundle"),
    "unknown manifest field": (manifest(run_me="x"), "lacks some: run_me"),
    "manifest no JSON": (manifest(b"PK"), "manifest.json: is not JSON"),
    "manifest a list": (manifest(b"[1]"), "manifest.json: is not a JSON object"),
    "files a list": (manifest(files=[]), "manifest.json: files: must be an object"),
    "file a word": (manifest(files={EXPERIMENT: "x"}), "must have sha256 and size"),
    "size a word": (
        manifest(files={EXPERIMENT: {"sha256": "0" * 64, "size": "9"}}),
        "size must be an integer",
    ),
    "checksum a word": (
        manifest(files={EXPERIMENT: {"sha256": "x", "size": 9}}),
        "sha256: 'x' is not of its form",
    ),
    "huge size": (
        manifest(files={WEIGHTS: {"sha256": "0" * 64, "size": 10**15}}),
        "weights.safetensors: has 1,000,000,000,000,000 bytes, the most is",
    ),
    "negative size": (
        manifest(files={EXPERIMENT: {"sha256": "0" * 64, "size": -1}}),
        "experiment.yaml: has -1 bytes",
    ),
    "manifest lists itself": (
        manifest(files={"manifest.json": {"sha256": "0" * 64, "size": 9}}),
        "must not list manifest.json",
    ),
    "odd name": (manifest(experiment="../../x"), "experiment: '../../x' is not of its form"),
    "odd weights": (manifest(weights={"clip": "0" * 64}), "weights: must have run"),
    "NaN": (sealed_with("metrics.jsonl", b'{"step": 1, "train/loss": NaN}\n'), "line 1 holds NaN"),
    "infinity": (sealed_with("metrics.jsonl", b'{"step": 1, "x": 1e999}\n'), "line 1 x: holds inf"),
    "metric a word": (sealed_with("metrics.jsonl", b'{"step": 1, "x": "y"}\n'), "line 1 is not"),
    "no step": (sealed_with("metrics.jsonl", b'{"x": 1}\n'), "line 1 has no step"),
    "long line": (sealed_with("metrics.jsonl", b" " * 70_000), "line 1 is longer than"),
    "deep JSON": (sealed_with("summary.json", DEEP.encode()), "summary.json: is nested deeper"),
    "twice in JSON": (sealed_with("summary.json", b'{"a": 1, "a": 2}'), "has the key 'a' twice"),
    "digits": (
        sealed_with("summary.json", b'{"metrics": {"a": %s}}' % (b"9" * 10**6)),
        "summary.json: holds an integer of 1,000,000 digits",
    ),
    "metrics a list": (sealed_with("summary.json", b'{"metrics": []}'), "summary.json: is not an"),
    "parents a list": (provenance(parents=[]), "provenance.json: parents: must be"),
    "metrics text": (provenance(metrics={"a": "b"}), "provenance.json: metrics: is not an object"),
    "threads": (provenance(torch_threads=10**6), "torch_threads=1000000: must be in [1, 1024]"),
    "no data": (provenance(data_fingerprint=None), "data_fingerprint: must be a text"),
    "truncated": (cut, "is not a complete zip file"),
    "no zip": (lambda members, path: path.write_bytes(b"\0" * 999), "is not a complete zip file"),
    "empty": (lambda members, path: path.write_bytes(b""), "is not a complete zip file"),
    "no members": (lambda members, path: zipped({}, path), "has no manifest.json"),
    "nothing": (lambda members, path: None, "cannot be read: No such file"),
    "link in a folder": (folder_with(link_out), "summary.json: is not a plain file"),
    "pipe in a folder": (
        folder_with(lambda path: os.mkfifo(path / "samples" / "step_1.png")),
        "step_1.png: is not a plain file",
    ),
    "many in a folder": (
        folder_with(lambda path: [(path / str(k)).touch() for k in range(300)]),
        "holds more than 256 files",
    ),
}


def listing(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


@pytest.fixture(scope="session")
def bundle(packed):
    """Of the prior, whose weights are small, without those of its CLIP."""
    members = {n: b for n, b in packed().items() if not n.startswith("parents/clip/artifact")}
    return seal(members)


@pytest.mark.parametrize("case", CASES)
def test_it_is_refused(case, bundle, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(reproduce, "run", None)
    spoil, message = CASES[case]
    spoil(bundle, tmp_path / "bundle.zip")
    before = listing(tmp_path)
    status = main(["reproduce", "bundle.zip", "--dir", "out"])
    error = capsys.readouterr().err.strip()
    assert status == 2
    assert error.startswith("unclip: error: ")
    assert len(error.splitlines()) == 1
    assert "bundle.zip: " in error
    assert message in error
    assert len(error) < 500
    assert listing(tmp_path) == before


@pytest.mark.parametrize("case", ["bomb", "endless directory", "laughs", "digits", "deep JSON"])
def test_it_takes_little_memory(case, bundle, tmp_path):
    spoil, message = CASES[case]
    spoil(bundle, tmp_path / "bundle.zip")
    (tmp_path / "scratch").mkdir()
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=re.escape(message)):
            fetch(str(tmp_path / "bundle.zip"), tmp_path / "scratch")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
