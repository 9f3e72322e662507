"""What votes come to, against figures worked out by hand."""

from __future__ import annotations

import json
import shutil
from random import Random

import pytest

from unclip.cli import main
from unclip.study.questions import QUESTIONS
from unclip.study.report import markdown, page, power_lines
from unclip.study.results import RULE, evaluate_votes, resolved
from unclip.study.study import VOTES
from unclip.study.votes import Vote, Votes


def votes_of(study, rater, answer, question="caption", *, catch=True):
    """A rater's votes; ``answer`` is called with the number of a pair."""
    pairs = study.of(question, catch=False)
    found = [Vote(pair.id, rater, answer(k), "a", 2.0) for k, pair in enumerate(pairs)]
    if catch:
        found += [Vote(pair.id, rater, "a", "b", 2.0) for pair in study.of(question, catch=True)]
    return found


def test_shares_with_ties_both_ways(study):
    votes = votes_of(study, "Ada", lambda k: "a" if k < 12 else "b" if k < 16 else "unsure")
    [found] = evaluate_votes(study, votes).results
    assert (found.a, found.b, found.unsure, found.captions) == (12, 4, 4, 20)
    assert found.half.share == 14 / 20
    assert found.half.margin == pytest.approx(1.96 * (0.7 * 0.3 / 20) ** 0.5)
    assert (found.decided.share, found.decided.n) == (0.75, 16)
    assert found.sign_p == found.holm_p == pytest.approx(2 * 2517 / 2**16)  # of 16, 12 or more
    assert found.low < 0.7 < found.high


def test_the_papers_own_margins_come_from_its_formula(study):
    """Of 1,000 judgements: 70.5 ± 2.8 %."""
    assert round(196 * (0.705 * 0.295 / 1000) ** 0.5, 1) == 2.8
    assert QUESTIONS["diversity"].paper["diffusion prior"] == (70.5, 2.8)


def test_copies_of_one_rater_widen_nothing_but_the_naive_interval(study):
    answer = "aab".__getitem__
    one = votes_of(study, "Ada", lambda k: answer(k % 3))
    four = [vote._replace(rater=f"r{k}") for k in range(4) for vote in one]
    [alone], [copied] = (evaluate_votes(study, votes).results for votes in (one, four))
    assert copied.half.margin == pytest.approx(alone.half.margin / 2)
    assert (copied.low, copied.high) == (alone.low, alone.high)
    assert copied.sign_p == alone.sign_p
    assert copied.agreement.alpha == pytest.approx(1)
    assert alone.agreement.alpha is None


def test_a_preference_is_told_apart_and_a_coin_is_not(study):
    rng = Random(0)
    verdicts = {}
    for name, share in (("a", 1.0), ("b", 0.0), ("coin", 0.5)):
        votes = votes_of(study, "Ada", lambda k, p=share: "a" if rng.random() < p else "b")
        [found] = evaluate_votes(study, votes).results
        verdicts[name] = found.verdict
    assert verdicts == {"a": "a", "b": "b", "coin": "not told apart"}


def test_a_rater_who_fails_the_catch_pairs_is_left_out(study):
    good = votes_of(study, "Ada", lambda k: "a")
    catches = study.of("caption", catch=True)
    careless = votes_of(study, "Bob", lambda k: "b", catch=False)
    failed = [Vote(pair.id, "Bob", "unsure" if k else "a", "a") for k, pair in enumerate(catches)]
    found = evaluate_votes(study, [*good, *careless, *failed])
    assert {rater.name: rater.excluded for rater in found.raters} == {"Ada": False, "Bob": True}
    assert (found.results[0].a, found.results[0].b) == (20, 0)
    few = evaluate_votes(study, [*good, *careless, *failed[:2]])
    assert not any(rater.excluded for rater in few.raters)  # two say too little
    assert (few.results[0].a, few.results[0].b) == (20, 20)


def test_holm_corrects_for_the_questions_asked(study):
    votes = [
        *votes_of(study, "Ada", lambda k: "a", "caption"),
        *votes_of(study, "Ada", lambda k: "ab"[k % 2], "diversity"),
    ]
    found = {each.question: each for each in evaluate_votes(study, votes).results}
    assert found["caption"].holm_p == 2 * found["caption"].sign_p
    assert found["diversity"].holm_p == found["diversity"].sign_p == 1


def test_strange_votes_are_counted_and_one_caption_has_no_interval(study):
    first = votes_of(study, "Ada", lambda k: "unsure")[:1]
    found = evaluate_votes(study, [*first, Vote("nowhere", "Ada", "a", "a")])
    assert found.unknown == 1
    [result] = found.results
    assert (result.low, result.decided, result.verdict) == (None, None, "not told apart")


def test_what_so_many_judgements_tell():
    """As of 1,000 judgements: 4.4 points; and how many for 5."""
    assert resolved(1000) == pytest.approx(0.0443, abs=2e-4)
    assert resolved(1) is None
    assert "783 for 55 %" in power_lines(100, None)[1]


def test_where_everybody_is_left_out_the_report_says_so(study):
    catches = study.of("caption", catch=True)
    votes = [Vote(pair.id, "Bob", "b", "a") for pair in catches]
    found = evaluate_votes(study, [*votes, *votes_of(study, "Bob", lambda k: "a", catch=False)])
    assert found.results == []
    for shown in (markdown(found), page(found)):
        assert "No votes but those" in shown
        assert "Raters left out: Bob." in shown


def test_the_report_is_printed_written_and_machine_readable(study, tmp_path, capsys):
    folder = tmp_path / "s"
    shutil.copytree(study.folder, folder)
    assert main(["study", "report", str(folder)]) == 2
    assert "nobody has voted yet" in capsys.readouterr().err
    name = "<b>|Ada|</b>"
    votes = Votes(folder / VOTES)
    for question in study.questions:
        votes.add(votes_of(study, name, lambda k: "a", question))
    votes.close()
    assert main(["study", "report", str(folder), "--json", "--out", str(tmp_path / "r")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["verdict"] for each in found["results"]] == ["a"] * 3
    assert found["raters"][0]["catches"] == found["raters"][0]["caught"] == 9
    page = (tmp_path / "r/report.html").read_text()
    text = (tmp_path / "r/report.md").read_text()
    for shown in (page, text):
        assert name not in shown
        assert "70.5 ± 2.8 %" in shown
        assert "100.0 ± 0.0 %" in shown
    assert RULE.split(",")[0] in page
    assert "&lt;b&gt;|Ada|&lt;/b&gt;" in page
    assert main(["study", "report", str(folder)]) == 0
    said = capsys.readouterr().out
    assert "Preference for A:" in said
    assert "Krippendorff" in said
