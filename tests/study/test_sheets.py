"""Pairs handed out as CSV, and votes read back."""

from __future__ import annotations

import csv
import shutil

import pytest

from unclip.cli import main
from unclip.study.sheets import COLUMNS, read_sheet, read_votes
from unclip.study.study import VOTES
from unclip.study.votes import Vote, Votes


@pytest.fixture
def own(study, tmp_path):
    """A copy of the study, which may get votes."""
    shutil.copytree(study.folder, tmp_path / "s")
    return tmp_path / "s"


def run(*words):
    return main(["study", *(str(word) for word in words)])


def rows_of(file):
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def fill(file, rows, delimiter=",", encoding="utf-8"):
    with file.open("w", newline="", encoding=encoding) as opened:
        writer = csv.DictWriter(opened, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return file


def prefers_a(study, row):
    pair = study.pairs[row["pair"]]
    return "left" if pair.a in row["left"] else "right"


def votes_in(folder):
    found = Votes(folder / VOTES, read_only=True)
    votes = found.all()
    found.close()
    return votes


def test_sheets_filled_in_by_a_known_taste_come_back_as_that_taste(study, own, tmp_path, capsys):
    assert run("export", own, "--out", tmp_path / "out", "--sheets", 2) == 0
    orders = []
    for number, name in enumerate(("Ada", "Grace"), 1):
        file = tmp_path / f"out/sheet_{number:03d}.csv"
        rows = rows_of(file)
        assert tuple(rows[0]) == COLUMNS
        assert sorted(row["pair"] for row in rows) == sorted(study.pairs)
        for row in rows:
            for side in ("left", "right"):
                name_shown = row[side].removeprefix("images/").removesuffix(".png")
                shown = tmp_path / "out" / row[side]
                assert shown.read_bytes() == study.image(name_shown).read_bytes()
            row["answer"] = prefers_a(study, row)
        assert 20 <= sum(row["answer"] == "left" for row in rows) <= 49
        orders.append([(row["pair"], row["left"]) for row in rows])
        assert run("import", own, fill(file, rows), "--rater", name) == 0
    assert orders[0] != orders[1]
    assert sorted(orders[0]) != sorted(orders[1])  # sides differ too
    votes = votes_in(own)
    assert {vote.answer for vote in votes} == {"a"}
    assert len(votes) == 2 * 69
    capsys.readouterr()
    assert run("import", own, file, "--rater", "GRACE") == 0
    assert "0 new votes, 69 were there already" in capsys.readouterr().out
    assert run("export", own, "--votes", tmp_path / "v.csv") == 0
    moved = tmp_path / "moved"
    shutil.copytree(study.folder, moved)
    assert run("import", moved, tmp_path / "v.csv") == 0
    assert votes_in(moved) == votes


def test_a_sheet_tells_no_side_and_runs_nothing_in_a_spreadsheet(study, own, tmp_path):
    assert run("export", own, "--out", tmp_path / "o", "--images-at", "https://h/x/") == 0
    rows = rows_of(tmp_path / "o/sheet_001.csv")
    for row in rows:
        assert row["left"].startswith("https://h/x/")
        caption = study.pairs[row["pair"]].caption
        asks = study.pairs[row["pair"]].question == "caption"
        assert row["caption"] == (caption if asks else "")
        assert not {row["left"][-20:-4], row["right"][-20:-4]} - {
            name for pair in study.pairs.values() for name in (pair.a, pair.b)
        }
    from unclip.study.sheets import _harmless

    assert [_harmless(text) for text in ("=1+1", "@x", "+1", "-1", "a=1")] == [
        *("'=1+1", "'@x", "'+1", "'-1", "a=1")
    ]


@pytest.mark.parametrize(("delimiter", "encoding"), [(";", "utf-8-sig"), ("\t", "utf-8")])
def test_what_a_spreadsheet_saves_is_read(study, tmp_path, delimiter, encoding):
    pair = next(iter(study.pairs.values()))
    row = {"Pair": pair.id, "LEFT": f"https://h/{pair.b}.png", "right": pair.a, "Answer": " Left "}
    file = fill(tmp_path / "s.csv", [row, {**row, "Answer": ""}], delimiter, encoding)
    assert read_sheet(study, file, "Ada") == [Vote(pair.id, "Ada", "b", "b")]


def test_bad_sheets_are_refused_with_their_line_and_nothing_is_recorded(
    study, own, tmp_path, capsys
):
    first, second = list(study.pairs.values())[:2]
    row = {"pair": first.id, "left": first.a, "right": first.b, "answer": "left", "rater": "Ada"}
    other = {**row, "pair": second.id, "left": second.a, "right": second.b}
    bad = {
        "answer 'both' must be": {**row, "answer": "both"},
        "pair 'x' is none of": {**row, "pair": "x"},
        "are not the images of pair": {**row, "left": second.a},
        "rater: give a name": {**row, "rater": ""},
        "rater: a name has at most": {**row, "rater": "x" * 99},
        "another answer for pair": {**other, "answer": "right"},
        "are not the images": {**row, "left": f"../../{first.b}"},
    }
    for message, last in bad.items():
        file = fill(tmp_path / "bad.csv", [other, last])
        capsys.readouterr()
        assert run("import", own, file) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert message in line
        assert "line 3" in line
    texts = {
        "needs one column pair": "a,b\n1,2\n",
        "it has none": "",
        "or give --rater NAME": "pair,left,right,answer\n",
        "has 2 fields": "pair,left,right,answer,rater\n1,2\n",
        "is not CSV": 'pair,left,right,answer,rater\n"1"x,2,3,4,5\n',
        "is not UTF-8": b"\xff\xfe",
        "cannot be read": None,
        "no row has an answer": "pair,left,right,answer,rater\nx,y,z,,\n",
    }
    for message, text in texts.items():
        file = tmp_path / "text.csv"
        file.unlink(missing_ok=True)
        if text is not None:
            file.write_bytes(text if isinstance(text, bytes) else text.encode())
        capsys.readouterr()
        assert run("import", own, file) == 2
        [line] = capsys.readouterr().err.splitlines()
        assert message in line
    assert votes_in(own) == []


def test_a_vote_that_contradicts_a_recorded_one_is_refused(study, own, tmp_path):
    pair = next(iter(study.pairs.values()))
    votes = Votes(own / VOTES)
    votes.add([Vote(pair.id, "Ada", "a", "b")])
    row = {"pair": pair.id, "left": pair.a, "right": pair.b, "answer": "left", "rater": "ADA"}
    file = fill(tmp_path / "s.csv", [row])
    assert read_votes(study, votes, [file], None) == [Vote(pair.id, "Ada", "a", "a")]
    assert read_votes(study, votes, [file, file], None) == [Vote(pair.id, "Ada", "a", "a")]
    votes.close()
    fill(file, [{**row, "answer": "unsure"}])
    assert run("import", own, file) == 2
    assert votes_in(own) == [Vote(pair.id, "Ada", "a", "b")]


@pytest.mark.parametrize("name", ["=Ada", "'=Ada", "''+1", "'Ada", "Ada"])
def test_names_that_look_like_formulas_come_back_as_they_were(name, study, own, tmp_path):
    pair = next(iter(study.pairs))
    voted = Vote(pair, name, "a", "b")
    votes = Votes(own / VOTES)
    votes.add([voted])
    votes.close()
    assert run("export", own, "--votes", tmp_path / "v.csv") == 0
    assert not rows_of(tmp_path / "v.csv")[0]["rater"].startswith("=")
    assert run("import", own, tmp_path / "v.csv") == 0
    assert votes_in(own) == [voted]


def test_filled_sheets_are_not_replaced_unasked(own, tmp_path, capsys):
    assert run("export", own, "--out", tmp_path / "o") == 0
    (tmp_path / "o/sheet_001.csv").write_text("filled in")
    assert run("export", own, "--out", tmp_path / "o") == 2
    assert (tmp_path / "o/sheet_001.csv").read_text() == "filled in"
    assert run("export", own, "--out", tmp_path / "o", "--force") == 0
    for words in ((), ("--out", "a", "--votes", "b"), ("--out", "a", "--sheets", 0)):
        capsys.readouterr()
        assert run("export", own, *words) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
