"""The report of a study as tables: terminal, Markdown, HTML."""

from __future__ import annotations

from pathlib import Path

from unclip.common import tables
from unclip.common.counted import counted
from unclip.common.html import render
from unclip.common.markdown import plain_markdown
from unclip.evaluation.statistics.power import n_for_preference
from unclip.study.questions import QUESTIONS
from unclip.study.results import RULE, Rater, Result, Results, Share, resolved

TEMPLATE = Path(__file__).parent / "templates" / "report.html"
Lines = list[list[str]]
NOTES = (
    "Shares: how often A was preferred, ± 1.96 √(p (1 − p) / n) as in the paper.",
    "Bootstrap over captions: answers to one caption are not independent.",
    "Sign test: over captions, each for what most of its raters chose; then Holm's correction for "
    "the number of questions.",
    "Told apart: where the bootstrap's interval holds no 50 % and the corrected p is below 0.05.",
)
PAPER = "unCLIP against GLIDE (arXiv 2204.06125, table 1): other images and raters"


def show(found: Results) -> None:
    """On the terminal."""
    from unclip.common.terminal import say

    for line in _heading(found):
        say(line)
    for title, lines in sections(found).items():
        say()
        say(f"{title}:")
        tables.show(lines)
    say()
    for note in notes(found):
        say(note)


def markdown(found: Results) -> str:
    """As Markdown."""
    parts = ["# Study\n", *(f"{plain_markdown(line)}\n" for line in _heading(found))]
    for title, lines in sections(found).items():
        parts.append(f"## {plain_markdown(title)}\n\n{tables.markdown(lines)}")
    parts.append("".join(f"- {plain_markdown(note)}\n" for note in notes(found)))
    return "\n".join(parts)


def page(found: Results) -> str:
    """As HTML."""
    return render(
        TEMPLATE,
        heading=_heading(found),
        sections=sections(found),
        bars=[_bar(each) for each in found.results],
        notes=notes(found),
        paper=[
            {
                "label": f"paper: {question}, {name}",
                "share": share,
                "low": share - m,
                "high": share + m,
            }
            for question in _asked(found)
            for name, (share, m) in QUESTIONS[question].paper.items()
        ],
    )


def sections(found: Results) -> dict[str, Lines]:
    """Every table by its title."""
    if not found.results:
        return {"Raters": _raters(found.raters)}
    return {
        "Preference for A": _preferences(found.results),
        PAPER: _paper(found),
        "Agreement of raters": _agreement(found.results),
        "Raters": _raters(found.raters),
    }


def notes(found: Results) -> list[str]:
    """What the tables mean, and what was left out."""
    lines = [*NOTES, RULE]
    if not found.results:
        lines = ["No votes but those of catch pairs and of raters left out.", RULE]
    if excluded := [rater.name for rater in found.raters if rater.excluded]:
        lines.append(f"Raters left out: {', '.join(excluded)}.")
    if found.unknown:
        lines.append(f"{counted(found.unknown, 'vote')} for pairs that are not in this study.")
    return lines


def _heading(found: Results) -> list[str]:
    return [f"{arm.upper()}: {found.title[arm]}" for arm in ("a", "b")]


def _asked(found: Results) -> list[str]:
    return [each.question for each in found.results]


def _preferences(results: list[Result]) -> Lines:
    lines = [
        [
            *(
                "question",
                "ties as half",
                "ties left out",
                "bootstrap 95 %",
                "sign test p",
                "Holm p",
            ),
            *("A / B / not sure", "captions", "tells", "verdict"),
        ]
    ]
    for each in results:
        interval = _interval(each)
        verdict = each.verdict if each.verdict not in ("a", "b") else each.verdict.upper()
        tells = "-" if each.resolves is None else f"± {100 * each.resolves:.1f}"
        lines.append(
            [
                each.question,
                _percent(each.half),
                _percent(each.decided),
                interval,
                _p(each.sign_p),
                _p(each.holm_p),
                f"{each.a} / {each.b} / {each.unsure}",
                f"{each.captions:,}",
                tells,
                verdict,
            ]
        )
    return lines


def _paper(found: Results) -> Lines:
    asked = _asked(found)
    lines = [["", *asked]]
    for name in QUESTIONS[asked[0]].paper:
        cells = (QUESTIONS[question].paper[name] for question in asked)
        lines.append([name, *(f"{share:.1f} ± {margin:.1f} %" for share, margin in cells)])
    return lines


def _agreement(results: list[Result]) -> Lines:
    lines = [["question", "pairs with two votes or more", "same answer", "Krippendorff's alpha"]]
    for each in results:
        found = each.agreement
        same = "-" if found.same is None else f"{100 * found.same:.0f} %"
        alpha = "-" if found.alpha is None else f"{found.alpha:.2f}"
        lines.append([each.question, f"{found.units:,}", same, alpha])
    return lines


def _raters(raters: list[Rater]) -> Lines:
    lines = [["rater", "votes", "catch pairs as expected", "left side", "seconds a vote", ""]]
    for each in raters:
        lines.append(
            [
                each.name,
                f"{each.votes:,}",
                f"{each.caught} of {each.catches}",
                "-" if each.left is None else f"{100 * each.left:.0f} %",
                "-" if each.seconds is None else f"{each.seconds:.1f}",
                "left out" if each.excluded else "",
            ]
        )
    return lines


def _percent(share: Share | None) -> str:
    return "-" if share is None else f"{100 * share.share:.1f} ± {100 * share.margin:.1f} %"


def _interval(each: Result) -> str:
    if each.low is None or each.high is None:
        return "-"
    return f"{100 * each.low:.1f} to {100 * each.high:.1f} %"


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _bar(each: Result) -> dict[str, float | str]:
    share = 100 * each.half.share
    low, high = (100 * (each.half.share if end is None else end) for end in (each.low, each.high))
    return {"label": each.question, "share": share, "low": low, "high": high}


def power_lines(n: int, difference: float | None) -> list[str]:
    """What ``n`` judgements per question tell, and how many it would take for a difference.

    Args:
        n: Judgements of different captions.
        difference: From 50 %, in points; None for none in particular.
    """
    least = resolved(n)
    tells = (
        f"a share of {50 + 100 * least:.1f} % (or {50 - 100 * least:.1f} %) from 50 %"
        if least is not None
        else "no share at all from 50 %"
    )
    lines = [
        f"{counted(n, 'judgement')} per question, one of each caption: tell {tells} in 8 of 10 "
        "studies (two-sided test at 5 %)",
        "needed: "
        + ", ".join(f"{n_for_preference(p / 100):,} for {p} %" for p in (51, 52, 53, 55, 60, 70)),
    ]
    if difference is not None:
        needed = n_for_preference(0.5 + difference / 100)
        lines.append(f"a difference of {difference:g} points: needs {needed:,}")
    return lines
