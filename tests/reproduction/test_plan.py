"""What a budget buys, and which folders runs get."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest

from unclip.common.errors import UserError
from unclip.reproduction.arms import check_overrides, plan_runs
from unclip.reproduction.preset import load_claims, load_preset
from unclip.reproduction.sizes import FEWEST, choose_sizes, runs_needed, told_apart


@pytest.fixture(scope="module")
def preset():
    return load_preset("cpu")


@pytest.fixture(scope="module")
def claims():
    return load_claims()


def test_a_smaller_budget_does_less_and_keeps_to_it(preset, claims):
    whole = choose_sizes(preset, claims, None)
    assert (whole.share, whole.captions, whole.seeds) == (1.0, 1.0, preset.seeds)
    assert choose_sizes(preset, claims, whole.hours) == whole
    before = whole
    for hours in (0.8 * whole.hours, 0.3 * whole.hours, 1, 0.5):
        sizes = choose_sizes(preset, claims, hours)
        assert sizes.hours <= hours
        assert sizes.seeds <= before.seeds
        assert 0 < sizes.share <= 1
        before = sizes
    assert before.seeds == 1
    assert choose_sizes(preset, claims, 0.2).n(claims["binding"]) == FEWEST


def test_two_runs_of_an_arm_tell_nothing_so_three_are_trained_or_one(preset, claims):
    found = {choose_sizes(preset, claims, hours / 10).seeds for hours in range(3, 60)}
    assert found == {1, 3}
    many = {choose_sizes(replace(preset, seeds=4), claims, h / 10).seeds for h in range(3, 90)}
    assert many == {1, 3, 4}
    assert choose_sizes(replace(preset, seeds=2), claims, None).seeds == 2  # as its author says


def test_what_is_trained_already_leaves_all_the_time_to_judging(preset, claims):
    trained = choose_sizes(preset, claims, 1, train=False)
    assert trained.captions > choose_sizes(preset, claims, 1).captions
    assert (trained.share, trained.seeds) == (1.0, 1)


def test_only_what_a_claim_needs_is_trained(preset, claims):
    some = {key: claims[key] for key in ("sam-rank", "two-candidates")}
    found = runs_needed(preset, some, 2)
    assert sorted(found) == [
        ("clip", 0),
        ("clip", 1),
        ("clip_sam", 0),
        ("clip_sam", 1),
        ("prior", 0),
    ]
    assert found.index(("clip", 0)) < found.index(("prior", 0))


def test_what_the_cheapest_claim_needs_is_trained_first(preset, claims):
    order = runs_needed(preset, claims, 2)
    places = [order.index((name, 0)) for name in ("clip", "prior", "prior_ar", "decoder_glide")]
    assert places == sorted(places)
    assert order[0] == ("clip", 0)  # of the typographic attack
    for name, seed in order:
        for parent in preset.trainings[name].parents.values():
            assert order.index((parent, seed)) < order.index((name, seed))


def test_the_order_of_the_file_is_none_of_training(preset, claims):
    alone = {name: runs_needed(preset, {name: claim}, 2) for name, claim in claims.items()}
    cost = {
        name: sum(preset.trainings[run].minutes for run, _ in runs) for name, runs in alone.items()
    }
    for more, less in itertools.permutations(claims, 2):
        if cost[less] < cost[more]:
            both = runs_needed(preset, {name: claims[name] for name in (more, less)}, 2)
            assert both[: len(alone[less])] == alone[less]


def test_what_will_be_told_is_said_before(preset, claims):
    whole, small = choose_sizes(preset, claims, None), choose_sizes(preset, claims, 0.2)
    assert told_apart(claims["two-candidates-drawn"], whole) == "6 points"
    assert told_apart(claims["binding"], small).startswith("nothing of the method")
    assert "spread" in told_apart(claims["binding"], whole)


def folders(preset, sizes, *, overrides=(), **changes):
    trainings = dict(preset.trainings)
    for name, words in changes.items():
        before = trainings[name]
        trainings[name] = type(before)(**{**vars(before), "overrides": [*before.overrides, *words]})
    changed = type(preset)(**{**vars(preset), "trainings": trainings})
    keys = [(n, 0) for n in ("clip", "upsampler", "prior")]
    runs = plan_runs(changed, keys, sizes, Path("out"), given={}, overrides=overrides)
    return {name: run.folder.name for (name, _), run in runs.items()}


def test_a_change_of_an_arm_renames_it_and_what_depends_on_it_alone(preset, claims):
    sizes = choose_sizes(preset, claims, 0.2)
    before = folders(preset, sizes)

    def changed(**changes):
        after = folders(preset, sizes, **changes)
        return {name for name in before if after[name] != before[name]}

    assert changed(prior=["optim.weight_decay=1e-3"]) == {"prior"}
    assert changed(clip=["optim.lr=2e-3"]) == {"clip", "prior"}
    assert changed(overrides=["tracking.wandb=true"]) == set()  # where it is logged is no change


def test_overrides_that_nothing_has_are_refused(preset):
    check_overrides(preset, ["trainer.precision=bf16-mixed", "data.source=photos.tar"])
    with pytest.raises(UserError, match=r"^optim\.lrr: no training here has this field; did you"):
        check_overrides(preset, ["optim.lrr=1"])
    with pytest.raises(UserError, match=r"^trainer\.seed: the preset has the seeds"):
        check_overrides(preset, ["trainer.seed=1"])


def test_overrides_that_would_make_arms_alike_are_refused(preset):
    with pytest.raises(UserError, match=r"^model\.use_z_i: the preset sets it for decoder_glide"):
        check_overrides(preset, ["model.use_z_i=true"])
    with pytest.raises(UserError, match=r"^optim\.sam_rho: the preset sets it for clip_sam"):
        check_overrides(preset, ["optim.sam_rho=0"])


@pytest.mark.parametrize(
    ("of_all", "of_one", "says"),
    [
        (["data.val_sample=8"], [], r"overrides: data\.val_sample: no training here has"),
        (["trainer.seed=3"], [], r"overrides: trainer\.seed: the preset has the seeds"),
        ([], ["trainer.max_step=3"], r"trainings\.clip\.overrides: trainer\.max_step: unknown"),
    ],
)
def test_overrides_of_a_preset_that_nothing_has_are_refused(preset, of_all, of_one, says):
    clip = replace(preset.trainings["clip"], overrides=of_one)
    other = replace(preset, overrides=of_all, trainings=preset.trainings | {"clip": clip})
    with pytest.raises(UserError, match=f"^the preset's {says}"):
        check_overrides(other, [])
