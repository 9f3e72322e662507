"""Every link and anchor of the pages leads somewhere."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import page_counts
import pages
import pytest


@pytest.mark.parametrize("page", pages.PAGES, ids=lambda p: p.relative_to(pages.ROOT).as_posix())
def test_every_link_leads_to_a_file_and_a_heading(page):
    wrong = []
    for link in pages.links(page):
        parts = urlsplit(link)
        if parts.scheme or parts.netloc:
            continue
        target = page.parent / unquote(parts.path) if parts.path else page
        there = target.exists() and target.resolve().is_relative_to(pages.ROOT)
        if not there or (parts.fragment and parts.fragment not in pages.anchors(target)):
            wrong.append(link)
    assert wrong == []


def test_an_anchor_is_named_as_on_a_forge(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# The `plan`: a *first* look\n\n## Twice\n\n## Twice\n\n## What won't?\n")
    assert pages.anchors(page) == {"the-plan-a-first-look", "twice", "twice-1", "what-wont"}


def test_what_is_checked_is_counted(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A\n\n[a](#a) [b](b.md) [c](https://example.org)\n\n![d](d.png)\n")
    found = page_counts.counts([page])
    assert found["links into the project"] == 3
    assert found["of these to a heading"] == 1
    assert found["links elsewhere, not followed"] == 1
    every = page_counts.counts(pages.PAGES)
    assert every["commands shown"] > every["commands run"] > 100
