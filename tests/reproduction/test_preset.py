"""The shipped claims and presets fit together; what is wrong in a file is said in one line."""

import pytest

from unclip.common.errors import UserError
from unclip.config.load import load_experiment
from unclip.reproduction.judges.registry import JUDGES
from unclip.reproduction.preset import chosen_claims, find_presets, load_claims, load_preset
from unclip.reproduction.values import VALUES

CLAIM = """
one:
  source: nowhere
  says: a is more than b
  about: cascade
  judge: drawing
  value: right
  n: 10
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
        ("  n: 10\n", "", "has no 'n'"),
        ("    b: {parts: [clip]}\n", "", "difference needs 2 or more"),
        ("{parts: [clip]}", "[clip]", "one.arms.a: must be a section"),
        ("expected: greater", "expected: equal", "one.margin: must be above 0"),
        ("n: 10", "n: ten", "one.n"),
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
