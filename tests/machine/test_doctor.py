"""`unclip doctor` names what is broken and its fix, and shows no secret."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from unclip.cli import main
from unclip.machine import doctor

HEALTHY = {
    "imported": {"torch": "2.15.0"},
    "threads": 2,
    "cuda": "13.0",
    "gpus": [],
    "mps": False,
}
GPU = {"name": "A GPU", "memory_gib": 80.0, "capability": "9.0", "bfloat16": True, "computes": True}


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    """A machine on which nothing is wrong, without the seconds that importing torch takes."""
    monkeypatch.setattr(doctor, "_asked", lambda: (HEALTHY, ""))
    monkeypatch.setattr(doctor, "_driver", lambda: None)
    monkeypatch.setattr(doctor, "LEAST_FREE", 0)
    monkeypatch.setenv("UNCLIP_CACHE", str(tmp_path / "cache"))
    for name in (
        "UNCLIP_EXPERIMENTS",
        "CUDA_VISIBLE_DEVICES",
        "WANDB_API_KEY",
        "WANDB_MODE",
        "HF_TOKEN",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))


def told(capsys) -> tuple[str, dict]:
    """The report as text and as JSON: both name all problems, and fail if there are any."""
    reports = []
    for words in (["doctor"], ["doctor", "--json"]):
        try:
            status = main(words)
        except SystemExit as stop:
            status = stop.code
        out, err = capsys.readouterr()
        assert err == ""
        reports.append((status, out))
    (status, text), (again, dumped) = reports
    found = json.loads(dumped)
    assert status == again == bool(found["problems"])
    for problem in found["problems"]:
        assert f"  {problem['what']}\n    fix: {problem['fix']}\n" in text
    assert ("nothing is wrong" in text) == (not found["problems"])
    return text, found


def only(found) -> tuple[str, str]:
    (problem,) = found["problems"]
    return problem["what"], problem["fix"]


def test_a_healthy_machine_has_no_problems(capsys):
    text, found = told(capsys)
    assert found["problems"] == []
    assert found["versions"]["torch"] in text
    assert found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))


def test_keys_are_told_of_and_never_shown(capsys, monkeypatch, tmp_path):
    _, found = told(capsys)
    assert "no key" in found["accounts"]["Weights & Biases"]
    assert "no token" in found["accounts"]["Hugging Face"]
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    (tmp_path / "netrc").write_text("machine api.wandb.ai login user password secretkey\n")
    text, found = told(capsys)
    monkeypatch.delenv("NETRC")
    monkeypatch.setenv("WANDB_API_KEY", "secretkey")
    for text, found in ((text, found), told(capsys)):
        assert set(found["accounts"].values()) == {"there is a key", "there is a token"}
        assert "secret" not in text + json.dumps(found)


def test_the_users_name_is_not_in_a_path(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    text, _ = told(capsys)
    assert "~/cache, " in text
    assert f"{tmp_path}/cache" not in text


@pytest.mark.parametrize(("version", "has"), [("1.0", "1.0 is installed"), (None, "not installed")])
def test_a_package_that_does_not_fit_is_named_with_its_fix(version, has, capsys, monkeypatch):
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda n: version if n == "torch" else real(n))
    what, fix = only(told(capsys)[1])
    assert has in what
    assert fix.startswith("pip install 'torch>=")


def test_a_missing_extra_is_no_problem_and_has_its_command(capsys, monkeypatch):
    real = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda n: None if n == "gradio" else real(n))
    _, found = told(capsys)
    assert found["extras"]["demo"] == "missing gradio: pip install 'unclip[demo]'"
    assert found["problems"] == []
    assert not {"dev", "docs", "test"} & set(found["extras"])


def test_a_damaged_torch_is_one_problem(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_asked", lambda: (None, "ImportError: libcudart.so"))
    assert only(told(capsys)[1])[0] == "torch cannot be used: ImportError: libcudart.so"


def test_a_busy_machine_is_not_told_to_install_torch_again(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "_asked", lambda: (None, doctor.SLOW))
    what, fix = only(told(capsys)[1])
    assert what == "torch cannot be used: importing it takes more than 180 s"
    assert fix == "let other programs finish, then run `unclip doctor` again"


def test_a_gpu_that_torch_does_not_find_or_that_does_not_compute_is_named(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_driver", lambda: "580.1")
    assert "torch does not find it" in only(told(capsys)[1])[0]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert told(capsys)[1]["problems"] == []
    monkeypatch.setattr(doctor, "_asked", lambda: (HEALTHY | {"gpus": [GPU]}, ""))
    _, found = told(capsys)
    assert found["problems"] == []
    assert found["devices"]["cuda:0"] == "A GPU, 80.0 GiB, capability 9.0"
    broken = GPU | {"computes": False, "error": "no kernel image"}
    monkeypatch.setattr(doctor, "_asked", lambda: (HEALTHY | {"gpus": [broken]}, ""))
    assert only(told(capsys)[1])[0] == "cuda:0 (A GPU) does not compute: no kernel image"


def test_folders_that_cannot_be_used_are_named(capsys, monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("a file")
    monkeypatch.setenv("UNCLIP_EXPERIMENTS", str(tmp_path / "gone"))
    _, found = told(capsys)
    cache, experiments = found["problems"]
    assert "cannot be written to" in cache["what"]
    assert "UNCLIP_CACHE" in cache["fix"]
    assert str(tmp_path / "gone") in experiments["what"]


def test_a_full_disk_is_named(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "LEAST_FREE", 2**60)
    _, found = told(capsys)
    assert len(found["problems"]) == 3
    assert all("GiB free" in problem["what"] for problem in found["problems"])


def test_a_section_that_fails_does_not_hide_the_others(capsys, monkeypatch):
    def fails():
        raise RuntimeError("no such thing")

    monkeypatch.setitem(doctor.SECTIONS, "accounts", fails)
    _, found = told(capsys)
    assert only(found)[0] == "accounts: RuntimeError: no such thing"
    assert found["extras"]


@pytest.mark.slow
def test_the_process_that_imports_torch_may_fail(tmp_path):
    root = Path(__file__).parents[2]
    (tmp_path / "shim").mkdir()
    (tmp_path / "shim" / "torch.py").write_text("raise ImportError('libtorch is damaged')\n")
    for extra, status in ((tmp_path / "shim", 1), (root, 0)):
        env = os.environ | {"PYTHONPATH": f"{extra}:{root / 'src'}:{root}"}
        done = subprocess.run(
            [sys.executable, "-m", "unclip", "doctor", "--json"],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        whats = [problem["what"] for problem in json.loads(done.stdout)["problems"]]
        assert ("torch cannot be used: ImportError: libtorch is damaged" in whats) == bool(status)
        assert done.returncode == bool(whats)
