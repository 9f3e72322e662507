"""Prints what `make test-docs` checks: pages, commands, links, images and notebooks."""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import urlsplit

import pages
import shown


def counts(found: list[Path]) -> dict[str, int]:
    """How many there are of each."""
    places = [place for page in found for place in shown.places(page)]
    links = [urlsplit(link) for page in found for link in pages.links(page)]
    inside = [link for link in links if not link.scheme and not link.netloc]
    return {
        "pages": len(found),
        "commands shown": sum(len(place.commands) for place in places),
        "commands run": sum(len(place.runs) for place in places),
        "links into the project": len(inside),
        "of these to a heading": sum(bool(link.fragment) for link in inside),
        "links elsewhere, not followed": len(links) - len(inside),
        "notebooks": sum(page.parent.name == "tutorials" for page in found),
    }


if __name__ == "__main__":
    sys.stdout.write(", ".join(f"{n:,} {what}" for what, n in counts(pages.PAGES).items()) + "\n")
