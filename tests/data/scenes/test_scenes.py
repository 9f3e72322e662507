"""Scenes are a function of (seed, index), their captions are true, and their images agree."""

import hashlib
import re
from collections import Counter
from dataclasses import fields, replace
from random import Random

import numpy as np
import pytest

from unclip.common.errors import UserError
from unclip.data.config import SHAPES, DataConfig, ScenesConfig
from unclip.data.scenes.captions import STATED, caption
from unclip.data.scenes.dataset import WORDS, Scenes, single_object_prompts, two_object_prompts
from unclip.data.scenes.render import BACKGROUNDS, COLOURS, Item, Scene, draw, patch, place
from unclip.data.sources import SceneSource, open_splits

MANY = Scenes(ScenesConfig(words=0.1, seed=3), size=32, count=1500)
SCENES = [MANY.scene(i) for i in range(len(MANY))]
PAIRS = [scene for scene in SCENES if len(scene.items) == 2]


def same(a, b):
    return a.key == b.key and a.captions == b.captions and np.array_equal(a.image, b.image)


def captions_of(scene, n=12):
    rng = Random(1)
    return [caption(scene, rng) for _ in range(n)]


# --- a function of the seed and the index ---------------------------------------------------------


def test_scenes_and_captions_are_the_golden_ones():
    # Changes only when the dataset is changed on purpose: state the reason in the CHANGELOG.
    scenes = Scenes(ScenesConfig(words=0.1), size=16, count=200)
    text = repr([(scenes.scene(i), scenes[i].captions) for i in range(200)])
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "3fb1f21b9012c3ab"


@pytest.mark.parametrize(("detail", "said"), [(0.0, 0), (1.0, 3)])
def test_detail_is_how_much_of_a_single_object_its_caption_says(detail, said):
    scenes = Scenes(ScenesConfig(max_objects=1, words=0, detail=detail), size=16, count=60)
    places = ("top", "bottom", "left", "right", "middle", "center")
    for i in range(60):
        for text in scenes[i].captions:
            facts = ("small" in text or "large" in text, "background" in text)
            assert sum(facts) + any(place in text for place in places) == said


@pytest.mark.parametrize("objects", [1, 2])
def test_objects_have_the_shapes_of_the_config_alone(objects):
    few = ["heart", "cross"]
    config = ScenesConfig(shapes=few, max_objects=objects, contrast=2, words=0)
    scenes = Scenes(config, size=16, count=200)
    assert {item.shape for i in range(200) for item in scenes.scene(i).items} == set(few)
    for make in (single_object_prompts, two_object_prompts):
        prompts = make(40, seed=0, shapes=few)
        assert {item.shape for prompt in prompts for item in prompt.scene.items} == set(few)


@pytest.mark.parametrize("shapes", [[], ["circle", "circle"], ["hexagon"]])
def test_shapes_that_no_scene_can_have_are_refused(shapes):
    with pytest.raises(UserError, match=r"data\.scenes\.shapes: must be some of circle, square"):
        ScenesConfig(shapes=shapes).validate()


def test_a_run_has_at_most_as_many_members_as_there_are_shapes():
    with pytest.raises(UserError, match=r"data\.scenes\.contrast: must be in \[1, 2\]"):
        ScenesConfig(shapes=["heart", "star"], contrast=3).validate()


@pytest.mark.parametrize(("contrast", "objects"), [(2, 1), (6, 1), (6, 2)])
def test_the_scenes_of_a_run_differ_in_shape_or_in_place_alone(contrast, objects):
    config = ScenesConfig(contrast=contrast, words=0.1, max_objects=objects)
    scenes = Scenes(config, size=16, count=120)
    plain = Scenes(replace(config, contrast=1), size=16, count=120)
    for first in range(0, 120, contrast):
        run = [scenes.scene(first + k) for k in range(contrast)]
        assert len(set(run)) == contrast
        assert run[0] == plain.scene(first // contrast)
        if run[0].word is not None:
            continue
        for member, scene in enumerate(run[1:], start=1):
            changed = {"shape"} if member % 3 else {"x", "y"}
            for item, before in zip(scene.items, run[0].items):
                differs = {
                    f.name for f in fields(Item) if getattr(item, f.name) != getattr(before, f.name)
                }
                assert differs
                assert differs <= changed
            assert replace(scene, items=run[0].items) == run[0]
            if member == 3 and len(scene.items) == 1:
                assert place(scene.items[0].x, scene.items[0].y) != place(
                    run[0].items[0].x, run[0].items[0].y
                )


@pytest.mark.parametrize("objects", [1, 2])
def test_the_scenes_of_a_run_differ_in_the_facts_of_the_config(objects):
    facts = ["colour", "colours exchanged", "shape", "place", "colour"]
    config = ScenesConfig(contrast=6, contrasts=facts, words=0, max_objects=objects, detail=1.0)
    config.validate()
    scenes, seen = Scenes(config, size=16, count=1200), Counter()
    for first in range(0, 1200, 6):
        run = [scenes.scene(first + k) for k in range(6)]
        assert len(set(run)) == 6
        items = run[0].items
        different = len({item.colour for item in items}) == 2
        for fact, scene in zip(facts, run[1:]):
            changed = {
                (k, f.name)
                for k, (item, before) in enumerate(zip(scene.items, items))
                for f in fields(Item)
                if getattr(item, f.name) != getattr(before, f.name)
            }
            names = {name for _, name in changed}
            assert scene.background not in {item.colour for item in scene.items}
            if fact == "colours exchanged" and different:
                assert [i.colour for i in scene.items] == [i.colour for i in items][::-1]
                assert names == {"colour"}
            elif fact.startswith("colour"):
                assert names == {"colour"}
                assert len(changed) == 1  # of one object alone
                seen[changed.pop()[0]] += 1
            else:
                assert names
                assert names <= ({"shape"} if fact == "shape" else {"x", "y"})
    assert len(seen) == objects  # of either one
    assert min(seen.values()) > 50


def test_facts_are_of_the_data_where_there_are_groups():
    def fingerprint(contrast, *facts):
        config = ScenesConfig(contrast=contrast)
        if facts:
            config = replace(config, contrasts=list(facts))
        return SceneSource(config, size=8, count=4).fingerprint()

    assert fingerprint(1, "colour") == fingerprint(1)
    assert fingerprint(4, "colour") != fingerprint(4, "colour", "place") != fingerprint(4)


def test_data_of_before_there_were_facts_are_the_same():
    found = [  # else runs that began with them could not be resumed
        SceneSource(ScenesConfig(**settings), size=8, count=4).fingerprint()
        for settings in ({}, {"max_objects": 1}, {"contrast": 4})
    ]
    assert found == ["39fd3c3b37ebe1e4", "d216b477573a9de8", "bab7dd5e65a8f758"]


@pytest.mark.parametrize(
    ("contrast", "facts", "why"),
    [
        (2, [], "must be some of shape, place"),
        (2, ["shade"], "must be some of shape, place"),
        (3, ["place"], "has place twice in a group of 3; list more facts"),
        (5, ["colours exchanged", "shape"], "has colours exchanged twice in a group of 5"),
    ],
)
def test_facts_of_which_a_group_cannot_be_made_are_refused(contrast, facts, why):
    with pytest.raises(UserError, match=rf"data\.scenes\.contrasts: {why}"):
        ScenesConfig(contrast=contrast, contrasts=facts).validate()


def test_held_out_scenes_are_no_minimal_pairs():
    sizes = {"count": 60, "max_objects": 1}
    plain = open_splits(DataConfig(scenes=ScenesConfig(**sizes)), image_size=16)
    pairs = open_splits(DataConfig(scenes=ScenesConfig(**sizes, contrast=6)), image_size=16)
    assert [plain.held_out.key(i) for i in range(9)] == [pairs.held_out.key(i) for i in range(9)]
    assert all(same(plain.held_out[i], pairs.held_out[i]) for i in range(9))


def test_a_sample_depends_on_neither_order_nor_instance():
    first = Scenes(ScenesConfig(), size=32, count=20)
    backwards = [first[i] for i in reversed(range(20))][::-1]
    second = Scenes(ScenesConfig(), size=32, count=20)
    assert all(same(a, second[i]) for i, a in enumerate(backwards))


def test_a_range_is_a_window_on_one_sequence():
    whole = Scenes(ScenesConfig(), size=32, count=20)
    held_out = Scenes(ScenesConfig(), size=32, start=15, count=5)
    assert len(held_out) == 5
    assert all(same(held_out[i], whole[15 + i]) for i in range(5))
    assert not {s.key for s in held_out} & {whole[i].key for i in range(15)}


def test_another_seed_gives_other_scenes():
    a, b = (Scenes(ScenesConfig(seed=seed), size=16, count=20) for seed in (0, 1))
    assert all(a.scene(i) != b.scene(i) for i in range(20))


def test_the_size_changes_nothing_but_the_image():
    small, large = (Scenes(ScenesConfig(), size=size, count=20) for size in (16, 64))
    assert all(small[i].captions == large[i].captions for i in range(20))
    assert all(small.scene(i) == large.scene(i) for i in range(20))


@pytest.mark.parametrize("i", [-1, 5])
def test_an_index_out_of_range_is_refused(i):
    with pytest.raises(IndexError):
        Scenes(ScenesConfig(), size=16, count=5)[i]


# --- what scenes hold -----------------------------------------------------------------------------


def test_every_colour_shape_background_and_place_occurs():
    items = [item for scene in SCENES for item in scene.items]
    assert {(i.colour, i.shape) for i in items} == {(c, s) for c in COLOURS for s in SHAPES}
    assert {scene.background for scene in SCENES} == set(BACKGROUNDS)
    assert {scene.relation for scene in PAIRS} == {"left of", "right of", "above", "below"}
    assert {scene.word.text for scene in SCENES if scene.word} == set(WORDS)


def test_shares_follow_the_config():
    counts = Counter(len(scene.items) for scene in SCENES)
    assert counts[0] / len(SCENES) == pytest.approx(0.1, abs=0.03)
    assert counts[1] / len(SCENES) == pytest.approx(0.45, abs=0.05)
    single = Scenes(ScenesConfig(max_objects=1, words=0), size=16, count=100)
    assert {len(single.scene(i).items) for i in range(100)} == {1}


def test_nothing_has_the_colour_of_its_background():
    for scene in SCENES:
        colours = [item.colour for item in scene.items]
        colours += [scene.word.colour] if scene.word else []
        assert scene.background not in colours


def test_objects_lie_inside_the_image_and_apart():
    def covered(item):
        mask = np.zeros((64, 64), bool)
        p = patch(item.shape, x=item.x, y=item.y, radius=item.radius, angle=item.angle, size=64)
        mask[p.rows, p.columns] = p.coverage > 0.01
        return mask

    for scene in SCENES[:500]:
        masks = [covered(item) for item in scene.items]
        for mask in masks:
            assert not mask[[0, -1]].any()
            assert not mask[:, [0, -1]].any()
        assert len(masks) < 2 or not (masks[0] & masks[1]).any()


def test_relations_are_plain():
    for scene in PAIRS:
        first, second = scene.items
        dx, dy = second.x - first.x, second.y - first.y
        along, across = {
            "left of": (dx, dy),
            "right of": (-dx, dy),
            "above": (dy, dx),
            "below": (-dy, dx),
        }[scene.relation]
        assert along > first.radius + second.radius
        assert abs(across) < 0.5 * along


# --- captions are true ----------------------------------------------------------------------------

NOUN = rf"(?:(small|large) )?({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})"
BETWEEN = {
    "left": lambda a, b: a.x < b.x,
    "right": lambda a, b: a.x > b.x,
    "above": lambda a, b: a.y < b.y,
    "below": lambda a, b: a.y > b.y,
    "under": lambda a, b: a.y > b.y,
    "beneath": lambda a, b: a.y > b.y,
}
SIDE = {
    "left": lambda i: i.x < 0.4,
    "right": lambda i: i.x > 0.6,
    "top": lambda i: i.y < 0.4,
    "bottom": lambda i: i.y > 0.6,
}


def named(scene, match):
    """The scene's item that a noun phrase can mean; fails if there is none."""
    size, colour, shape = match.groups()[:3]
    (item,) = [i for i in scene.items if (i.colour, i.shape) == (colour, shape)]
    assert size in (None, item.size)
    return item


def assert_true(text, scene):
    ground = re.search(rf"({'|'.join(BACKGROUNDS)}) background", text)
    if ground:
        assert ground[1] == scene.background
        text = text[: ground.start()]
    nouns = list(re.finditer(NOUN, text))
    items = [named(scene, noun) for noun in nouns]
    assert len(items) == len(set(items)) == len(scene.items)
    rest = re.sub(NOUN, "N", text)
    if len(items) == 2 and " and " not in rest:
        (word,) = re.findall(rf"\b({'|'.join(BETWEEN)})\b", rest)
        assert BETWEEN[word](*items)
        return
    for part, item in zip(re.split(r" and ", rest), items):
        sides = re.findall(rf"\b({'|'.join(SIDE)})\b", part)
        assert all(SIDE[side](item) for side in sides)
        if "middle" in part or "center" in part:
            assert max(abs(item.x - 0.5), abs(item.y - 0.5)) < 0.1
        sizes = re.findall(r"\b(small|large)\b", part)  # in a list of words, after the noun
        assert all(size == item.size for size in sizes)


def test_every_caption_is_true_of_its_scene():
    for scene in SCENES:
        for text in captions_of(scene):
            if scene.word is None:
                assert_true(text, scene)


def test_the_check_of_captions_would_notice_a_lie():
    (scene,) = [s for s in PAIRS if s.relation == "left of"][:1]
    mirrored = Scene(
        background=scene.background,
        items=tuple(Item(**{**vars(item), "x": 1 - item.x}) for item in scene.items),
    )
    text = next(text for text in captions_of(scene) if " left" in text)
    assert_true(text, scene)
    with pytest.raises(AssertionError):
        assert_true(text, mirrored)


def test_a_printed_word_is_named_with_its_own_colour():
    for scene in SCENES:
        if scene.word is not None:
            for text in captions_of(scene, 6):
                assert re.search(rf"(word|says) {scene.word.text}\b", text)
                others = set(COLOURS) | set(BACKGROUNDS)
                others -= {scene.word.colour, scene.background}
                assert not others & set(text.split())


def test_captions_are_plain_english_and_varied():
    texts = [text for scene in SCENES[:300] for text in captions_of(scene, 3)]
    assert all(re.fullmatch(r"[a-z]+(,? [a-z]+)*", text) for text in texts)
    assert not any(re.search(r"\ba [aeiou]|\ban [^aeiou]", text) for text in texts)
    assert len(set(texts)) > 0.8 * len(texts)


# --- images -------------------------------------------------------------------------------------


def shrunk(picture, size):
    factor = picture.shape[0] // size
    return picture.reshape(size, factor, size, factor, 3).mean((1, 3))


def test_a_scene_is_the_same_image_at_every_size():
    for scene in SCENES[:100]:
        at_64 = draw(scene, 64).astype(float)
        difference = abs(shrunk(draw(scene, 256), 64) - at_64)
        assert difference.mean() < 0.5  # levels of 255
        assert np.quantile(difference, 0.99) < 16


@pytest.mark.parametrize("size", [16, 33, 1024])
def test_images_have_the_size_asked(size):
    picture = draw(SCENES[0], size)
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.uint8


@pytest.mark.parametrize("shape", SHAPES)
def test_covered_area_does_not_depend_on_size_place_or_angle(shape):
    def area(size, x, angle):
        drawn = patch(shape, x=x, y=0.5, radius=0.2, angle=angle, size=size)
        return drawn.coverage.sum() / size**2

    expected = area(1024, 0.5, 0.0)
    for size, x, angle in ((64, 0.5, 0.0), (64, 0.4937, 0.1), (128, 0.511, -0.1)):
        assert area(size, x, angle) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    ("shape", "area"),
    [
        ("circle", np.pi * 0.94**2),
        ("square", (2 * 0.84) ** 2),
        ("triangle", 3 * np.sqrt(3) * 0.52**2),
        ("cross", 2 * 1.88 * 0.6 - 0.6**2),
        ("star", 5 * 1.04 * 0.44 * np.sin(np.pi / 5)),
        ("heart", 1.1**2 + np.pi * 0.55**2),
    ],
)
def test_shapes_have_their_area(shape, area):
    drawn = patch(shape, x=0.5, y=0.5, radius=0.4, angle=0.0, size=512)
    assert drawn.coverage.sum() / (0.4 * 512) ** 2 == pytest.approx(area, rel=2e-3)


def test_colours_are_as_named():
    item = Item(shape="circle", colour="red", size="large", x=0.3, y=0.6, radius=0.2)
    picture = draw(Scene(background="white", items=(item,)), 64)
    assert tuple(picture[int(0.6 * 64), int(0.3 * 64)]) == COLOURS["red"]
    assert tuple(picture[2, 60]) == BACKGROUNDS["white"]


# --- prompts --------------------------------------------------------------------------------------


def test_single_object_prompts_cover_colours_and_shapes_evenly():
    prompts = single_object_prompts(2 * len(COLOURS) * len(SHAPES), seed=0)
    kinds = Counter((p.scene.items[0].colour, p.scene.items[0].shape) for p in prompts)
    assert set(kinds.values()) == {2}
    assert len(kinds) == len(COLOURS) * len(SHAPES)


@pytest.mark.parametrize("make", [single_object_prompts, two_object_prompts])
def test_prompts_are_true_deterministic_and_say_what_they_state(make):
    prompts = make(100, seed=1)
    assert prompts == make(100, seed=1)
    assert prompts != make(100, seed=2)
    for prompt in prompts:
        assert_true(prompt.caption, prompt.scene)
        assert {"colour", "shape", "count"} <= prompt.stated <= set(STATED)
        assert ("background" in prompt.stated) == ("background" in prompt.caption)
        if "size" in prompt.stated:
            sizes = re.findall(r"\b(?:small|large)\b", prompt.caption)
            assert len(sizes) == len(prompt.scene.items)
        words = set(re.findall(r"\w+", prompt.caption))
        if "position" not in prompt.stated and len(prompt.scene.items) == 1:
            assert not words & {"top", "bottom", "left", "right", "middle", "center"}
        if len(prompt.scene.items) == 2:
            related = words & {*BETWEEN, *SIDE}
            assert ("relation" in prompt.stated) == bool(related)
