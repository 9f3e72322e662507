"""The oracle reads the renderer's images, worse ones too, and is not fooled."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from unclip.data.config import SHAPES, ScenesConfig
from unclip.data.scenes.dataset import Scenes
from unclip.data.scenes.render import BACKGROUNDS, COLOURS, TINTS, Item, Scene, Word, draw
from unclip.evaluation.oracle.oracle import (
    THRESHOLD,
    Verdict,
    check,
    judge,
    matches,
    objects_right,
    read,
    read_background,
)
from unclip.evaluation.oracle.vision import PALETTE, Detection, lab_of, regions

ALL = Scenes(ScenesConfig(words=0, seed=11), size=64, count=300)
SCENES = [ALL.scene(i) for i in range(len(ALL))]


def wholly_right(image, scene):
    """Whether everything is read as it is, the places to 3 % of the side."""
    seen = read(image)
    verdict = judge(seen, scene, background=read_background(image))
    near = all(
        min((abs(d.x - i.x) + abs(d.y - i.y) for d in seen), default=1) < 0.03 for i in scene.items
    )
    # The thirds of the image mean something for single objects: others may lie between two.
    single = ("position",) if len(scene.items) == 1 else ()
    what = ("colour", "shape", "size", "relation", "count", "background", *single)
    return near and verdict.shows(what)


def worse(image, *, blur=0.0, noise=0.0):
    blurred = Image.fromarray(image).filter(ImageFilter.GaussianBlur(blur))
    grain = np.random.default_rng(0).normal(0, noise, image.shape)
    return np.clip(np.asarray(blurred) + grain, 0, 255).astype(np.uint8)


def one(shape, colour, *, size="large", x=0.5, y=0.5, background="grey"):
    radius = {"small": 0.15, "large": 0.21}[size]
    item = Item(shape=shape, colour=colour, size=size, x=x, y=y, radius=radius)
    return Scene(background=background, items=(item,))


def test_at_least_99_of_100_images_of_64_pixels_are_read_wholly_right():
    assert np.mean([wholly_right(draw(scene, 64), scene) for scene in SCENES]) >= 0.99


@pytest.mark.parametrize("size", [32, 128, 256])
def test_images_of_other_sizes_are_read_too(size):
    some = SCENES[:80]
    assert np.mean([wholly_right(draw(scene, size), scene) for scene in some]) >= 0.98


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", ["small", "large"])
def test_soft_and_noisy_images_are_read(shape, size):
    scene = one(shape, "red", size=size, x=0.3, y=0.65)
    verdict = check(worse(draw(scene, 64), blur=0.8, noise=6), scene)
    assert verdict.shows(("colour", "shape", "size", "position", "count", "background"))


def test_drawn_shapes_are_read_with_high_confidence():
    lowest = min(seen.confidence for scene in SCENES[:100] for seen in read(draw(scene, 64)))
    assert lowest >= 0.9


def test_a_wrong_colour_or_shape_is_not_accepted():
    picture = draw(one("star", "red"), 64)
    assert matches(read(picture), one("star", "red"))
    for colour in COLOURS:
        assert matches(read(picture), one("star", colour)) == (colour == "red")
    for shape in SHAPES:
        assert check(picture, one(shape, "red")).shape == (shape == "star")


def test_colours_swapped_between_two_shapes_are_noticed():
    for scene in [s for s in SCENES if len(s.items) == 2][:30]:
        a, b = scene.items
        if a.shape == b.shape or a.colour == b.colour:
            continue
        swapped = replace(scene, items=(replace(a, colour=b.colour), replace(b, colour=a.colour)))
        verdict = check(draw(swapped, 64), scene)
        assert not verdict.shows(("colour", "shape"))
        assert verdict.count


def test_each_respect_is_judged_by_itself():
    asked = one("heart", "blue", size="small", x=0.25, y=0.25)
    assert not check(draw(one("heart", "blue", x=0.25, y=0.25), 64), asked).size
    elsewhere = check(draw(one("heart", "blue", size="small", x=0.75, y=0.25), 64), asked)
    assert not elsewhere.position
    assert elsewhere.shows(("colour", "shape", "size", "relation", "count", "background"))
    other = draw(one("heart", "blue", size="small", x=0.25, y=0.25, background="white"), 64)
    assert not check(other, asked).background


def test_the_wrong_relation_is_noticed():
    left = one("circle", "red", size="small", x=0.25).items[0]
    right = one("square", "green", size="small", x=0.75).items[0]
    asked = Scene(background="grey", items=(left, right))
    mirrored = Scene(background="grey", items=(replace(left, x=0.75), replace(right, x=0.25)))
    assert check(draw(asked, 64), asked).relation
    verdict = check(draw(mirrored, 64), asked)
    assert not verdict.relation
    assert verdict.shows(("colour", "shape", "size", "count"))


def test_one_object_too_few_or_too_many_is_noticed():
    both = next(s for s in SCENES if len(s.items) == 2)
    single = replace(both, items=both.items[:1])
    few = check(draw(single, 64), both)
    assert few == Verdict(False, False, False, False, False, False, background=True)
    many = check(draw(both, 64), single)
    assert not many.count
    assert many.colour
    assert many.shape


def test_each_of_two_objects_is_counted_for_itself():
    """Of the scene asked for, with its colours exchanged, with one object alone, of no object."""
    a, b = one("circle", "red", x=0.25).items[0], one("square", "green", x=0.75).items[0]
    asked = Scene(background="white", items=(a, b))
    swapped = (replace(a, colour="green"), replace(b, colour="red"))
    half = (a, replace(b, shape="star"))
    twice = (a, replace(a, x=0.75))
    drawn = {(a, b): 2, (b, a): 2, swapped: 0, half: 1, (a,): 1, twice: 1}
    for items, right in drawn.items():
        image = draw(replace(asked, items=items), 64)
        assert objects_right(read(image), asked) == right
    same = replace(asked, items=twice)
    assert objects_right(read(draw(same, 64)), same) == 2
    assert objects_right([], asked) == 0


def test_touching_objects_of_two_colours_are_told_apart():
    a = one("square", "red", x=0.3).items[0]
    b = one("circle", "blue", x=0.3 + 0.21 * (0.84 + 0.94)).items[0]
    scene = Scene(background="white", items=(a, b))
    assert check(draw(scene, 64), scene).shows(("colour", "shape", "size", "relation", "count"))


@pytest.mark.parametrize("level", [0, 130, 255])
def test_nothing_is_seen_in_a_blank_image(level):
    assert read(np.full((64, 64, 3), level, np.uint8)) == []


@pytest.mark.parametrize("amplitude", [5, 15, 30, 60])
def test_nothing_is_seen_in_noise(amplitude):
    rng = np.random.default_rng(0)
    for _ in range(10):
        noise = 128 + amplitude * rng.normal(size=(64, 64, 3))
        assert read(np.clip(noise, 0, 255).astype(np.uint8)) == []
    assert read(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) == []


@pytest.mark.slow
def test_a_image_blurred_beyond_recognition_shows_no_scene():
    pictures = [(worse(draw(scene, 64), blur=6), scene) for scene in SCENES[:100]]
    assert np.mean([check(p, scene).shows(("colour", "shape")) for p, scene in pictures]) < 0.03
    assert max((d.confidence for p, _ in pictures for d in read(p)), default=0) < 0.8


def test_a_image_of_two_halves_holds_no_object():
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[32:] = 255
    assert read(picture) == []


def test_nothing_under_the_threshold_is_reported():
    picture = worse(draw(one("star", "red"), 64), blur=1.2)
    (seen,) = read(picture, THRESHOLD)
    assert read(picture, seen.confidence - 0.01) == [seen]
    assert read(picture, seen.confidence + 0.01) == []
    assert len(read(picture, 0.0)) == 1


def test_regions_agree_with_scipy():
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(0)
    for _ in range(10):
        mask = ndimage.gaussian_filter(rng.normal(size=(64, 64)), 3) > 0.05
        labels, n = ndimage.label(mask)
        areas = [(labels == k).sum() for k in range(1, n + 1)]
        expected = sorted(a for a in areas if 0.008 < a / 64**2 < 0.3)
        found = regions(mask)
        assert sorted(region.sum() for region in found) == expected
        for region in found:
            assert len(set(labels[region])) == 1


def test_lab_has_its_known_values():
    # White, black and sRGB red under D65.
    lab = lab_of(np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0]], np.uint8))
    np.testing.assert_allclose(lab, [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.2]], atol=0.1)


def test_colours_are_pairwise_well_apart():
    def tinted(name):
        levels = np.array(PALETTE[name]) + np.array(TINTS)[:, None]
        return lab_of(np.clip(levels, 0, 255).astype(np.uint8))

    for a, b in combinations({**COLOURS, **BACKGROUNDS}, 2):
        distance = np.linalg.norm(tinted(a)[:, None] - tinted(b)[None], axis=-1)
        assert distance.min() > 35, (a, b)


def test_words_are_refused_and_so_are_images_that_are_not_square():
    word = Word(text="cat", colour="red", x=0.5, y=0.5, width=0.6)
    with pytest.raises(ValueError, match="word"):
        judge([], Scene(background="white", word=word))
    with pytest.raises(ValueError, match="square"):
        read(np.zeros((64, 32, 3), np.uint8))


def test_extra_detections_do_not_hide_the_right_one():
    scene = one("heart", "green", x=0.2, y=0.2)
    right = Detection("green", "heart", "large", 0.2, 0.2, 0.9)
    wrong = Detection("red", "star", "small", 0.8, 0.8, 0.99)
    verdict = judge([wrong, right], scene)
    assert verdict.shows(("colour", "shape", "size", "position"))
    assert not verdict.count
