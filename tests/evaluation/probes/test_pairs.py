"""Binding and relations: the renderer's own images score all or nothing."""

from dataclasses import replace
from math import comb

import pytest

from unclip.common.errors import UserError
from unclip.data.scenes.render import COLOURS, draw
from unclip.evaluation.probes.pairs import (
    binding_outcomes,
    binding_records,
    relation_outcomes,
    relation_records,
)
from unclip.evaluation.probes.prompts import (
    RELATIONS,
    binding_prompts,
    exchanged,
    relation_prompts,
    stacked_prompts,
)

SHAPES = ["circle", "square", "triangle", "star", "cross", "heart"]
N = 16


def mirrored(scene):
    a, b = scene.items
    return replace(scene, items=(replace(a, x=b.x, y=b.y), replace(b, x=a.x, y=a.y)))


def pictures(prompts, change=lambda scene: scene):
    return [draw(change(prompt.scene), 64) for prompt in prompts]


def shares(records):
    return {record["images"]: record["share"] for record in records}


def test_true_images_bind_all_colours():
    prompts = binding_prompts(N, 0, SHAPES)
    outcomes = binding_outcomes(prompts, pictures(prompts))
    assert outcomes == ["right"] * N
    assert list(shares(binding_records(prompts, outcomes, SHAPES)).values()) == [1, 0, 1]


def test_exchanged_colours_bind_none():
    prompts = binding_prompts(N, 0, SHAPES)
    outcomes = binding_outcomes(prompts, pictures(prompts, exchanged))
    assert outcomes == ["exchanged"] * N
    assert list(shares(binding_records(prompts, outcomes, SHAPES)).values()) == [0, 1, 0]


def test_one_object_alone_is_neither():
    prompts = binding_prompts(4, 0, SHAPES)
    lone = pictures(prompts, lambda scene: replace(scene, items=scene.items[:1]))
    outcomes = binding_outcomes(prompts, lone)
    assert outcomes == ["neither"] * 4
    assert list(shares(binding_records(prompts, outcomes, SHAPES)).values()) == [0, 0, None]


def test_true_images_relate_as_asked():
    prompts = relation_prompts(N, 0, SHAPES)
    outcomes = relation_outcomes(prompts, pictures(prompts))
    assert outcomes == ["right"] * N
    found = relation_records(prompts, outcomes, SHAPES)
    assert [r["n"] for r in found] == [4, 4, 4, 4, N, N]
    assert set(shares(found).values()) == {1.0}


def test_objects_in_each_others_places_are_elsewhere():
    prompts = relation_prompts(N, 0, SHAPES)
    outcomes = relation_outcomes(prompts, pictures(prompts, mirrored))
    assert outcomes == ["elsewhere"] * N
    assert set(shares(relation_records(prompts, outcomes, SHAPES)).values()) == {0.0}


def test_exchanged_colours_are_other_objects():
    prompts = relation_prompts(N, 0, SHAPES)
    outcomes = relation_outcomes(prompts, pictures(prompts, exchanged))
    assert outcomes == ["other objects"] * N
    assert relation_records(prompts, outcomes, SHAPES)[-1]["n"] == 0


def test_captions_come_with_their_exchange_and_say_the_truth():
    for first, second in zip(*[iter(binding_prompts(N, 1, SHAPES))] * 2):
        assert second.scene == exchanged(first.scene)
        a, b = first.scene.items
        assert {a.colour, b.colour}.isdisjoint({first.scene.background})
        assert len({a.colour, b.colour, a.shape, b.shape}) == 4
        for item in (a, b):
            assert f"{item.colour} {item.shape}" in first.caption
    for first, second in zip(*[iter(relation_prompts(N, 1, SHAPES))] * 2):
        assert first.scene.relation == second.scene.relation
        one, other = first.caption.split(f" {first.scene.relation} ")
        assert second.caption == f"{other} {first.scene.relation} {one}"
    assert [p.scene.relation for p in relation_prompts(8, 0, SHAPES)[::2]] == list(RELATIONS)


def test_the_papers_cubes_are_squares_one_above_the_other():
    (prompt,) = stacked_prompts(1, SHAPES)
    assert prompt.caption == "a red square above a blue square"
    assert prompt.scene.relation == "above"
    outcomes = relation_outcomes([prompt] * 2, pictures([prompt]) + pictures([prompt], mirrored))
    assert outcomes == ["right", "elsewhere"]


def test_chance_is_that_of_two_different_objects():
    prompts = relation_prompts(8, 0, ["circle", "square"])
    kinds = 2 * len(COLOURS)
    records = relation_records(prompts, ["right"] * 8, ["circle", "square"])
    assert records[0]["chance"] == pytest.approx(1 / comb(kinds, 2) / 4)
    assert records[-1]["chance"] == 0.25
    bound = binding_records(prompts, ["right"] * 8, ["circle", "square"])
    assert bound[0]["chance"] == pytest.approx(1 / comb(kinds, 2))
    assert bound[-1]["chance"] == 0.5


def test_one_shape_makes_no_pair():
    with pytest.raises(UserError, match="two objects need two shapes"):
        binding_prompts(2, 0, ["circle"])
