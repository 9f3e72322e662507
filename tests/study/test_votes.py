"""Votes on the disk."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3

import pytest

from unclip.common.errors import UserError
from unclip.study import votes as module
from unclip.study.votes import Busy, Vote, Votes, name_of_rater


@pytest.fixture
def votes(tmp_path):
    found = Votes(tmp_path / "v.sqlite")
    yield found
    found.close()


def test_a_vote_sent_twice_counts_once_and_the_last_answer_stands(votes):
    vote = Vote("p", "Ada", "a", "b", 1.5)
    assert [votes.add([vote]) for _ in range(2)] == [1, 0]
    assert votes.all() == [vote]
    assert votes.add([vote._replace(answer="unsure")]) == 0
    assert votes.all() == [vote._replace(answer="unsure")]
    assert votes.add([vote._replace(rater="Grace")]) == 1
    assert votes.counts() == {"p": 2}


def test_all_votes_or_none(votes):
    with pytest.raises(sqlite3.IntegrityError):
        votes.add([Vote("p", "Ada", "a", "b"), Vote("q", "Ada", "neither", "b")])
    assert votes.all() == []
    assert votes.add([Vote("q", "Ada", "b", "b")]) == 1


def test_a_name_belongs_to_who_came_first_and_their_code_alone_opens_it(votes):
    code = votes.add_rater("Ada")
    assert code is not None
    assert votes.add_rater("Ada") is None
    assert votes.add_rater("ADA") is None
    assert votes.rater_of(code) == "Ada"
    assert [votes.rater_of(other) for other in ("", "x", code[:-1], code + " ")] == [None] * 4
    assert code.encode() not in b"".join(p.read_bytes() for p in votes._path.parent.iterdir())


@pytest.mark.parametrize("name", ["", "  ", "\t", "a" * 61, "a\x00b", "\u202eab", "\x1b[2J"])
def test_no_name(name):
    with pytest.raises(ValueError, match="name"):
        name_of_rater(name)


def test_a_name_is_kept_in_one_form():
    assert name_of_rater("  Ada   Lovelace ") == "Ada Lovelace"
    assert name_of_rater("e\u0301") == "\u00e9"


def test_while_another_process_writes_nothing_is_lost_or_half_done(votes, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 0.01)
    quick = Votes(tmp_path / "v.sqlite")
    other = sqlite3.connect(tmp_path / "v.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Busy):
        quick.add([Vote("p", "Ada", "a", "b")])
    other.execute("COMMIT")
    other.close()
    assert quick.add([Vote("p", "Ada", "a", "b")]) == 1
    quick.close()


def _vote_and_die(path):
    Votes(path).add([Vote("p", "Ada", "a", "b")])
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_vote_that_was_added_survives_a_kill(tmp_path):
    process = multiprocessing.get_context("fork").Process(
        target=_vote_and_die, args=(tmp_path / "v.sqlite",)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    again = Votes(tmp_path / "v.sqlite")
    assert again.all() == [Vote("p", "Ada", "a", "b")]
    again.close()


def test_a_damaged_file_is_named_and_kept(tmp_path):
    (tmp_path / "v.sqlite").write_bytes(b"no database at all" * 99)
    for read_only in (True, False):
        with pytest.raises(UserError, match=r"v\.sqlite: damaged"):
            Votes(tmp_path / "v.sqlite", read_only=read_only)
    assert (tmp_path / "v.sqlite").read_bytes().startswith(b"no database")


@pytest.mark.parametrize(
    "values", [("'x'", "'a'", "1"), ("'a'", "NULL", "1"), ("'b'", "'a'", "'long'")]
)
def test_what_another_program_wrote_and_is_no_vote_is_named(values, votes, tmp_path):
    votes.add([Vote("p", "Ada", "a", "b")])
    other = sqlite3.connect(tmp_path / "v.sqlite", isolation_level=None)
    other.execute("CREATE TABLE loose AS SELECT * FROM votes")
    other.execute("DROP TABLE votes")
    other.execute("ALTER TABLE loose RENAME TO votes")
    other.execute("INSERT INTO votes VALUES ('q', 'Bob', {}, {}, {}, 'now')".format(*values))
    other.close()
    with pytest.raises(UserError, match=r"v\.sqlite: damaged \(no vote: \('q', 'Bob', "):
        votes.all()
    assert votes.of("Ada") == [Vote("p", "Ada", "a", "b")]


def test_a_database_of_something_else_is_named(tmp_path):
    other = sqlite3.connect(tmp_path / "v.sqlite")
    other.execute("CREATE TABLE votes (x)")
    other.close()
    for read_only in (True, False):
        with pytest.raises(UserError, match=r"v\.sqlite: damaged \(no such "):
            Votes(tmp_path / "v.sqlite", read_only=read_only)


def test_a_file_that_is_damaged_further_on_is_named(tmp_path):
    path = tmp_path / "v.sqlite"
    whole = Votes(path)
    whole.add([Vote(f"pair {k}", f"rater {k % 9}", "a", "b") for k in range(3000)])
    whole.close()
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) - 8192] = b"\xa5" * (len(data) - 8192 - len(data) // 2)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"v\.sqlite: damaged"):
        Votes(path, read_only=True).all()


def test_reading_makes_no_file(tmp_path):
    found = Votes(tmp_path / "v.sqlite", read_only=True)
    assert found.all() == []
    found.close()
    assert list(tmp_path.iterdir()) == []
