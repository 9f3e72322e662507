"""A checkpoint is whole or not there, says when it is damaged, and runs no code."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from unclip.common.errors import UserError
from unclip.training import checkpoint_damage, checkpoint_folders, checkpoints
from unclip.training.config import OptimConfig
from unclip.training.optim import build_optimizer


def trained(name="adamw", steps=3):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.GroupNorm(2, 8), nn.Linear(8, 2))
    net.register_buffer("seen", torch.arange(3))
    optimizer = build_optimizer(net, OptimConfig(name=name, lr=0.1))
    for _ in range(steps):
        advance(net, optimizer)
    return net, optimizer


def advance(net, optimizer):
    optimizer.zero_grad()
    net(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()


def folder_of(run, step):
    return run / "checkpoints" / checkpoint_folders.step_name(step)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_what_is_read_continues_with_the_same_bits(tmp_path, name):
    net, optimizer = trained(name)
    checkpoints.write(folder_of(tmp_path, 3), net, optimizer, {"global_step": 3})
    again, other = trained(name, steps=0)
    assert checkpoints.read(folder_of(tmp_path, 3), again, other) == {"global_step": 3}
    for part in ((net, optimizer), (again, other)):
        advance(*part)
    for name_, tensor in net.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name_])


def test_only_complete_checkpoints_count(tmp_path):
    net, optimizer = trained()
    for step in (3, 20, 100):
        checkpoints.write(folder_of(tmp_path, step), net, optimizer, {})
    checkpoints.write(folder_of(tmp_path, 200), net, optimizer, {})
    folder_of(tmp_path, 200).rename(folder_of(tmp_path, 200).with_suffix(".part"))  # all but named
    folder_of(tmp_path, 300).mkdir()
    found = checkpoint_folders.checkpoints(tmp_path)
    assert [checkpoint_folders.step_of(path) for path in found] == [3, 20, 100]
    assert checkpoint_folders.newest_checkpoint(tmp_path) == folder_of(tmp_path, 100)


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("hurt", "said"),
    [
        (lambda p: flip(p / "rank_00000.safetensors"), "rank_00000.safetensors is not what was"),
        (lambda p: flip(p / "rest.pt"), "rest.pt is not what was written"),
        (lambda p: (p / "rest.pt").unlink(), "rest.pt is missing"),
        (lambda p: (p / "manifest.json").write_text("{"), "manifest.json"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path, capsys, hurt, said):
    net, optimizer = trained()
    for step in (3, 6):
        checkpoints.write(folder_of(tmp_path, step), net, optimizer, {})
    hurt(folder_of(tmp_path, 6))
    assert checkpoint_damage.newest_whole(tmp_path) == folder_of(tmp_path, 3)
    assert said in (line := capsys.readouterr().out)
    assert "continuing from step_0000003" in line
    hurt(folder_of(tmp_path, 3))
    with pytest.raises(UserError, match=r"step_0000006: damaged .* there is no other"):
        checkpoint_damage.newest_whole(tmp_path)


def craft(path, name, content):
    """Write a file into a checkpoint, with a manifest that fits it."""
    (path / name).write_bytes(content)
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"][name] = checkpoint_folders.size_and_sum(path / name)
    (path / "manifest.json").write_text(json.dumps(manifest))


def pickled(value):
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


CRAFTED = {
    "rest.pt": [b"", b"PK", pickled([]), pickled({"optimizer": 3}), pickled({"optimizer": {}})],
    "rank_00000.safetensors": [b"", b"12345678", (2**60).to_bytes(8, "little") + b"{}"],
}
MANIFESTS = [[], {}, {"format": 1}, {"format": 1, "files": {}}, {"format": 1, "files": []}, "x", 1]


@pytest.mark.parametrize(
    "hurt",
    [
        *(lambda p, n=n, c=c: craft(p, n, c) for n, cs in CRAFTED.items() for c in cs),
        *(lambda p, m=m: (p / "manifest.json").write_text(json.dumps(m)) for m in MANIFESTS),
    ],
)
def test_a_crafted_checkpoint_is_damaged_in_one_line_and_passed_over(tmp_path, capsys, hurt):
    net, optimizer = trained()
    for step in (3, 6):
        checkpoints.write(folder_of(tmp_path, step), net, optimizer, {})
    hurt(folder_of(tmp_path, 6))
    assert checkpoint_damage.newest_whole(tmp_path) == folder_of(tmp_path, 3)
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert "step_0000006: damaged checkpoint" in said


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_checkpoint_holds_what_is_no_number(tmp_path, value):
    net, optimizer = trained()
    checkpoints.write(folder_of(tmp_path, 3), net, optimizer, {})
    for spoilt in (net[0].weight, next(iter(optimizer.state.values()))["exp_avg"]):
        kept = spoilt.detach().clone()
        with torch.no_grad():
            spoilt.view(-1)[0] = value
        with pytest.raises(UserError, match="a NaN or infinite value in"):
            checkpoints.write(folder_of(tmp_path, 6), net, optimizer, {})
        with torch.no_grad():
            spoilt.copy_(kept)
    assert checkpoint_folders.checkpoints(tmp_path) == [folder_of(tmp_path, 3)]


def test_moments_are_read_with_the_strides_of_their_weights(tmp_path):
    """CUDA's fused AdamW refuses others; weights of convolutions are channels_last there."""
    torch.manual_seed(0)
    net = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(net, OptimConfig(lr=0.1))
    net(torch.ones(1, 3, 5, 5)).sum().backward()
    optimizer.step()
    checkpoints.write(folder_of(tmp_path, 1), net, optimizer, {})
    before = {k: v.clone() for k, v in optimizer.state[net.weight].items() if v.ndim}
    checkpoints.read(folder_of(tmp_path, 1), net, optimizer)
    for name, moment in before.items():
        found = optimizer.state[net.weight][name]
        assert found.stride() == net.weight.stride()
        assert torch.equal(found, moment)


def test_a_tensor_is_on_the_cpu_before_it_is_laid_out_anew(tmp_path, monkeypatch):
    """On a GPU that a run fills a contiguous copy has no room, least of all one of every tensor."""
    net = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = build_optimizer(net, OptimConfig(lr=0.1))
    net(torch.ones(1, 3, 5, 5)).sum().backward()
    optimizer.step()
    moved, laid_out = [], []
    cpu, contiguous = torch.Tensor.cpu, torch.Tensor.contiguous

    def noted(tensor):
        moved.append(cpu(tensor).clone(memory_format=torch.preserve_format))  # as from a GPU
        return moved[-1]

    def checked(tensor):
        laid_out.append(tensor)
        return contiguous(tensor)

    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "cpu", noted)
        patched.setattr(torch.Tensor, "contiguous", checked)
        checkpoints.write(folder_of(tmp_path, 1), net, optimizer, {})
    assert len(moved) == len(laid_out) == 8  # weight and bias, with two moments and a step each
    assert all(any(one is other for other in moved) for one in laid_out)
    assert not all(tensor.is_contiguous() for tensor in laid_out)


def test_a_checkpoint_of_another_network_or_optimizer_is_refused(tmp_path):
    net, optimizer = trained()
    path = folder_of(tmp_path, 3)
    checkpoints.write(path, net, optimizer, {})
    more = nn.Sequential(*net, nn.Linear(2, 2))
    with pytest.raises(UserError, match=r"lacks the weight 3\.bias"):
        checkpoints.read(path, more, None)
    wider = nn.Sequential(nn.Linear(4, 8), nn.GroupNorm(2, 8), nn.Linear(8, 3))
    wider.register_buffer("seen", torch.arange(3))
    with pytest.raises(UserError, match=r"2\.weight is \[2, 8\], the run's is \[3, 8\]"):
        checkpoints.read(path, wider, None)
    with pytest.raises(UserError, match=r"optim\.name"):
        checkpoints.read(path, *trained("muon", steps=0))


class Code:
    def __reduce__(self):
        return os.system, ("touch ran",)


def test_a_checkpoint_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net, optimizer = trained()
    path = folder_of(tmp_path, 3)
    checkpoints.write(path, net, optimizer, {})
    torch.save({"optimizer": Code()}, path / "rest.pt")
    with pytest.raises(UserError, match=r"rest\.pt"):
        checkpoints.read(path, net, optimizer)
    assert not (tmp_path / "ran").exists()


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_checkpoints import folder_of, trained
from unclip.training import checkpoints
from unclip.common.errors import UserError

run = Path({run!r})
checkpoints.write(folder_of(run, 3), *trained(), {{}})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
try:
    checkpoints.write(folder_of(run, 6), *trained(), {{}})
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize(  # the weights do not fit, or the rest
    "limit", [100, pytest.param(3000, marks=pytest.mark.slow)]
)
def test_a_full_disk_is_one_line_and_leaves_the_checkpoint_before(tmp_path, limit):
    here = os.path.dirname(__file__)
    script = FULL_DISK.format(tests=here, run=str(tmp_path), limit=limit)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "cannot write the checkpoint" in done.stdout, done.stderr
    assert "step_0000003 is whole" in done.stdout
    assert done.stdout.count("\n") == 1
    assert checkpoint_damage.newest_whole(tmp_path) == folder_of(tmp_path, 3)
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step_0000003"]


def test_the_manifest_lists_every_file(tmp_path):
    checkpoints.write(folder_of(tmp_path, 3), *trained(), {})
    manifest = json.loads((folder_of(tmp_path, 3) / "manifest.json").read_text())
    assert set(manifest["files"]) == {"rank_00000.safetensors", "rest.pt"}
