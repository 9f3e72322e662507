"""What raters said, in SQLite: a row per rater and pair, so that a vote sent twice counts once.

Whoever votes on the page has a secret code, of which the file holds the hash.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import threading
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from unclip.common.errors import UserError
from unclip.study.questions import ARMS, UNSURE

ANSWERS = (*ARMS, UNSURE)
LONGEST_NAME = 60
PATIENCE = 5.0  # seconds to wait while another process writes
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # none that look alike
_CODE = 12  # letters: 59 bits
_TABLES = """
CREATE TABLE IF NOT EXISTS raters (name TEXT PRIMARY KEY, code TEXT UNIQUE, at TEXT NOT NULL)
  WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS votes (
  pair TEXT NOT NULL, rater TEXT NOT NULL REFERENCES raters (name),
  answer TEXT NOT NULL CHECK (answer IN ('a', 'b', 'unsure')),
  left_arm TEXT NOT NULL CHECK (left_arm IN ('a', 'b')),
  seconds REAL, at TEXT NOT NULL,
  PRIMARY KEY (pair, rater)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_COLUMNS = {
    "pair, rater, answer, left_arm, seconds, at": "votes",
    "name, code, at": "raters",
    "name, value": "settings",
}


class Vote(NamedTuple):
    """What a rater said of a pair."""

    pair: str
    rater: str
    answer: str  # of `ANSWERS`
    left: str  # the arm that was on the left side
    seconds: float | None = None  # from seeing to answering


class Busy(UserError):
    """Another process holds the file; the same call may go through later."""


def name_of_rater(text: str) -> str:
    """A rater's name as it is kept.

    Raises:
        ValueError: it is empty, too long, or has characters that do not print.
    """
    name = " ".join(unicodedata.normalize("NFC", text).split())
    if not name:
        raise ValueError("give a name")
    if len(name) > LONGEST_NAME:
        raise ValueError(f"a name has at most {LONGEST_NAME} letters")
    if not name.isprintable():
        raise ValueError("the name has characters that do not print")
    return name


class Votes:
    """The file of a study's votes.

    Args:
        path: Is made if it is not there.
        read_only: Nothing is written; a file that is not there has no votes.

    Raises:
        UserError: it is damaged, or cannot be written.
    """

    def __init__(self, path: Path, *, read_only: bool = False):
        self._path, self._lock = path, threading.RLock()
        self._empty = read_only and not path.exists()
        name = ":memory:" if self._empty else str(path)
        try:
            self._open = sqlite3.connect(
                name, timeout=PATIENCE, isolation_level=None, check_same_thread=False
            )
            if not read_only:
                self._open.execute("PRAGMA journal_mode = WAL")
                self._open.execute("PRAGMA synchronous = FULL")  # what is confirmed is on the disk
            self._open.execute("PRAGMA foreign_keys = ON")
            if self._empty or not read_only:
                self._open.executescript(_TABLES)
            for columns, table in _COLUMNS.items():
                self._open.execute(f"SELECT {columns} FROM {table} LIMIT 1").fetchone()
        except sqlite3.OperationalError as error:
            if str(error).startswith("no such "):
                raise self._damaged(str(error)) from None
            raise UserError(
                f"{path}: {error}; another program may be using it, or the folder is read-only"
            ) from None
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from None

    def close(self) -> None:
        """Write all into the one file."""
        with self._lock:
            self._open.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """All or nothing. Raises `Busy`."""
        with self._lock:
            try:
                self._open.execute("BEGIN IMMEDIATE")
                yield self._open
                self._open.execute("COMMIT")
            except sqlite3.OperationalError as error:
                raise self._busy(error) from None
            finally:
                if self._open.in_transaction:
                    self._open.execute("ROLLBACK")

    def _rows(self, query: str, *values: str) -> list[tuple]:
        with self._lock:
            try:
                return self._open.execute(query, values).fetchall()
            except sqlite3.OperationalError as error:
                raise self._busy(error) from None
            except sqlite3.DatabaseError as error:
                raise self._damaged(str(error)) from None

    def _busy(self, error: sqlite3.Error) -> Busy:
        return Busy(f"{self._path}: {error}; another program may be using it, or the disk is full")

    def _damaged(self, what: str) -> UserError:
        return UserError(
            f"{self._path}: damaged ({what}); restore a copy, or move it away to start without "
            "votes"
        )

    def _votes(self, query: str, *values: str) -> list[Vote]:
        """Rows that are votes.

        Raises:
            UserError: another program has written one that is none.
        """
        found = [Vote(*row) for row in self._rows(query, *values)]
        for vote in found:
            known = vote.answer in ANSWERS and vote.left in ARMS
            texts = isinstance(vote.pair, str) and isinstance(vote.rater, str)
            if not (known and texts and isinstance(vote.seconds, (int, float, type(None)))):
                raise self._damaged(f"no vote: {str(tuple(vote))[:100]}")
        return found

    def setting(self, name: str, otherwise: str) -> str:
        """A value that is kept; ``otherwise`` becomes it where there is none."""
        with self._writing() as opened:
            opened.execute("INSERT OR IGNORE INTO settings VALUES (?, ?)", (name, otherwise))
        return self._rows("SELECT value FROM settings WHERE name = ?", name)[0][0]

    def add_rater(self, name: str) -> str | None:
        """The new rater's secret code; None if there is a rater of that name."""
        code = "".join(secrets.choice(_ALPHABET) for _ in range(_CODE))
        known = {each.casefold() for each in self.raters()}
        with self._writing() as opened:
            if name.casefold() in known:
                return None
            row = (name, _hash(code), _now())
            added = opened.execute("INSERT OR IGNORE INTO raters VALUES (?, ?, ?)", row)
            return code if added.rowcount else None

    def raters(self) -> list[str]:
        """All names."""
        return [name for (name,) in self._rows("SELECT name FROM raters ORDER BY at, name")]

    def rater_of(self, code: str) -> str | None:
        """Whose secret code it is."""
        rows = self._rows("SELECT name FROM raters WHERE code = ?", _hash(code))
        return rows[0][0] if rows else None

    def add(self, votes: Iterable[Vote]) -> int:
        """Record votes, all or none; the last of a rater on a pair counts. How many were new."""
        before = self._total()
        with self._writing() as opened:
            for vote in votes:
                row = (vote.rater, None, _now())
                opened.execute("INSERT OR IGNORE INTO raters VALUES (?, ?, ?)", row)
                opened.execute(
                    "INSERT INTO votes VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (pair, rater) DO "
                    "UPDATE SET answer = excluded.answer, left_arm = excluded.left_arm, "
                    "seconds = excluded.seconds, at = excluded.at",
                    (vote.pair, vote.rater, vote.answer, vote.left, vote.seconds, _now()),
                )
        return self._total() - before

    def _total(self) -> int:
        return self._rows("SELECT count(*) FROM votes")[0][0]

    def of(self, rater: str) -> list[Vote]:
        """A rater's, the earliest first."""
        query = "SELECT pair, rater, answer, left_arm, seconds FROM votes WHERE rater = ?"
        return self._votes(f"{query} ORDER BY at, pair", rater)

    def all(self) -> list[Vote]:
        """Of every rater."""
        query = "SELECT pair, rater, answer, left_arm, seconds FROM votes ORDER BY rater, pair"
        return self._votes(query)

    def counts(self) -> Counter[str]:
        """Votes by pair."""
        return Counter(dict(self._rows("SELECT pair, count(*) FROM votes GROUP BY pair")))


def _hash(code: str) -> str:
    """Of a secret that nobody could guess, so that a plain hash suffices."""
    return hashlib.sha256(code.encode(errors="replace")).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
