"""`unclip runs watch`: pace, time left, curves, and what is sent at the end."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from rich.console import Console

from unclip.cli import main, runs_watch
from unclip.tracking import status, watch
from unclip.tracking.watch import BRAILLE, chart, view


def run_folder(folder, rows, state="finished", why="", steps=100):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment.yaml").write_text(f"stage: clip\ntrainer: {{max_steps: {steps}}}\n")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "status.json").write_text(json.dumps({"state": state, "why": why}))
    return folder


def rows(steps, pace=2.0, start=1000.0):
    return [{"step": s, "time": start + pace * s, "train/loss": 1 / (1 + s)} for s in steps]


def dots(lines):
    """(row, column) of every dot, from the top left."""
    found = set()
    for y, line in enumerate(lines):
        for x, letter in enumerate(line):
            bits = ord(letter) - BRAILLE
            for row in range(4):
                for column in range(2):
                    if bits & watch.DOTS[row][column]:
                        found.add((4 * y + row, 2 * x + column))
    return found


def test_a_straight_line_is_drawn_straight():
    lines = chart([(s, float(s)) for s in range(24)], 12, 6)
    assert dots(lines) == {(23 - k, k) for k in range(24)}
    assert {len(line) for line in lines} == {12}


def test_few_points_are_joined_and_many_averaged():
    two = dots(chart([(0, 0.0), (10, 1.0)], 12, 6))
    assert {(23, 0), (0, 23)} <= two
    assert len(two) == 24
    noisy = dots(chart([(s, float(s % 2)) for s in range(4000)], 10, 4))
    assert {column for _, column in noisy} == set(range(20))
    for curve in ([(5, 3.0)], [(0, 2.0), (9, 2.0)]):
        assert {row for row, _ in dots(chart(curve, 10, 4))} == {0}


def test_time_left_is_the_recent_pace_times_the_steps_that_are_left(tmp_path, monkeypatch):
    folder = run_folder(tmp_path / "r", [*rows(range(10), 9.0), *rows(range(10, 40), 2.0, 5000.0)])
    monkeypatch.setattr(status, "status_of", lambda _: status.Status("running"))
    found = view(folder)
    assert (found.step, found.steps, found.pace) == (39, 100, 2.0)
    assert found.left == 61 * 2.0
    assert found.line() == "running  step 39/100  2 s/step  0:02:02 left"


def test_after_a_resume_only_its_own_pace_counts(tmp_path):
    folder = run_folder(tmp_path / "r", [*rows(range(0, 30), 7.0), *rows(range(20, 24), 1.0, 9e6)])
    assert view(folder).pace == 1.0
    assert view(folder).left is None  # it does not run


def test_a_run_without_metrics_has_none(tmp_path):
    folder = run_folder(tmp_path / "r", [], steps="many")
    (folder / "metrics.jsonl").write_text('{"step": 1, "train/loss"\n[]\n')
    found = view(folder)
    assert (found.step, found.pace, found.curves) == (0, None, {})
    assert found.chosen(["val/loss"], 4) == []


def test_in_a_pipe_it_prints_lines_until_the_run_ends(tmp_path, capsys, monkeypatch):
    folder = run_folder(tmp_path / "r", rows(range(3)))
    states = iter(["running", "running", "running", "finished"])
    steps = iter([3, 3, 5, 5])

    def moment(_):
        (folder / "metrics.jsonl").write_text(
            "".join(map("{}\n".format, map(json.dumps, rows(range(next(steps))))))
        )
        return status.Status(next(states))

    real, looks = watch.view, []

    def looked(path):
        looks.append(path)
        if len(looks) == 2:  # the first is before the watching begins
            monkeypatch.setattr(status, "status_of", moment)
        return real(path)

    monkeypatch.setattr(watch, "view", looked)
    assert main(["runs", "watch", str(folder), "--every", "0.01"]) == 0
    title, *lines = capsys.readouterr().out.splitlines()
    assert str(folder) in title
    assert len(lines) == 3
    assert lines[-1].startswith("finished  step 4/100")
    assert "train/loss" in lines[-1]


@pytest.mark.parametrize("state", ["failed", "interrupted"])
def test_a_run_that_did_not_finish_fails_the_command_and_says_why(tmp_path, capsys, state):
    folder = run_folder(tmp_path / "r", rows(range(3)), state, why="no number")
    with pytest.raises(SystemExit) as stop:
        main(["runs", "watch", str(folder)])
    assert stop.value.code == 1
    assert f"{state} (no number)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metric", "val/lss"], "--metric val/lss: not among train/loss"),
        (["--every", "0"], "--every: 0 must be from 0 to 3600"),
        (["--every", "nan"], "--every: nan"),
        (["--notify", "ftp://a"], "--notify ftp://a: must be an address"),
        (["--notify", "https://"], "must be an address"),
    ],
)
def test_what_cannot_be_watched_is_one_line(words, message, tmp_path, capsys):
    folder = run_folder(tmp_path / "r", rows(range(3)))
    assert main(["runs", "watch", str(folder), *words]) == 2
    assert message in capsys.readouterr().err


def test_the_figure_fits_the_window_and_shows_the_curve_and_its_range(tmp_path):
    found = view(run_folder(tmp_path / "r", rows(range(50))))
    console = Console(width=60, record=True)
    console.print(runs_watch._figure("clip/x \x1b[2J", found, [], 60))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 60
    assert "\x1b" not in text
    assert "train/loss  0.02" in text
    assert (
        sum(any(BRAILLE < ord(c) < BRAILLE + 256 for c in line) for line in text.splitlines()) == 6
    )


def test_the_end_is_sent_once_and_only_where_it_is_asked_for(tmp_path, capsys):
    got = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    folder = run_folder(tmp_path / "r", rows(range(3)))
    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/hook"
        assert main(["runs", "watch", str(folder)]) == 0
        assert got == []
        assert main(["runs", "watch", str(folder), "--notify", url]) == 0
        thread.join()
    (content,) = got
    assert (content["state"], content["step"], content["folder"]) == ("finished", 2, "r")
    assert str(tmp_path) not in json.dumps(content)
    capsys.readouterr()
    assert main(["runs", "watch", str(folder), "--notify", url]) == 0  # nobody listens any more
    assert "unclip: warning: --notify" in capsys.readouterr().err
