"""What is refused has made nothing: one line, another exit status than 0, no file changed."""

from __future__ import annotations

import pytest
from huggingface_hub import constants
from PIL import Image

from unclip.cli import main
from unclip.common.errors import UserError
from unclip.data.loader import Loader

REFUSED = {
    "a batch that nothing holds": "train {clip_file} run.dir=new data.batch_size=1000000000",
    "no GPU": "train {clip_file} run.dir=new trainer.accelerator=gpu",
    "no GPU, in a folder of runs": "train {clip_file} run.root=new trainer.accelerator=gpu",
    "no GPU to fit on": "fit-pca {pca} run.dir=new clip={clip} trainer.accelerator=gpu",
    "too many components": "fit-pca {pca} run.dir=new clip={clip} pca.components=1000",
    "uneven batches": "train {clip_file} run.dir=new trainer.accumulate=3",
    "no such data": "train {clip_file} run.dir=new data.source=none",
    "no such parent": "train {prior} run.dir=new clip=none",
    "a parent of another stage": "train {prior} run.dir=new clip={prior_run}",
    "no weights without a network": "train {prior} run.dir=new clip=open_clip:ViT-B-32/openai",
    "a used folder, before its parents": "train prior/tiny run.dir=full --with-parents",
    "a file as a run": "train {clip_file} run.dir=full/a.txt",
    "a recipe into a file": "recipe quickstart --dir full/a.txt",
    "a recipe on no data": "recipe quickstart --dir new data.source=none",
    "a sweep into a file": "sweep prior_lr --count 1 --dir full/a.txt",
    "a pack that stops": "data pack bad --out new/packed --on-error error",
    "a pack of nothing": "data pack worse --out new/packed",
    "a pack that stops and would replace": "data pack bad --out packed --on-error error --force",
    "embeddings without a CLIP": "embed bad --out new --clip none",
    "embeddings into a file": "embed scenes --out full/a.txt --clip {clip}",
    "a bundle of nothing": "share none --to new.zip",
    "a bundle that is none": "reproduce full --dir new/again",
    "an evaluation into a file": "evaluate {clip} run.dir=full/a.txt",
    "an inspection of nothing": "data inspect none --out new",
    "a comparison of one": "runs compare {prior_run} --out new",
    "an experiment of no parent": "experiments new mine --from none --dir new",
}
STARTS_A_RUN = "a recipe on no data"


@pytest.fixture
def words(tmp_path, monkeypatch, cascade, minute_experiment):
    """What the words of a command stand for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "ENDPOINT", "https://nowhere.invalid")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("full", "bad", "worse", "packed"):
        (tmp_path / name).mkdir()
    (tmp_path / "full/a.txt").write_text("a")
    for name in ("bad/0.png", "bad/1.png", "worse/0.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
        (tmp_path / name).with_suffix(".txt").write_text("a red circle")
    for name in ("bad/1.png", "worse/0.png"):
        (tmp_path / name).write_bytes(b"no image")
    assert main(["data", "pack", "bad", "--out", "packed", "--workers", "0"]) == 0
    return {
        "clip_file": minute_experiment("clip"),
        "prior": minute_experiment("prior"),
        "pca": minute_experiment("pca"),
        "clip": cascade / "clip",
        "prior_run": cascade / "prior",
    }


@pytest.mark.parametrize(
    "case",
    [pytest.param(k, marks=pytest.mark.slow) if k == STARTS_A_RUN else k for k in REFUSED],
)
def test_a_refusal_makes_nothing(case, words, tmp_path, capsys):
    def tree():
        return {p: p.is_file() and p.read_bytes() for p in tmp_path.rglob("*")}

    before = tree()
    capsys.readouterr()
    try:
        status = main(REFUSED[case].format(**words).split())
    except SystemExit as end:
        status = end.code
    errors = capsys.readouterr().err
    assert status not in (0, None)
    assert [line for line in errors.splitlines() if line.strip()][-1].startswith("unclip: error: ")
    assert "Traceback" not in errors
    assert tree() == before


def test_without_a_network_a_tag_is_refused_in_one_line(words, capsys):
    capsys.readouterr()
    assert main(REFUSED["no weights without a network"].format(**words).split()) == 2
    said = capsys.readouterr()
    assert len((said.err + said.out).strip().splitlines()) == 1
    assert "weights cannot be loaded" in said.err


def test_a_killed_worker_is_named_wherever_it_loads(monkeypatch):
    def killed(self):
        raise RuntimeError("DataLoader worker (pid 1) is killed by signal: Killed. ")
        yield

    monkeypatch.setattr("torch.utils.data.DataLoader.__iter__", killed)
    with pytest.raises(UserError, match="a loader process died"):
        list(Loader([1], batches=[[0]], collate=list))  # type: ignore[arg-type]
