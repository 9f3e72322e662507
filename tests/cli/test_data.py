"""`unclip data`: a folder of known faults in numbers, and what the commands refuse."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from itertools import combinations

import imagehash
import numpy as np
import pytest
from PIL import Image

from unclip.cli import main
from unclip.data.keys import key_hash


def smooth(seed: int, width: int, height: int) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, form: str = "png") -> bytes:
    file = io.BytesIO()
    image.save(file, form)
    return file.getvalue()


GOOD = [smooth(seed, 60 + 5 * seed, 50) for seed in range(8)]
WORDY = "word " * 80
PAINT = "[red] \x1b[31mtwice"
FILES: dict[str, tuple[bytes, object]] = {
    **{f"good-{n}.png": (encoded(image), f"image {n}") for n, image in enumerate(GOOD[:6])},
    "good-6.jpg": (encoded(GOOD[6], "jpeg"), PAINT),
    "good-7.png": (encoded(GOOD[7]), PAINT),
    "long.png": (encoded(smooth(8, 150, 50)), "long"),
    "copy-0.png": (encoded(GOOD[0]), "a copy"),
    "copy-1.png": (encoded(GOOD[0]), "another copy"),
    "wordy.png": (encoded(smooth(9, 300, 280)), WORDY),
    "two.png": (encoded(smooth(10, 70, 66)), ["one", "and two"]),
    "blank-0.png": (encoded(Image.new("RGB", (80, 64), "white")), "white"),
    "blank-1.png": (encoded(Image.new("RGB", (80, 64), (90, 90, 93))), "grey"),
    "pink.png": (encoded(smooth(11, 90, 90)), "pink"),
    "cut.png": (encoded(GOOD[1])[:-40], "cut"),
    "text.png": (b"dear diary", "text"),
    "silent.png": (encoded(GOOD[2]), " "),
}
UNREADABLE = {
    "the image is damaged": ["cut"],
    "not an image that can be read": ["text"],
    "the caption is empty": ["silent"],
    "does not exist": ["gone"],
}
READABLE = [name for name in FILES if name.split(".")[0] not in ("cut", "text", "silent")]


@pytest.fixture
def faulty(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    folder = tmp_path / "faulty"
    folder.mkdir()
    for name, (data, _) in FILES.items():
        (folder / name).write_bytes(data)
    rows = [*((name, caption) for name, (_, caption) in FILES.items()), ("gone.png", "gone")]
    lines = [json.dumps({"file_name": name, "caption": caption}) for name, caption in rows]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def inspected(capsys, *words) -> dict:
    assert main(["data", "inspect", *map(str, words), "--json", "--workers", "0"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_numbers_of_known_faults(faulty, capsys):
    found = inspected(capsys, faulty, "--out", "look")
    assert json.loads((faulty.parent / "look" / "report.json").read_text()) == found
    assert " ".join(found) == (
        "source fingerprint files samples held_out looked_at readable unreadable formats size "
        "captions blank duplicates"
    )
    assert found["source"] == str(faulty)
    assert found["files"] == {"total": 20, "read": 20, "left_out": []}  # the listing is one
    assert (found["samples"], found["looked_at"], found["readable"]) == (20, 20, 16)
    names = [*FILES, "gone.png"]
    held_out = sum(key_hash(name.split(".")[0]) < 0.02 * 2**64 for name in names)
    assert found["held_out"] == held_out
    assert found["unreadable"]["count"] == 4
    kinds = {kind["kind"]: kind["keys"] for kind in found["unreadable"]["kinds"]}
    assert kinds == UNREADABLE
    assert found["formats"] == {"JPEG": 1, "PNG": 15}
    size = found["size"]
    assert size["width"] == {"min": 60, "q25": 65, "median": 80, "q75": 90, "max": 300}
    assert (size["height"]["median"], size["height"]["max"]) == (50, 280)
    assert size["shorter_side_below"] == {"64": 11 / 16, "256": 15 / 16, "1024": 1}
    assert size["width_over_height"]["max"] == 3
    assert size["longer_than_two_squares"] == 1
    assert found["blank"] == {"count": 2, "keys": ["blank-0", "blank-1"]}


def test_the_numbers_of_captions(faulty, capsys):
    captions = inspected(capsys, faulty)["captions"]
    assert captions["count"] == 17
    assert captions["per_image"] == {"min": 1, "q25": 1, "median": 1, "q75": 1, "max": 2}
    assert captions["characters"]["max"] == len(WORDY.strip())
    tokens = captions["tokens"]
    assert (tokens["min"], tokens["median"], tokens["max"]) == (3, 4, 82)  # two are start and end
    assert (captions["context"], captions["cut"]) == (77, {"count": 1, "share": 1 / 17})
    commonest = [{"caption": PAINT, "count": 2}]
    assert captions["repeated"] == {"share": 2 / 17, "commonest": commonest}
    assert inspected(capsys, faulty, "--context", 82)["captions"]["cut"]["count"] == 0
    short = inspected(capsys, faulty, "--clip", "clip/tiny")["captions"]
    assert short["context"] < 77
    assert short["cut"]["count"] == 1


def test_duplicates_are_those_of_the_library(faulty, capsys):
    readable = [name for name in READABLE if not name.startswith("blank")]
    hashes = {}
    for name in readable:
        with Image.open(io.BytesIO(FILES[name][0])) as image:
            hashes[name.split(".")[0]] = imagehash.phash(image)
    found = inspected(capsys, faulty)["duplicates"]
    assert (found["groups"], found["copies"]) == (1, 2)
    assert found["keys"] == [["good-0", "copy-0", "copy-1"]]
    near = [{a, b} for a, b in combinations(hashes, 2) if 0 < hashes[a] - hashes[b] <= 3]
    assert found["near_pairs"] == len(near)


def test_the_sheets(faulty, capsys):
    inspected(capsys, faulty)
    assert list(faulty.parent.iterdir()) == [faulty]  # nothing was asked for
    out = faulty.parent / "inspected"
    inspected(capsys, faulty, "--out", out)
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.width == 8 * 134 + 6
        assert 2 * 134 < sheet.height < 2 * 134 + 200
        assert sheet.getpixel((6 + 64, 6 + 64)) == GOOD[0].getpixel((30, 25))
    with Image.open(out / "suspects.png") as sheet:  # 4 unreadable, 2 blank, 3 of one group
        assert sheet.width == 8 * 134 + 6
        tiles = [sheet.getpixel((6 + 64 + 134 * n, 6 + 64)) for n in range(8)]
    assert tiles[:6] == [(192, 192, 192)] * 4 + [(255, 255, 255), (90, 90, 93)]
    assert tiles[6] == tiles[7] == GOOD[0].getpixel((30, 25))


def test_the_text_names_each_finding_and_steers_no_terminal(faulty, capsys):
    assert main(["data", "inspect", str(faulty), "--workers", "2"]) == 0
    text, remarks = capsys.readouterr()
    lines = [" ".join(line.split()) for line in text.splitlines()]
    for line in (
        "files 20, of which 20 read, 0 left out",
        "samples 20, of which 1 held out",
        "1 x the image is damaged: cut",
        "formats JPEG 1, PNG 15",
        "width, pixels 60 / 65 / 80 / 90 / 300",
        "captions cut at 77 tokens 1 (5.88 %)",
        "2 x [red] \\x1b[31mtwice",
        "near-blank images 2 blank-0, blank-1",
        "look like an earlier image 2, in 1 group",
        "good-0 = copy-0 = copy-1",
        "- 1 of 16 is more than twice as long as wide; the square crop loses over half",
        "- 5.88 % of captions are longer than 77 tokens: they are cut",
        "- 68.8 % are below 64 pixels: training at 64 enlarges those",
    ):
        assert line in lines
    assert len([line for line in lines if line.startswith("- ")]) == 7
    assert "\x1b" not in text
    assert remarks.endswith("--out DIR writes contact_sheet.png, suspects.png and report.json\n")


def test_workers_change_nothing(faulty, capsys):
    one = inspected(capsys, faulty)
    assert main(["data", "inspect", str(faulty), "--json", "--workers", "2"]) == 0
    assert json.loads(capsys.readouterr().out) == one


def test_scenes_are_drawn_at_the_size_and_spread_evenly(capsys, tmp_path):
    found = inspected(capsys, "scenes", "--limit", 3, "--size", 16, "--out", tmp_path)
    assert (found["samples"], found["held_out"], found["looked_at"]) == (51_000, 1_000, 3)
    assert found["size"]["width"]["max"] == 16
    assert found["formats"] == {"drawn": 3}
    assert found["captions"]["per_image"]["min"] == 3


def test_nothing_readable_is_reported_too_and_no_sheet_is_left(faulty, capsys):
    inspected(capsys, faulty, "--out", "runs/inspect")
    assert (faulty.parent / "runs" / "inspect" / "contact_sheet.png").exists()
    for name in FILES:
        (faulty / name).write_bytes(b"")
    words = ["data", "inspect", str(faulty), "--workers", "0", "--out", "runs/inspect"]
    assert main(words) == 0
    assert "- 100 % cannot be read" in capsys.readouterr().out
    assert (faulty.parent / "runs" / "inspect" / "contact_sheet.png").exists()
    assert not (faulty.parent / "runs" / "inspect-2" / "contact_sheet.png").exists()
    assert main([*words, "--force"]) == 0
    assert not (faulty.parent / "runs" / "inspect" / "contact_sheet.png").exists()


def test_pack_says_how_much_and_continues(faulty, capsys):
    words = ["data", "pack", str(faulty), "--out", "packed", "--shard-size", "6"]
    for _ in range(2):
        assert main([*words, "--workers", "0"]) == 0
        assert capsys.readouterr().out == "packed: samples 16, shards 4, skipped 4\n"
    found = inspected(capsys, "packed")
    assert (found["samples"], found["unreadable"]["count"]) == (16, 0)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["inspect", "nowhere"], "data.source: nowhere does not exist"),
        (["inspect", "faulty", "--limit", "0"], "--limit: must be at least 1"),
        (["inspect", "faulty", "--workers", "-1"], "--workers: must not be negative"),
        (["inspect", "scenes", "--size", "0"], "--size: must be in [1, 4096]"),
        (["inspect", "faulty", "--context", "2"], "--context: must be at least 3"),
        (["inspect", "faulty", "--clip", "c", "--context", "9"], "--clip, --context: give one"),
        (["inspect", "faulty", "--clip", "nowhere"], "clip=nowhere: "),
        (["inspect", "faulty", "--out", "letter/out"], "--out letter/out: letter is not a folder"),
        (["pack", "nowhere", "--out", "out"], "data.source: nowhere does not exist"),
        (["pack", "faulty", "--out", "out", "--shard-size", "0"], "--shard-size: must be at lea"),
        (["pack", "faulty", "--out", "out", "--quality", "0"], "--quality: must be in [1, 100]"),
        (["pack", "faulty", "--out", "letter/out"], "--out letter/out: letter is not a folder"),
        (["pack", "faulty", "--out", "full"], "--out full: is not empty; name another folder"),
        (["pack", "faulty", "--out", "faulty"], "--out faulty: is an input (faulty)"),
        (["pack", "faulty/metadata.jsonl", "--out", "faulty"], "--out faulty: contains an input"),
        (["pack", "faulty", "--out", "out", "--on-error", "error"], "--on-error=skip leaves such"),
    ],
)
def test_one_line_says_what_is_wrong(faulty, capsys, words, problem):
    (faulty.parent / "letter").write_text("dear diary")
    (faulty.parent / "full").mkdir()
    (faulty.parent / "full" / "mine.txt").write_text("mine")
    assert main(["data", *words]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("unclip: error: ")
    assert problem in last
    assert not list(faulty.parent.rglob("*.tar*"))
    assert not (faulty.parent / "runs").exists()


def test_help_imports_no_torch():
    code = "import sys, unclip.cli as c\ntry: c.main(['data', 'pack', '--help'])\n"
    check = "except SystemExit: pass\nassert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--shard-size" in done.stdout
