"""The page of claims: one table, a section per claim, and what was not tested and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from unclip.common import json_text, tables
from unclip.common.atomic import atomic_write
from unclip.common.html import render
from unclip.common.markdown import plain_markdown
from unclip.reproduction.arms import Key, Run, is_finished
from unclip.reproduction.evaluations import Kept
from unclip.reproduction.preset import Claim, Preset
from unclip.reproduction.results import NOT_YET, Result
from unclip.reproduction.sizes import Sizes
from unclip.reproduction.values import VALUES
from unclip.tracking.files import SUMMARY

NAME = "reproduction"
UNTESTABLE = (
    ("FID on MS-COCO (table 2)", "needs photographs and their captions, and weeks of training"),
    ("what people prefer (table 1)", "needs people: `unclip study` asks them"),
    ("aesthetic quality (figure 12)", "needs ratings by people: `unclip fit-probe` fits them"),
    ("spelling (figure 16)", "needs a reader of words, which the oracle is not"),
)
"""What no preset here tests, and why; a preset names more."""


@dataclass(frozen=True)
class Page:
    """All that the page says."""

    command: str
    state: str  # what is being done; empty when all is done
    preset: Preset
    claims: Mapping[str, Claim]
    sizes: Sizes
    runs: Mapping[Key, Run]
    results: Sequence[Result]
    kept: Mapping[str, Mapping[str, Sequence[Kept]]]


class Section(NamedTuple):
    """One claim on the page."""

    key: str
    claim: Claim
    verdict: str
    facts: list[list[str]]
    notes: list[str]
    sheets: list[tuple[str, Path]]
    took: str  # judging


def write_page(page: Page, out: Path) -> None:
    """Write ``index.html`` and ``reproduction.md`` into ``out``."""
    sections = [_section(page, result) for result in page.results]
    untested = [s for s, r in zip(sections, page.results) if r.estimate is None]
    tested = [s for s, r in zip(sections, page.results) if r.estimate is not None]
    html = render(
        Path(__file__).parent / "templates" / "reproduction.html",
        page=page,
        summary=summary(page),
        sections=tested,
        untested=_untested(page, untested),
        runs=_runs(page),
        trust=_trust(page),
    )
    for name, text in ("index.html", html), (f"{NAME}.md", _markdown(page, tested, untested)):
        with atomic_write(out / name) as scratch:
            scratch.write_text(text, encoding="utf-8")


def summary(page: Page) -> list[list[str]]:
    """The table at the top, titles first."""
    lines = [["claim", "verdict", "effect", "95 % interval", "p (Holm)", "n", "where"]]
    for result in page.results:
        claim, found = page.claims[result.claim], result.estimate
        figures = ["-"] * 4
        if found is not None:
            interval = f"{found.low:+.3g} to {found.high:+.3g}"
            figures = [f"{found.effect:+.3g}", interval, f"{result.p:.2g}", str(found.n)]
        lines.append([claim.says, _verdict(page, result), *figures, claim.source])
    return lines


def _verdict(page: Page, result: Result) -> str:
    if NOT_YET in result.notes:
        return NOT_YET
    return result.verdict or "not tested"


def _trust(page: Page) -> str:
    """What the page's numbers rest on, in a sentence or two."""
    share, runs = 100 * page.sizes.share, page.sizes.seeds
    about = f"{page.preset.about[0].upper()}{page.preset.about[1:]}"
    size = "their whole length" if share == 100 else f"{share:.3g} % of their length"
    several = "one run" if runs == 1 else f"{runs} runs"
    text = f"{about}. Trainings had {size}; claims about methods rest on {several} an arm."
    if all(run.task is None for run in page.runs.values()):
        text = "A cascade that was there is tested; nothing was trained for this page."
    if not page.state and all(r.verdict in (None, "not told apart") for r in page.results):
        text += " Nothing can be told apart from this: it shows that the machinery works."
    return text


def _section(page: Page, result: Result) -> Section:
    claim = page.claims[result.claim]
    facts = [["arm", VALUES[claim.value].title, "runs", "weights (sha256)"]]
    for name, value in result.arms.items():
        weights = [
            f"{part} {page.runs[part, 0].artifact.sha256[:12]}"
            for part in claim.arms[name].parts
            if (part, 0) in page.runs
        ]
        several = str(len(page.kept[result.claim][name]))
        facts.append([name, f"{value:.4g}", several, ", ".join(weights)])
    notes = [claim.note] if claim.note else []
    notes += result.notes
    if result.estimate is not None:
        notes.insert(0, f"test: {result.estimate.method}")
    kept = page.kept.get(result.claim, {})
    sheets = [(name, some[0].sheet) for name, some in kept.items() if some and some[0].sheet]
    return Section(
        result.claim,
        claim,
        _verdict(page, result),
        facts,
        notes,
        [(name, path) for name, path in sheets if path],
        _judging(page, result.claim),
    )


def _untested(page: Page, sections: Sequence[Section]) -> list[tuple[str, str]]:
    """What was not tested, and why."""
    claims = [(section.claim.says, "; ".join(section.notes)) for section in sections]
    return [*claims, *UNTESTABLE, *page.preset.untested.items()]


def _runs(page: Page) -> list[list[str]]:
    lines = [["run", "experiment", "steps", "took", "weights (sha256)"]]
    for (name, seed), run in page.runs.items():
        if not is_finished(run):
            continue
        what = page.preset.trainings[name].experiment if run.task else f"given: {run.folder}"
        path = run.folder / SUMMARY
        summary = json_text.read_object(path) if path.is_file() else {}
        steps, seconds = summary.get("steps", "-"), summary.get("seconds")
        took = "-" if seconds is None else _minutes(seconds, summary.get("cpu_seconds", 0.0))
        lines.append([f"{name} {seed}", what, str(steps), took, run.artifact.sha256[:12]])
    return lines


def _judging(page: Page, key: str) -> str:
    """What it took to judge a claim."""
    every = [one for some in page.kept.get(key, {}).values() for one in some]
    return _minutes(sum(one.seconds for one in every), sum(one.cpu_seconds for one in every))


def _minutes(seconds: float, of_cpu: float) -> str:
    return f"{seconds / 60:.1f} minutes ({of_cpu / 60:.1f} of CPU)"


def _markdown(page: Page, tested: Sequence[Section], untested: Sequence[Section]) -> str:
    text = ["# The paper's claims in miniature\n"]
    if page.state:
        text.append(f"In progress: {page.state}.\n")
    text.append(f"{plain_markdown(_trust(page))}\n")
    text.append(
        "An effect is the first arm's value less the second's, unless the test is of a trend or "
        "of slopes. `holds` and `fails` need an interval on one side of 0 and a p below 0.05 after "
        "Holm's correction over all claims that were tested; one run of a method, or fewer than 30 "
        "captions, give no verdict.\n"
    )
    text.append(tables.markdown(summary(page)))
    text.append(f"Every number by `{page.command}`.\n")
    for section in tested:
        text.append(f"## {section.key}: {section.verdict}\n")
        text.append(
            f"{plain_markdown(section.claim.says)} ({plain_markdown(section.claim.source)}).\n"
        )
        text.append(tables.markdown(section.facts))
        text.append("".join(f"- {plain_markdown(note)}\n" for note in section.notes))
        text.append(f"`{page.command}`; judging took {section.took}.\n")
    text.append("## What was not tested, and why\n")
    pairs = _untested(page, untested)
    text.append(
        "".join(f"- {plain_markdown(what)}: {plain_markdown(why)}\n" for what, why in pairs)
    )
    text.append("## Runs\n")
    text.append(tables.markdown(_runs(page)))
    return "\n".join(text)
