"""What `unclip data inspect` found, as text: a table, and advice."""

from __future__ import annotations

from collections.abc import Iterator

from unclip.common import tables
from unclip.common.counted import counted
from unclip.common.terminal import say
from unclip.data.inspect.duplicates import NEAR
from unclip.data.inspect.report import BLANK, NEAR_LIMIT, SMALL, Report


def show(found: Report) -> None:
    """Print it."""
    lines = [["source", found["source"]], *_lines(found)]
    tables.show(lines)
    say()
    for line in list(advice(found)) or ["nothing to fix"]:
        say(f"- {line}")


def advice(found: Report) -> Iterator[str]:
    """A line for each finding that asks for something."""
    if bad := found["unreadable"]["count"]:
        share = _percent(bad / found["looked_at"])
        yield (
            f"{share} cannot be read: data.on_error=skip leaves those {bad:,} out; a share of more "
            "than data.max_skipped stops the run"
        )
    if (files := found["files"]) and (left := files["total"] - files["read"]):
        yield f"not read: {left:,} of {counted(files['total'], 'file')}; the table says why"
    if not found["readable"]:
        return
    size, captions = found["size"], found["captions"]
    for side in SMALL[:2]:
        if share := size["shorter_side_below"][str(side)]:
            yield f"{_percent(share)} are below {side} pixels: training at {side} enlarges those"
            break
    if count := size["longer_than_two_squares"]:
        are = "is" if count == 1 else "are"
        yield (
            f"{count:,} of {found['readable']:,} {are} more than twice as long as wide; "
            "the square crop loses over half"
        )
    if share := captions["cut"]["share"]:
        yield (
            f"{_percent(share)} of captions are longer than {captions['context']} tokens: "
            "they are cut"
        )
    if share := captions["repeated"]["share"]:
        yield (
            f"{_percent(share)} of captions occur more than once: CLIP cannot tell "
            "images with equal captions apart"
        )
    if blank := found["blank"]["count"]:
        yield (
            f"near-blank: {blank:,} (no channel deviates by {BLANK:g} levels of 255); look at "
            "suspects.png, and remove them"
        )
    if copies := found["duplicates"]["copies"]:
        yield (
            f"alike: {copies:,} have the perceptual hash of an earlier one; look at suspects.png: "
            "a copy counts twice, and may be held out while its original is trained on"
        )


def _lines(found: Report) -> Iterator[list[str]]:
    """Rows of the table."""
    if files := found["files"]:
        left = files["total"] - files["read"]
        yield ["files", f"{files['total']:,}, of which {files['read']:,} read, {left:,} left out"]
        for each in files["left_out"]:
            reason, count = each["reason"], each["count"]
            yield ["", f"{count:,} x {reason}: {_few(each['names'], count)}"]
    yield ["samples", f"{found['samples']:,}, of which {found['held_out']:,} held out"]
    yield ["looked at", f"{found['looked_at']:,}"]
    yield ["unreadable", f"{found['unreadable']['count']:,}"]
    for kind in found["unreadable"]["kinds"]:
        yield ["", f"{kind['count']:,} x {kind['kind']}: {_few(kind['keys'], kind['count'])}"]
    if not found["readable"]:
        return
    size, captions = found["size"], found["captions"]
    yield ["formats", ", ".join(f"{name} {n:,}" for name, n in found["formats"].items())]
    below = (f"{_percent(share)} < {side}" for side, share in size["shorter_side_below"].items())
    yield ["shorter side, pixels", ", ".join(below)]
    yield ["", "min / 25 % / median / 75 % / max"]
    for side in ("width", "height"):
        yield [f"{side}, pixels", _five(size[side])]
    yield ["width / height", _five(size["width_over_height"])]
    yield ["captions an image", _five(captions["per_image"])]
    yield ["characters a caption", _five(captions["characters"])]
    yield ["tokens a caption", _five(captions["tokens"])]
    cut = captions["cut"]
    yield [
        f"captions cut at {captions['context']} tokens",
        f"{cut['count']:,} ({_percent(cut['share'])})",
    ]
    repeated = captions["repeated"]
    yield ["captions that occur again", _percent(repeated["share"])]
    for each in repeated["commonest"]:
        yield ["", f"{each['count']:,} x {_short(each['caption'])}"]
    blank = found["blank"]
    yield ["near-blank images", f"{blank['count']:,} {_few(blank['keys'], blank['count'])}"]
    yield from _duplicate_lines(found["duplicates"])


def _duplicate_lines(found: Report) -> Iterator[list[str]]:
    groups = counted(found["groups"], "group")
    yield ["look like an earlier image", f"{found['copies']:,}, in {groups}"]
    for keys in found["keys"]:
        yield ["", " = ".join(keys)]
    near = found["near_pairs"]
    missing = f"not looked for beyond {NEAR_LIMIT:,} different images"
    yield [f"pairs within {NEAR} bits of 64", missing if near is None else f"{near:,}"]
    for keys in found["near_keys"]:
        yield ["", " ~ ".join(keys)]


def _number(value: float) -> str:
    return f"{value:,.2f}".rstrip("0").rstrip(".")


def _five(found: Report) -> str:
    return " / ".join(map(_number, found.values()))


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _few(keys: list[str], count: int) -> str:
    return ", ".join(keys) + (", ..." if count > len(keys) else "")


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[:most]}..."
