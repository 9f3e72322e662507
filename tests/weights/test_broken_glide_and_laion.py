"""Broken files of GLIDE and of LAION's prior: one line with the file and the key, no artifact."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from golden_files import GOLDENS
from imports import clip_folder
from test_other_imports import glide_folder, laion_folder

from unclip.cli import main


def edit(file, change):
    """Rewrite a file of torch's; ``change`` changes its tensors in place."""
    found = torch.load(file, weights_only=True)
    change(found)
    torch.save(found, file)


def configure(file, *path, **values):
    content = json.loads(file.read_text())
    section = content
    for name in path:
        section = section[name]
    section |= values
    file.write_text(json.dumps(content))


def refused(capsys, source, out, says, *more):
    before = sorted(out.parent.rglob("*"))
    assert main(["import", str(source), "--out", str(out), *more]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for word in says:
        assert word in error
    assert sorted(out.parent.rglob("*")) == before


def _no_merges(f):
    (f / "merges.txt").unlink()


def _short_merges(f):
    (f / "merges.txt").write_text("#version: 0.2\nh e\n")


def _binary_merges(f):
    (f / "merges.txt").write_bytes(b"\xff\xfe\x00")


def _channels(f):
    name = "input_blocks.0.0.weight"
    edit(f / "base.pt", lambda s: s.update({name: torch.zeros(16, 5, 3, 3)}))


def _no_padding(f):
    edit(f / "base.pt", lambda s: s.pop("padding_embedding"))


def _more(f):
    edit(f / "base.pt", lambda s: s.update({"unemb.weight": torch.zeros(264, 16)}))


def _shape(f):
    edit(f / "base.pt", lambda s: s.update({"transformer_proj.weight": torch.zeros(64, 8)}))


def _nan(f):
    edit(f / "base.pt", lambda s: s["out.2.bias"].fill_(float("nan")))


def _heads(f):
    configure(f / "config.json", "base", xf_heads=3)


def _schedule(f):
    configure(f / "config.json", "base", noise_schedule="sigmoid")


def _value(f):
    configure(f / "config.json", "base", xf_ar=0.1)


def _end_token(f):
    configure(f / "config.json", end_token=0)


def _same_twice(f):
    shutil.copy(f / "base.pt", f / "copy.pt")


def _truncated(f):
    (f / "base.pt").write_bytes((f / "base.pt").read_bytes()[:100_000])


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (_no_merges, ("base.pt", "--merges FILE")),
        (_short_merges, ("merges.txt", "makes 258 tokens", "264")),
        (_binary_merges, ("merges.txt", "not a text file")),
        (_channels, ("base.pt", "input_blocks.0.0.weight takes 5 channels")),
        (_no_padding, ("base.pt", "padding_embedding", "missing")),
        (_more, ("base.pt", "unemb.weight", "no place")),
        (_shape, ("base.pt", "transformer_proj.weight", "[64, 8]")),
        (_nan, ("base.pt", "out.2.bias", "NaN")),
        (_heads, ("config.json", "xf_heads=3")),
        (_schedule, ("config.json", "noise_schedule=sigmoid")),
        (_value, ("config.json", "xf_ar=0.1")),
        (_end_token, ("config.json", "end_token=0")),
        (_same_twice, ("copy.pt", "second base", "base.pt")),
        (_truncated, ("base.pt", "fetch it again")),
    ],
)
def test_broken_files_of_glide_are_one_line(tmp_path, capsys, breaks, says):
    source = glide_folder(tmp_path / "source", "base")
    breaks(source)
    refused(capsys, source, tmp_path / "out", says)


def test_two_decoders_are_too_many(tmp_path, capsys):
    source = glide_folder(tmp_path / "source", "base", "base_inpaint")
    refused(capsys, source, tmp_path / "out", ("base_inpaint.pt", "second decoder", "base.pt"))


def test_merges_are_refused_where_nobody_reads_them(tmp_path, capsys):
    merges = glide_folder(tmp_path / "glide", "base") / "merges.txt"
    source = clip_folder(tmp_path / "clip")
    says = (f"--merges {merges}", "GPT-2's merges")
    refused(capsys, source, tmp_path / "out", says, "--merges", str(merges))
    missing = ("no such file of merges", "nowhere.txt")
    glide = ["--merges", str(tmp_path / "nowhere.txt")]
    refused(capsys, merges.parent, tmp_path / "out", missing, *glide)
    large = tmp_path / "large.txt"
    with large.open("wb") as file:
        file.truncate((16 << 20) + 1)
    says = ("large.txt: is larger than 16 MiB",)
    refused(capsys, merges.parent, tmp_path / "out", says, "--merges", str(large))


def _no_config(f):
    (f / "prior_config.json").unlink()


def _no_section(f):
    (f / "prior_config.json").write_text('{"decoder": {}}')


def _depth(f):
    configure(f / "prior_config.json", "prior", "net", depth=1_000_000)


def _unknown(f):
    configure(f / "prior_config.json", "prior", "net", flash=True)


def _another(f):
    edit(f / "latest.pth", lambda s: s.update({"unets.0.weight": torch.zeros(2)}))


def _lacking(f):
    edit(f / "latest.pth", lambda s: s.pop("net.learned_query"))


def _nan_of_prior(f):
    edit(f / "latest.pth", lambda s: s["net.learned_query"].fill_(float("inf")))


def _another_prior(f):
    for name in ("prior.ckpt", "stats.th"):
        shutil.copy(GOLDENS / "karlo" / name, f)


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (_no_config, ("prior_config.json", "missing")),
        (_no_section, ("prior_config.json", "prior.net")),
        (_depth, ("prior_config.json", "prior.net.depth=1000000", "only 2")),
        (_unknown, ("prior_config.json", "prior.net.flash=True")),
        (_another, ("latest.pth", "unets.0.weight")),
        (_lacking, ("latest.pth", "net.learned_query", "missing")),
        (_nan_of_prior, ("latest.pth", "net.learned_query", "infinite")),
        (_another_prior, ("latest.pth", "second prior", "prior.ckpt")),
    ],
)
def test_broken_files_of_laion_are_one_line(tmp_path, capsys, breaks, says):
    source = laion_folder(tmp_path / "source")
    breaks(source)
    refused(capsys, source, tmp_path / "out", says)


def test_laions_prior_and_a_clip_of_another_size(tmp_path, capsys):
    source, clip = laion_folder(tmp_path / "source"), clip_folder(tmp_path / "clip", 12)
    says = ("another CLIP", "embed_dim", "16", "12")
    refused(capsys, source, tmp_path / "out", says, "--clip", str(clip))


def test_of_several_folders_with_weights_one_has_to_be_named(tmp_path, capsys):
    source = tmp_path / "source"
    source.mkdir()
    glide_folder(source / "a", "base")
    glide_folder(source / "b", "upsample")
    refused(capsys, source, tmp_path / "out", ("a/, b/", "give one of these folders"))
