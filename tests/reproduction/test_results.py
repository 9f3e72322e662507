"""Planted effects in made-up records are found through to the verdict; nulls are not."""

from dataclasses import replace

import numpy as np
import pytest

from unclip.reproduction.evaluations import Kept
from unclip.reproduction.preset import load_claims
from unclip.reproduction.results import judged, result_of
from unclip.reproduction.values import VALUES

CLAIMS = load_claims()


def images(rng, n, share):
    return [{"images": [{"right": bool(rng.random() < share)}]} for _ in range(n)]


def kept(*runs):
    return [Kept(list(records), None, 1.0, 1.0) for records in runs]


def verdict_of(key, arms, claim=None):
    claim = claim or CLAIMS[key]
    (found,) = judged([result_of(key, claim, arms)], {key: claim})
    return found


def test_a_planted_difference_of_a_cascade_is_found_by_pairs():
    rng = np.random.default_rng(0)
    found = verdict_of(
        "prior-over-z_t",
        {"prior": kept(images(rng, 300, 0.9)), "z_t": kept(images(rng, 300, 0.7))},
    )
    assert found.verdict == "holds"
    assert "McNemar" in found.estimate.method
    assert found.arms["prior"] - found.arms["z_t"] == pytest.approx(found.estimate.effect)
    reverse = {"prior": kept(images(rng, 300, 0.7)), "z_t": kept(images(rng, 300, 0.9))}
    assert verdict_of("prior-over-z_t", reverse).verdict == "fails"


def test_no_difference_and_few_captions_are_not_told_apart():
    rng = np.random.default_rng(1)
    null = {"prior": kept(images(rng, 300, 0.8)), "z_t": kept(images(rng, 300, 0.8))}
    assert verdict_of("prior-over-z_t", null).verdict == "not told apart"
    few = {"prior": kept(images(rng, 12, 1.0)), "z_t": kept(images(rng, 12, 0.0))}
    found = verdict_of("prior-over-z_t", few)
    assert found.verdict == "not told apart"
    assert "12 captions" in found.notes[-1]


def test_a_method_needs_runs_and_captions_of_one_run_are_none():
    rng = np.random.default_rng(2)
    one = {"stack": kept(images(rng, 400, 0.9)), "text": kept(images(rng, 400, 0.5))}
    found = verdict_of("text-decoder", one)
    assert found.verdict == "not told apart"
    assert "one run an arm" in found.notes[0]
    three = {
        "stack": kept(*(images(rng, 400, 0.9) for _ in range(3))),
        "text": kept(*(images(rng, 400, 0.5) for _ in range(3))),
    }
    found = verdict_of("text-decoder", three)
    assert (found.verdict, found.estimate.n, found.estimate.method) == ("holds", 3, "paired t")


def test_a_trend_and_slopes_are_found():
    rng = np.random.default_rng(3)
    arms = {f"k{k}": kept(images(rng, 150, k / 6)) for k in range(1, 6)}
    assert verdict_of("pca-coarse-to-fine", arms).verdict == "holds"

    def open_images(kinds):
        seen = [{"seen": {"background": int(rng.integers(kinds))}} for _ in range(8)]
        return {"said": ["place", "size"], "images": seen}

    kinds = [9, 9, 9, 9, 4, 1]
    arms = {str(k): kept([open_images(n) for _ in range(60)]) for k, n in enumerate(kinds)}
    found = verdict_of("guidance-and-diversity", arms)
    assert found.verdict == "holds"
    assert found.estimate.effect > 0.5  # GLIDE's slope is more negative


def test_holm_counts_the_claims_that_were_tested():
    rng = np.random.default_rng(5)
    a, b = images(rng, 300, 0.9), images(rng, 300, 0.82)
    alone = result_of("prior-over-z_t", CLAIMS["prior-over-z_t"], {"a": kept(a), "b": kept(b)})
    assert alone.estimate.p < 0.05
    null = [
        replace(alone, claim=key, estimate=replace(alone.estimate, p=0.04))
        for key in list(CLAIMS)[1:]
    ]
    found = judged([alone, *null], CLAIMS)[0]
    assert found.p == pytest.approx(min(1, len(CLAIMS) * alone.estimate.p))
    assert found.verdict == "not told apart"
    assert "not among so many claims" in found.notes[-1]


def test_a_plain_effect_survives_the_correction_for_all_claims():
    """A bootstrap's p is never below 2 of its draws, which Holm multiplies by the claims."""
    rng = np.random.default_rng(6)
    arms = {
        "word": kept([{"label": x} for x in rng.normal(0.2, 0.1, 50)]),
        "plain": kept([{"label": x} for x in rng.normal(0.8, 0.1, 50)]),
    }
    p = result_of("typographic", CLAIMS["typographic"], arms).estimate.p
    assert p * len(CLAIMS) < 0.02

    def open_images(kinds):
        return {"said": ["place", "size"], "images": [{"seen": {"background": k}} for k in kinds]}

    kinds = [range(8)] * 4 + [[0] * 4 + [1, 2, 3, 4], [0] * 8]
    noisy = [[open_images([*k][: 8 - i % 2]) for i in range(60)] for k in kinds]
    slopes = {name: kept(some) for name, some in zip(CLAIMS["guidance-and-diversity"].arms, noisy)}
    claim = CLAIMS["guidance-and-diversity"]
    assert result_of("guidance-and-diversity", claim, slopes).estimate.p * len(CLAIMS) < 0.02


def test_what_could_not_be_judged_says_why():
    refused = [Kept([], None, 0.0, 0.0, "the decoder reads no captions")]
    found = verdict_of("prior-over-caption", {"prior": refused, "caption": refused})
    assert (found.verdict, found.estimate) == (None, None)
    assert found.notes == ("the decoder reads no captions",)


def test_values_are_what_they_say():
    record = {
        "said": ["size"],
        "scene": {"place": "top", "size": "large"},
        "images": [
            {"right": True, "binding": "right", "seen": {"background": "tan", "place": "top"}},
            {"right": False, "binding": "exchanged", "seen": {"background": "tan", "place": "top"}},
            {"right": False, "binding": "neither", "seen": {"background": "grey", "place": "top"}},
            {"right": False, "binding": "right", "seen": {"background": "grey", "place": "top"}},
        ],
    }
    assert VALUES["right"].row(record) == [0.25]
    assert VALUES["binding"].row(record) == [2, 3]
    assert VALUES["binding"].reduce(np.array([[2, 3], [0, 1]])) == 0.5
    assert VALUES["diversity"].row(record)[0] == pytest.approx(np.log(2) + 1 / 8)
    z = np.random.default_rng(0).normal(size=(4000, 6)) * [1, 1, 1, 0, 0, 0]
    assert VALUES["rank"].reduce(z) == pytest.approx(3, abs=0.01)
    same = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert VALUES["distance"].reduce(same) == 0
    assert VALUES["distance"].reduce(np.array([[0.0, 5.0], [-1.0, 6.0]])) == 1


def test_arms_of_different_captions_are_no_pairs_and_repeated_captions_are_counted():
    rng = np.random.default_rng(7)
    records = [{"caption": f"a {k % 10}", **one} for k, one in enumerate(images(rng, 60, 0.5))]
    found = verdict_of("prior-over-z_t", {"prior": kept(records), "z_t": kept(records)})
    assert "60 held-out images of 10 different captions" in found.notes
    moved = records[1:] + records[:1]
    found = verdict_of("prior-over-z_t", {"prior": kept(records), "z_t": kept(moved)})
    assert found.verdict is None
    assert "different captions" in found.notes[0]
