"""The shipped claims and presets fit together; what is wrong in a file is said in one line."""

import pytest

from unclip.common.errors import UserError
from unclip.config.load import load_experiment
from unclip.reproduction.judges.registry import JUDGES
from unclip.reproduction.judges.table import ROWS
from unclip.reproduction.preset import chosen_claims, find_presets, load_claims, load_preset
from unclip.reproduction.values import VALUES

CLAIM = """
one:
  source: nowhere
  says: a is more than b
  about: cascade
  judge: drawing
  value: right
  n: 20
  expected: greater
  arms:
    a: {parts: [clip]}
    b: {parts: [clip]}
"""
PRESET = """
about: small
seeds: 2
at_once: 1
seconds: {drawing: 1}
overrides: []
trainings:
  clip: {experiment: clip/tiny, minutes: 1}
  prior: {experiment: prior/tiny, parents: {clip: clip}, minutes: 2}
"""


@pytest.mark.parametrize("name", find_presets())
def test_every_claim_can_be_tested_with_every_shipped_preset(name):
    preset = load_preset(name)
    claims = load_claims(preset.claims)
    for key, claim in claims.items():
        assert claim.judge in JUDGES, key
        assert claim.judge in preset.seconds, key
        assert claim.value in VALUES, key
        for arm in claim.arms.values():
            assert set(arm.parts) <= set(preset.trainings), key
            kinds = [preset.trainings[part].kind for part in arm.parts]
            assert len(set(kinds)) == len(kinds), f"{key}: two of a kind"
    for training in preset.trainings.values():
        config = load_experiment(training.experiment).config
        assert all(hasattr(config, field) for field in training.parents)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("judge: drawing", "jugde: drawing", "one.jugde: unknown key; did you mean 'judge'?"),
        ("about: cascade", "about: everything", "one.about"),
        ("  n: 20\n", "", "has no 'n'"),
        ("    b: {parts: [clip]}\n", "", "difference needs 2, the first less"),
        ("{parts: [clip]}", "[clip]", "one.arms.a: must be a section"),
        ("expected: greater", "expected: equal", "one.margin: must be above 0"),
        ("n: 20", "n: ten", "one.n"),
        ("n: 20", "n: 5", "one.n=5: must be at least 12"),
        ("n: 20", "n: {a: 1}", "one.n: must be a value, not a section"),
        ("judge: drawing", "judge: drawings", "one.judge: no judge 'drawings'; did you mean"),
        ("value: right", "value: kid", "one.value: no value 'kid' of the judge drawing"),
        ("  n: 20", "  options: {imags: 2}\n  n: 20", "one.options.imags: unknown; did you mean"),
        ("  n: 20", "  options: {images: 0}\n  n: 20", "one.options.images=0: must be a whole"),
        ("  n: 20", "  options: {images: many}\n  n: 20", "one.options.images='many'"),
        ("  n: 20", "  options: [images]\n  n: 20", "one.options: must be a section"),
        ("  n: 20", "  options: {given: z_i}\n  n: 20", "given='z_i': must be one of prior, z_t,"),
        ("  n: 20", "  options: {prompts: [a]}\n  n: 20", "one.options.prompts=['a']: must be one"),
        ("  n: 20", "  options: {one_z_i: 3}\n  n: 20", "one_z_i=3: must be true or false"),
        (
            "judge: drawing\n",
            "judge: edits\n  options: {theta: 2}\n",
            "one.options.theta=2: must be a number in [0, 1]",
        ),
        (
            "judge: drawing\n",
            "judge: interpolations\n  options: {at: half}\n",
            "one.options.at='half': must be a number in [0, 1]",
        ),
        (
            "[clip]}\n    b",
            "[clip], options: {settings: 3}}\n    b",
            "a.options.settings=3",
        ),
        ("a: {parts: [clip]}", "a: {parts: []}", "one.arms.a.parts: must name trainings"),
        ("a: {parts: [clip]}", "a: {parts: [clip, clip]}", "one.arms.a.parts: must name"),
        ("    b:", "    c: {parts: [clip]}\n    b:", "difference needs 2, the first less"),
        ("  n: 20", "  statistic: slopes\n  x: [0, 1]\n  n: 20", "one.x: slopes need 2 or more"),
        ("  n: 20", "  statistic: slopes\n  x: [1, 1]\n  n: 20", "one.x: slopes need 2 or more"),
        ("  n: 20", "  statistic: slopes\n  x: [1, 2]\n  n: 20", "slopes over 2 x need twice"),
        ("  n: 20", "  statistic: trend\n  n: 20", "trend needs 3 or more"),
        ("one:", "../one:", "'../one': a name has letters"),
        ("    a:", "    <b>:", "'<b>': a name has letters"),
    ],
)
def test_a_wrong_claim_names_file_and_key(tmp_path, old, new, says):
    path = tmp_path / "claims.yaml"
    path.write_text(CLAIM.replace(old, new))
    with pytest.raises(UserError) as error:
        load_claims(str(path))
    assert str(path) in str(error.value)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("parents: {clip: clip}", "parents: {clip: clap}", "clap is not a training of a clip"),
        ("experiment: clip/tiny", "experiment: tiny", "must be KIND/NAME"),
        ("seeds: 2", "seeds: 0", "at least 1"),
        ("minutes: 1", "minuets: 1", "did you mean 'minutes'?"),
        ("minutes: 1", "minutes: -1", "trainings.clip.minutes=-1: must be above 0"),
        ("clip/tiny,", "clip/tiny, parents: {clip: clip},", "clip.parents: lead back to clip"),
        ("parents: {clip: clip}", "parents: [clip]", "prior.parents: must be a section with names"),
        ("parents: {clip: clip}", "parents: {clip: [clip]}", "prior.parents.clip"),
        ("  prior:", "  ../prior:", "'../prior': a name has letters"),
        ("about: small", "about: ''", "about: must say what it trains"),
        ("about: small", "about: {a: b}", "about: must be a value, not a section"),
        ("seconds: {drawing: 1}", "seconds: [drawing]", "seconds: must be a section with names"),
        ("seconds: {drawing: 1}", "seconds: {drawing: fast}", "seconds.drawing"),
        ("seconds: {drawing: 1}", "seconds: {drawings: 1}", "seconds.drawings: must be a judge"),
        ("seeds: 2", "seeds: 2\nuntested: [a]", "untested: must be a section with names"),
        ("seeds: 2", "seeds: 2\nuntested: {a: 3}", "untested.a"),
        ("  prior:", "  judge-a:", "trainings.judge-a: names that begin with judge- are those of"),
    ],
)
def test_a_wrong_preset_names_file_and_key(tmp_path, old, new, says):
    path = tmp_path / "mine.yaml"
    path.write_text(PRESET.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        load_preset(str(path))
    assert str(path) in str(error.value)
    assert says in str(error.value)


def test_a_name_that_is_not_there_gets_the_nearest():
    claims = load_claims()
    assert list(chosen_claims(claims, ["binding"])) == ["binding"]
    assert chosen_claims(claims, []) == claims
    with pytest.raises(UserError, match="did you mean 'binding'"):
        chosen_claims(claims, ["bindnig"])
    with pytest.raises(UserError, match="did you mean 'cpu'"):
        load_preset("cpuu")
    with pytest.raises(UserError, match="did you mean 'claims_photos'"):
        load_claims("claims_photo")


def test_the_table_has_every_judge_and_its_values():
    assert set(ROWS) == set(JUDGES)
    assert {value for row in ROWS.values() for value in row.values} == set(VALUES)
