"""Shards, variants and bytes of files: read if they are sane, else one line, nothing written."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from imports import karlo_folder
from safetensors.torch import load_file, save_file

from unclip.cli import main
from unclip.common import artifacts
from unclip.weights.reading.folders import local
from unclip.weights.reading.tensors import read_file

STEM = "diffusion_pytorch_model"
WEIGHTS = f"{STEM}.safetensors"
KEY = "proj_in.weight"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return karlo_folder(tmp_path_factory.mktemp("whole") / "source")


@pytest.fixture
def source(whole, tmp_path) -> Path:
    """The prior of the tiny Karlo in a folder that a test may change."""
    folder = tmp_path / "source" / "prior"
    folder.mkdir(parents=True)
    for file in ("config.json", WEIGHTS):
        (folder / file).write_bytes((whole / "prior" / file).read_bytes())
    return tmp_path / "source"


def shard(folder: Path, *, variant: str = "", ending: str = ".safetensors") -> dict[str, str]:
    """Put the weights of a folder into two files with an index; returns its table."""
    state = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    table = {}
    for k in range(2):
        name = f"{STEM}{variant}-{k + 1:05d}-of-00002{ending}"
        part = {key: state[key] for key in sorted(state)[k::2]}
        save_file(part, folder / name) if ending != ".bin" else torch.save(part, folder / name)
        table |= dict.fromkeys(part, name)
    write_table(folder, table, variant=variant, ending=ending)
    return table


def write_table(folder: Path, table: dict, *, variant: str = "", ending: str = ".safetensors"):
    file = folder / f"{STEM}{ending}.index{variant}.json"
    file.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": table}))


def refused(capsys, source: Path, *says: str) -> None:
    out = source.parent / "out"
    before = sorted(source.parent.rglob("*"))
    assert main(["import", str(source), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert all(word in error for word in says), error
    assert sorted(source.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("variant", "ending"), [("", ".safetensors"), (".fp16", ".safetensors"), ("", ".bin")]
)
def test_shards_are_the_same_weights(whole, source, variant, ending):
    shard(source / "prior", variant=variant, ending=ending)
    found = local(source).state("prior", half=False)
    expected = load_file(whole / "prior" / WEIGHTS)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_a_sharded_source_is_imported_with_the_checksums_of_its_files(source, tmp_path):
    table = shard(source / "prior")
    assert main(["import", str(source), "--out", str(tmp_path / "out")]) == 0
    files = artifacts.describe(tmp_path / "out" / "prior").provenance["imported"]["files"]
    index = f"prior/{WEIGHTS}.index.json"
    assert set(files) - {"prior/config.json"} == {index, *(f"prior/{n}" for n in table.values())}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../outside.safetensors", "leads out"),
        ("/etc/passwd", "leads out"),
        ("sub/x.safetensors", "leads out"),
        ("..", "is not a file of weights"),
        ("", "is not a file of weights"),
        ("config.json", "is not a file of weights"),
        (f"{WEIGHTS}.index.json", "is not a file of weights"),
        ("other.safetensors", "is missing"),
        (5, "not a table of names"),
    ],
)
def test_a_table_names_files_of_its_folder(capsys, source, name, says):
    table = shard(source / "prior")
    write_table(source / "prior", {**table, KEY: name})
    refused(capsys, source, "prior/", says)


def test_shards_and_their_table_agree(capsys, source):
    table = shard(source / "prior")
    one, two = (source / "prior" / name for name in sorted(set(table.values())))
    state, other = load_file(one), load_file(two)
    key = next(iter(other))
    save_file({**state, key: other[key]}, one)  # a key in two shards
    refused(capsys, source, one.name, key, "not placed there")
    save_file(state, one)
    write_table(source / "prior", {**table, "more": one.name})
    refused(capsys, source, "index.json", "more is not in")
    (source / "prior" / f"{WEIGHTS}.index.json").unlink()
    refused(capsys, source, "its weights are missing")


def test_the_variant_that_is_asked_for_is_read_and_no_optimizers_file(source):
    folder = source / "prior"
    state = load_file(folder / WEIGHTS)
    save_file({k: v.half() for k, v in state.items()}, folder / f"{STEM}.fp16.safetensors")
    kinds = {half: local(source).state("prior", half=half)[KEY].dtype for half in (False, True)}
    assert kinds == {False: state[KEY].dtype, True: torch.float16}
    (folder / WEIGHTS).unlink()
    assert local(source).state("prior", half=False)[KEY].dtype == torch.float16
    (folder / f"{STEM}.fp16.safetensors").unlink()
    torch.save(state, folder / f"{STEM}.bin")
    torch.save({"step": torch.ones(1)}, folder / "optimizer.bin")
    assert local(source).state("prior", half=False).keys() == state.keys()


def _in_header(change: Callable[[dict], bytes]) -> Callable[[Path], None]:
    def edit(file: Path) -> None:
        data = file.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = change(json.loads(data[8 : 8 + size]))
        file.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])

    return edit


def _twice(header: dict) -> bytes:
    return json.dumps(header).encode()[:-1] + f', "{KEY}": {json.dumps(header[KEY])}}}'.encode()


def _with(**change: list[int]) -> Callable[[dict], bytes]:
    return lambda header: json.dumps(header | {KEY: header[KEY] | change}).encode()


def _as(kind: torch.dtype) -> Callable[[Path], None]:
    def edit(file: Path) -> None:
        state = load_file(file)
        save_file(state | {KEY: state[KEY].to(kind)}, file)

    return edit


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (_in_header(_twice), f"has the key '{KEY}' twice"),
        (_in_header(lambda header: b"[" * 100_000), "not a whole safetensors file"),
        (lambda file: file.write_bytes(b"\xff" * 8), "not a whole safetensors file"),
        (_in_header(_with(shape=[10**6, 10**6])), "not a whole safetensors file"),
        (_in_header(_with(data_offsets=[0, 10**12])), "not a whole safetensors file"),
        (_as(torch.int64), f"{KEY} is sparse, quantized or int64"),
        (_as(torch.bool), f"{KEY} is sparse, quantized or bool"),
        (_as(torch.float8_e4m3fn), f"{KEY} is sparse, quantized or float8_e4m3fn"),
    ],
)
def test_a_file_of_other_numbers_or_names_is_refused(capsys, source, breaks, says):
    breaks(source / "prior" / WEIGHTS)
    refused(capsys, source, "prior", says)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b'{"_class_name": "PriorTransformer", "dropout": 0, "dropout": 1}', "'dropout' twice"),
        (b'{"a":' * 100_000, "nested deeper"),
        (b'{"_class_name": "PriorTransformer", "dropout": NaN}', "NaN"),
        (b'{"_class_name": "PriorTransformer", "dropout": 1e999}', "not finite"),
        (b'{"_class_name": "\xff"}', "not UTF-8"),
        (b'{"_class_name": "PriorTransformer", "num_layers": -1}', "num_layers=-1"),
        (b'{"_class_name": "PriorTransformer", "num_layers": 1000000000}', "num_layers=1000000000"),
        (b'{"_class_name": ["PriorTransformer"]}', "which is not a stage of unclip"),
        (b'{"model_type": ["clip"], "_class_name": "X"}', "which is not a stage of unclip"),
    ],
)
def test_a_configuration_of_other_bytes_or_values_is_refused(capsys, source, data, says):
    (source / "prior" / "config.json").write_bytes(data)
    refused(capsys, source, says)


@pytest.mark.parametrize("entry", [["diffusers", ["PriorTransformer"]], ["diffusers", {}], [5]])
def test_an_index_of_other_values_is_refused(capsys, source, entry):
    (source / "model_index.json").write_text(json.dumps({"prior": entry}))
    refused(capsys, source, "model_index.json: prior=")


@pytest.mark.parametrize("kind", ["compressed", "an entry twice"])
def test_a_zip_that_torch_does_not_write_is_refused(capsys, source, kind):
    folder = source / "prior"
    torch.save(load_file(folder / WEIGHTS), folder / "saved")
    (folder / WEIGHTS).unlink()
    how = zipfile.ZIP_DEFLATED if kind == "compressed" else zipfile.ZIP_STORED
    with (
        zipfile.ZipFile(folder / "saved") as saved,
        zipfile.ZipFile(folder / f"{STEM}.bin", "w", how) as written,
        warnings.catch_warnings(action="ignore"),
    ):
        for name in saved.namelist() + saved.namelist()[: kind != "compressed"]:
            written.writestr(name, saved.read(name))
    refused(capsys, source, f"prior/{STEM}.bin", "save it by torch")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_small_file_of_a_huge_view_is_refused_before_it_is_read(capsys, source, legacy):
    folder = source / "prior"
    state = load_file(folder / WEIGHTS) | {KEY: torch.ones(1).expand(10**6, 10**6)}
    (folder / WEIGHTS).unlink()
    torch.save(state, folder / f"{STEM}.bin", _use_new_zipfile_serialization=not legacy)
    assert (folder / f"{STEM}.bin").stat().st_size < 1e6
    refused(
        capsys, source, f"{STEM}.bin: {KEY} repeats its numbers to the shape [1000000, 1000000]"
    )


def test_integers_that_no_network_has_are_no_weights(tmp_path):
    """They are read, and left out by name or refused."""
    save_file({"position_ids": torch.arange(3)}, tmp_path / "x.safetensors")
    assert read_file(tmp_path / "x.safetensors", "x")["position_ids"].dtype == torch.int64
