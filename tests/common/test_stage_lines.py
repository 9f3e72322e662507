"""Progress of stages side by side: one line each in a terminal, every line elsewhere."""

from __future__ import annotations

import io

from rich.console import Console

from unclip.common.stage_lines import StageLines

SAID = "a warning\nstep 1/4  0.50 steps/s  6 s left\nstep 2/4  0.50 steps/s  4 s left\n"


def test_a_log_gets_every_line_with_its_stage(capsys):
    with StageLines() as lines:
        lines.read("decoder", io.StringIO(SAID))
    assert capsys.readouterr().out.splitlines() == [
        f"decoder       {line}" for line in SAID.splitlines()
    ]


def test_a_terminal_shows_the_newest_progress_of_each_stage_on_one_line():
    screen = io.StringIO()
    with StageLines(Console(file=screen, force_terminal=True, width=60)) as lines:
        lines._tell("prior", "step 3/9  1.00 steps/s  6 s left")
        lines.read("decoder", io.StringIO(SAID))
        shown = screen.getvalue()
        ended = lines._newest
    last = shown.rpartition("4 s left")[0]
    assert "decoder       step 1/4" in last  # both in turn, and the line above is written over
    assert "\x1b[1A\x1b[2K" in last.rpartition("step 1/4")[2]
    assert list(ended) == ["prior"]


def test_what_a_stage_says_cannot_steer_the_terminal():
    screen = io.StringIO()
    with StageLines(Console(file=screen, force_terminal=True, width=60)) as lines:
        lines._tell("prior", "step 3/9 \x1b[2J[bold]")
    assert "\\x1b[2J[bold]" in screen.getvalue()
