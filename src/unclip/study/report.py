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
    "Tell from 50 %: the least difference that so many captions tell, with 80 % power.",
    "Paper: unCLIP against GLIDE (arXiv 2204.06125, table 1), of other images and raters.",
    "Told apart: where the bootstrap's interval holds no 50 % and the corrected p is below 0.05.",
)


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
                "label": f"paper: {each.question}, {name}",
                "share": share,
                "low": share - m,
                "high": share + m,
            }
            for each in found.results
            for name, (share, m) in QUESTIONS[each.question].paper.items()
        ],
    )


def sections(found: Results) -> dict[str, Lines]:
    """Every table by its title."""
    if not found.results:
        return {"Raters": _raters(found.raters)}
    return {
        "Preference for A": _preferences(found.results),
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


def _preferences(results: list[Result]) -> Lines:
    """A column per question, as in the paper."""
    lines = [
        ["", *(each.question for each in results)],
        ["ties as half", *(_percent(each.half) for each in results)],
        ["ties left out", *(_percent(each.decided) for each in results)],
        ["bootstrap 95 %", *(_interval(each) for each in results)],
        ["verdict", *(_verdict(each) for each in results)],
        ["sign test p", *(_p(each.sign_p) for each in results)],
        ["Holm's p", *(_p(each.holm_p) for each in results)],
        ["A / B / not sure", *(f"{each.a} / {each.b} / {each.unsure}" for each in results)],
        ["captions", *(f"{each.captions:,}" for each in results)],
        ["tell from 50 %", *(_tells(each) for each in results)],
        ["pairs with 2 votes or more", *(f"{each.agreement.units:,}" for each in results)],
        ["same answer there", *(_same(each) for each in results)],
        ["Krippendorff's alpha", *(_alpha(each) for each in results)],
    ]
    for name in QUESTIONS[results[0].question].paper:
        cells = (QUESTIONS[each.question].paper[name] for each in results)
        lines.append([f"paper, {name}", *(f"{p:.1f} ± {margin:.1f} %" for p, margin in cells)])
    return lines


def _verdict(each: Result) -> str:
    return f"{each.verdict.upper()} is preferred" if each.verdict in ("a", "b") else each.verdict


def _tells(each: Result) -> str:
    return "-" if each.resolves is None else f"± {100 * each.resolves:.1f} points"


def _same(each: Result) -> str:
    return "-" if each.agreement.same is None else f"{100 * each.agreement.same:.0f} %"


def _alpha(each: Result) -> str:
    return "-" if each.agreement.alpha is None else f"{each.agreement.alpha:.2f}"


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
