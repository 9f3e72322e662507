"""What the page asks: who a rater is, what comes next, and what to record."""

from __future__ import annotations

import threading
from typing import Any

from unclip.study.order import Order, arm_on, left_arm
from unclip.study.questions import QUESTIONS, SIDES, UNSURE
from unclip.study.study import Pair, Study
from unclip.study.votes import Vote, Votes, name_of_rater

MOST_RATERS = 10_000
LONGEST = 24 * 3600.0  # seconds over one pair


class Refused(Exception):
    """A request is answered by a status and one line."""

    def __init__(self, status: int, line: str):
        super().__init__(line)
        self.status = status


class Desk:
    """Answers for one study; may be called from several threads.

    Args:
        study: The study.
        votes: Its votes.
        enough: Votes after which a pair is not handed out any more; None for never.
    """

    def __init__(self, study: Study, votes: Votes, enough: int | None = None):
        self._study, self._votes, self._enough = study, votes, enough
        self._orders: dict[str, Order] = {}
        self._lock = threading.Lock()

    def enter(self, name: Any, code: Any) -> tuple[str, dict[str, Any]]:
        """A rater's secret code and what comes next; of a new name, or with the code of a known.

        Raises:
            Refused: the name cannot be one, or is somebody else's.
        """
        try:
            name = name_of_rater(name if isinstance(name, str) else "")
        except ValueError as error:
            raise Refused(400, f"{str(error).capitalize()}.") from None
        if code:
            code = "".join(str(code).split()).lower()
            known = self._votes.rater_of(code)
            if known is None or known.casefold() != name.casefold():
                raise Refused(403, "This is not the code of that name.")
            return code, self.state(code)
        if len(self._votes.raters()) >= MOST_RATERS:
            raise Refused(429, "Too many raters.")
        new = self._votes.add_rater(name)
        if new is None:
            raise Refused(
                409,
                "That name has been taken. If it is yours, enter your code; else choose another.",
            )
        return new, self.state(new)

    def state(self, code: str | None) -> dict[str, Any]:
        """What the page shows: the rater, the next pairs, and how far this is."""
        name = self._votes.rater_of(code) if code else None
        if name is None:
            return {"rater": None, "questions": [QUESTIONS[q].ask for q in self._study.questions]}
        votes = [vote for vote in self._votes.of(name) if vote.pair in self._study.pairs]
        voted, counts = [vote.pair for vote in votes], self._votes.counts()
        order = self._order(name)
        last = votes[-1] if votes else None
        return {
            "rater": name,
            "code": code,
            "done": len(voted),
            "total": len(voted) + order.left(voted, counts),
            "pairs": [self._shown(name, pair) for pair in order.upcoming(voted, counts)],
            "last": last and self._said(name, last),
        }

    def vote(self, code: str | None, body: dict[str, Any]) -> dict[str, Any]:
        """Record a vote; what comes next.

        Raises:
            Refused: nobody is known by that code, or it is not a vote of this study.
        """
        name = self._votes.rater_of(code) if code else None
        if name is None:
            raise Refused(401, "Enter your name first.")
        if body.get("rater", name) != name:
            raise Refused(409, "Somebody else votes in this browser now; load the page again.")
        pair = self._study.pairs.get(str(body.get("pair")))
        if pair is None:
            raise Refused(404, "There is no such pair in this study.")
        answer: Any = body.get("answer")
        seconds: Any = body.get("seconds")
        if answer not in (*SIDES, UNSURE):
            raise Refused(400, "An answer is left, right or unsure.")
        if type(seconds) not in (int, float) or not 0 <= seconds <= LONGEST:
            seconds = None
        left = left_arm(self._study, name, pair)
        said = UNSURE if answer == UNSURE else arm_on(answer, left)
        self._votes.add([Vote(pair.id, name, said, left, seconds)])
        return self.state(code)

    def _order(self, name: str) -> Order:
        with self._lock:
            if name not in self._orders:
                self._orders[name] = Order(self._study, name, self._enough)
            return self._orders[name]

    def _shown(self, name: str, pair: Pair) -> dict[str, Any]:
        """What a rater may know of a pair."""
        question, left = QUESTIONS[pair.question], left_arm(self._study, name, pair)
        return {
            "id": pair.id,
            "ask": question.ask,
            "caption": pair.caption if question.shows_caption else None,
            "grid": question.images > 1,
            **{side: pair.image(arm_on(side, left)) for side in SIDES},
        }

    def _said(self, name: str, vote: Vote) -> dict[str, Any]:
        """A pair that has been judged, and how."""
        pair = self._study.pairs[vote.pair]
        side = "left" if vote.answer == left_arm(self._study, name, pair) else "right"
        answer = UNSURE if vote.answer == UNSURE else side
        return self._shown(name, pair) | {"answer": answer}
