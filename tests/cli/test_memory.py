"""A device whose memory does not suffice: one line that says what would."""

from __future__ import annotations

import pytest
import torch

from unclip.cli import experiments, main, sample

FULL = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.79 GiB of "
    "which 1.1 GiB is free.\nIf reserved memory is large ..."
)


def full(*args):
    raise torch.OutOfMemoryError(FULL)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "add --offload stages; or --batch 8; or ask"),
        (["--offload", "stages", "--batch", "1"], "add --offload blocks; or ask"),
        (
            ["--offload", "blocks", "--precision", "32", "--batch", "4"],
            "leave out --precision, for half of it; or --batch 2; or ask",
        ),
    ],
)
def test_what_would_suffice(monkeypatch, capsys, words, said):
    monkeypatch.setattr(sample, "run", full)
    assert main(["sample", "a", "--pipeline", "karlo", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        "unclip: error: the GPU's memory does not suffice (2.00 GiB more of 7.79 GiB wanted): "
        f"{said}"
    )
    assert error.endswith("ask `unclip plan sample karlo --memory SIZE` what fits\n")
    assert error.count("\n") == 1


def test_commands_that_do_not_sample_are_told_of_the_batch(monkeypatch, capsys):
    monkeypatch.setattr(experiments, "list_", full)
    assert main(["experiments", "list"]) == 2
    assert capsys.readouterr().err.endswith("use a smaller batch (`unclip plan` says what fits)\n")
