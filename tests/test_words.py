"""Words that the glossary replaces do not come back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GONE = {
    r"pictures?\b": "image",
    r"\b(lean|leans|leaned|leaning) on\b": "depends on",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\b(gone|goes|going|go) on with\b": "resume, continue",
    r"\b(by|learn\w*) heart\b": "memorise",
    r"\bformer times\b": "earlier, previous",
}
"""Further forms of words of the glossary, and what to say instead."""
GLOSSARY = ROOT / "docs" / "glossary.md"


def refused() -> dict[str, str]:
    """The words that the glossary's last column has in italics -> the term of their row."""
    found = {}
    for line in GLOSSARY.read_text(encoding="utf-8").splitlines():
        cells = re.split(r"(?<!\\)\|", line)
        if len(cells) == 5:
            for word in re.findall(r"\*([^*]+)\*", cells[3]):
                found[word] = cells[1].strip()
    return found


# The glossary names the words; captions of scenes are data, and must stay as they are.
EXCEPT = {
    "src/unclip/data/scenes/captions.py": "a picture of ",
    "CHANGELOG.md": "picture`",
    "src/unclip/cli/evaluate.py": "--picture",  # the option of earlier versions, still read
}
FILES = [
    path
    for pattern in (
        "src/**/*.py",
        "src/**/*.html",
        "data_modules/*.py",
        "benchmarks/*.py",
        "experiments/**/*.yaml",
        "docs/**/*.md",
        "*.md",
        "Makefile",
    )
    for path in sorted(ROOT.glob(pattern))
]


WORDS = GONE | {rf"\b{re.escape(word)}s?\b": term for word, term in refused().items()}


def test_the_glossary_refuses_words():
    assert {"picture", "dear", "backbone", "cached attention"} <= set(refused())
    assert refused()["dear"] == "expensive"
    assert "draw (that is for random numbers)" not in refused()


@pytest.mark.parametrize("word", WORDS)
def test_a_word_that_left_stays_away(word):
    found = []
    for path in FILES:
        name = path.relative_to(ROOT).as_posix()
        if name == "docs/glossary.md":
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            line = line.replace(EXCEPT.get(name, "\0"), "")
            if re.search(word, line, re.IGNORECASE):
                found.append(f"{name}:{number}: {line.strip()[:80]}")
    assert found == [], f"say: {WORDS[word]}"
