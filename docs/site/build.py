"""Builds the site from README, docs/, docstrings, parsers and config classes: `make docs`.

    python docs/site/build.py [OUT]

The navigation is the table "All pages" of the README: each of its rows is a section. Warnings are
errors, no network is used, and the result opens from its folder or from any static host.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import nbformat
import reference
import tutorials
from sphinx.cmd.build import build_main

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OUT = ROOT / "build" / "docs"
BESIDE = ("CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "CITATION.cff")  # of the root
DECISIONS = "adr/index.md"
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^()\s]+)\)")


def main(out: Path = OUT) -> int:
    """Put the sources together beside ``out`` and build; returns Sphinx's status."""
    source = out.with_name(out.name + "-source")
    for folder in (out, source):
        shutil.rmtree(folder, ignore_errors=True)
    assemble(source)
    jobs = ["-W", "--keep-going", "-q", "-b", "html", "-c", str(HERE)]
    return build_main([*jobs, "-d", str(source / ".doctrees"), str(source), str(out)])


def assemble(source: Path) -> None:
    """The folder that Sphinx reads."""
    shutil.copytree(ROOT / "docs", source, ignore=shutil.ignore_patterns("site"))
    for name in BESIDE:
        shutil.copy(ROOT / name, source / name)
    generated = reference.write(source / "reference")
    decisions = sorted(path.name for path in (source / "adr").glob("*.md"))
    text = "# Decisions\n\nWhat was decided, why, and what was tried instead.\n\n"
    (source / DECISIONS).write_text(text + toctree("", decisions), encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    before, _, pages = readme.partition("## All pages\n")
    trees = [
        toctree(title, [*targets, *(generated if title == "Reference" else ())])
        for title, targets in sections(pages).items()
    ]
    for page in sorted((source / "tutorials").glob("*.md")):
        offer_notebook(page)
    legal = pages.partition("\n\nunclip is licensed")
    index = before + "".join(legal[1:]).lstrip("\n") + "\n" + "\n".join(trees)
    (source / "index.md").write_text(index, encoding="utf-8")
    for path in source.rglob("*.md"):
        path.write_text(relinked(path, source), encoding="utf-8")


def offer_notebook(page: Path) -> None:
    """Write a tutorial as a notebook beside it, and say below its title where to download it."""
    nbformat.write(tutorials.with_outputs(page), page.with_suffix(".ipynb"))
    title, _, rest = page.read_text(encoding="utf-8").partition("\n")
    line = f"{{download}}`Download this page as a notebook <{page.stem}.ipynb>`."
    page.write_text(f"{title}\n\n{line}\n{rest}", encoding="utf-8")


def sections(table: str) -> dict[str, list[str]]:
    """Title of each row -> the pages that it links, as files of the site."""
    found = {}
    for title, cell in re.findall(r"^\| ([^|]+?) \| (.+) \|$", table, re.M):
        found[title] = [site_path(target) for _, target in LINK.findall(cell)]
    return found


def toctree(title: str, pages: list[str]) -> str:
    """A block of the navigation."""
    options = f":caption: {title}\n:hidden:\n" if title else ""
    return f"```{{toctree}}\n{options}:maxdepth: 1\n\n" + "\n".join(pages) + "\n```\n"


def site_path(target: str) -> str:
    """Where a file that is named from the root lies in the site."""
    path = target.removeprefix("docs/")
    return DECISIONS if path == "adr/" else path


def relinked(path: Path, source: Path) -> str:
    """A page's text with links as they are in the site; what is not in the site is only named."""
    page = path.relative_to(source)
    at_root = page.as_posix() in ("index.md", *BESIDE)

    def link(match: re.Match[str]) -> str:
        text, target = match.groups()
        if "://" in target or target.startswith(("#", "mailto:")):
            return match[0]
        place, hash, anchor = target.partition("#")
        from_root = place if at_root else (Path("docs") / page.parent / place).as_posix()
        parts: list[str] = []
        for part in from_root.split("/"):
            parts = parts[:-1] if part == ".." else [*parts, part]
        found = site_path("/".join(p for p in parts if p != "."))
        if not (source / found).is_file():
            return text[1:-1]
        up = "../" * len(page.parent.parts)
        return f"{text}({up}{found}{hash}{anchor})"

    pieces = re.split(
        r"(^```.*?^```|`[^`\n]+`)", path.read_text(encoding="utf-8"), flags=re.M | re.S
    )
    return "".join(p if p.startswith("`") else LINK.sub(link, p) for p in pieces)


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:2])))
