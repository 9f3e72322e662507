"""Runs are found wherever they lie, whatever has become of their files."""

from __future__ import annotations

import json

import pytest

from unclip.common.errors import UserError
from unclip.tracking.files import curves, read_metrics
from unclip.tracking.index import choose, find
from unclip.tracking.status import run_lock

CREATED = "2026-01-0{}T12:00:00+00:00"


def make(folder, day, *, name="prior/tiny", summary=None, rows=(), state="finished"):
    folder.mkdir(parents=True)
    (folder / "experiment.yaml").write_text("stage: diffusion_prior\n")
    origin = {"created": CREATED.format(day), "experiment": name}
    (folder / "provenance.json").write_text(json.dumps(origin))
    (folder / "status.json").write_text(json.dumps({"state": state, "since": CREATED.format(day)}))
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def root(tmp_path):
    summary = {
        "experiment": "prior/tiny",
        "steps": 400,
        "loss": 0.25,
        "quality": {"name": "val/cosine", "value": 0.8},
        "seconds": 61.5,
    }
    make(tmp_path / "prior/tiny/20260101-120000-aaaa", 1, summary=summary)
    rows = [{"step": 10, "train/loss": 2.0}, {"step": 20, "time": 1767355260.0, "val/loss": 1.5}]
    make(tmp_path / "prior/tiny/20260102-120000-abbb", 2, rows=rows, state="interrupted")
    make(tmp_path / "quickstart/clip", 3, name="clip/quickstart", state="running")
    (tmp_path / ".hidden").mkdir()
    make(tmp_path / ".hidden/run", 4)
    return tmp_path


def test_the_newest_comes_first_with_what_is_known_of_it(root):
    clip, stopped, done = find(root)
    assert clip.folder == root / "quickstart/clip"
    assert (clip.experiment, clip.status) == ("clip/quickstart", "stopped")
    assert (clip.steps, clip.loss, clip.monitor, clip.seconds) == (None, None, None, None)
    assert (stopped.status, stopped.steps, stopped.loss) == ("interrupted", 20, 1.5)
    assert stopped.seconds == 60
    assert (done.status, done.steps, done.loss, done.seconds) == ("finished", 400, 0.25, 61.5)
    assert done.monitor == ("val/cosine", 0.8)
    assert done.started == CREATED.format(1)
    assert done.bytes == sum(p.stat().st_size for p in done.folder.iterdir())


def test_a_run_that_is_being_trained_is_running(root):
    with run_lock(root / "quickstart/clip"):
        assert find(root)[0].status == "running"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"a"', "1" * 5000, "[" * 100_000])
def test_damaged_files_say_nothing(root, text):
    folder = root / "prior/tiny/20260101-120000-aaaa"
    for name in ("summary.json", "provenance.json", "metrics.jsonl"):
        (folder / name).write_text(text)
    run = next(run for run in find(root) if run.folder == folder)
    assert (run.status, run.experiment) == ("finished", "prior/tiny")
    assert (run.steps, run.loss, run.monitor, run.seconds) == (None, None, None, None)


def test_values_of_the_wrong_kind_say_nothing(root):
    folder = root / "prior/tiny/20260101-120000-aaaa"
    wrong = {"experiment": 3, "steps": "x", "loss": [], "quality": 1, "seconds": True}
    (folder / "summary.json").write_text(json.dumps(wrong))
    run = choose(str(folder), root)
    assert (run.steps, run.loss, run.monitor, run.seconds) == (None, None, None, None)


def test_damaged_lines_of_metrics_are_left_out(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        b'{"step": 1, "a": 1.5, "b": NaN}\n\xff\n[]\n{"a": 2}\n{"step": "x", "a": 2}\n'
        b'{"step": null, "a": true, "b": 2}\n{"step": 3, "a": ' + b"9" * 400 + b'}\n{"step": 4, "a'
    )
    assert [row["step"] for row in read_metrics(path)] == [1, None, 3]
    assert curves(read_metrics(path)) == {"a": [(1, 1.5)], "b": [(0, 2.0)]}
    assert read_metrics(tmp_path / "none.jsonl") == []
    assert [row["step"] for row in read_metrics(path, last=480)] == [None, 3]


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("prior/tiny", "prior/tiny/20260102-120000-abbb"),
        ("aaaa", "prior/tiny/20260101-120000-aaaa"),
        ("tiny/20260102", "prior/tiny/20260102-120000-abbb"),
        ("quickstart", "quickstart/clip"),
    ],
)
def test_a_run_is_named_by_experiment_or_part_of_its_folder(root, word, found):
    assert choose(word, root).folder == root / found


def test_a_failed_run_is_not_an_experiments_newest_unless_all_failed(root):
    make(root / "prior/tiny/20260103-120000-accc", 5, state="failed")
    assert choose("prior/tiny", root).folder == root / "prior/tiny/20260102-120000-abbb"
    make(root / "lost", 6, name="prior/lost", state="failed")
    assert choose("prior/lost", root).folder == root / "lost"


def test_a_whole_name_is_no_part_of_another(root):
    make(root / "clip", 7, name="clip/mine")
    assert choose("clip", root).folder == root / "clip"


def test_what_is_no_run_is_named(root, tmp_path):
    (tmp_path / "empty").mkdir()
    for word in (str(tmp_path / "empty"), "nowhere"):
        with pytest.raises(UserError, match=r"no such run|is not a run"):
            choose(word, tmp_path / "none")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("tiny/2026", "2 runs match: prior/tiny/20260102-120000-abbb, prior/tiny/20260101-120000"),
        ("prior/tinny", "no such run in .*; did you mean 'prior/tiny'"),
        ("zzz", "no such run in .*; see `unclip runs list`"),
    ],
)
def test_a_name_of_none_or_several_is_one_line(root, word, said):
    with pytest.raises(UserError, match=said):
        choose(word, root)


def test_a_root_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"--root .*: no such folder"):
        find(tmp_path / "nowhere")
