"""What axe-core finds inaccessible in a page."""

from __future__ import annotations

from typing import Any

from axe_playwright_python.sync_playwright import Axe

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}


def violations(page: Any) -> list[str]:
    """For each rule that the page breaks: how often, the first place, and what is wrong there."""
    found = Axe().run(page, options=RULES).response["violations"]
    return [
        f"{each['id']} x {len(each['nodes'])}: {each['nodes'][0]['html'][:160]}\n"
        f"{each['nodes'][0]['failureSummary']}"
        for each in found
    ]
