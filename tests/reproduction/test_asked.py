"""What a judge would refuse after the trainings is refused before them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from unclip.cli import main
from unclip.common.errors import UserError
from unclip.reproduction.arms import experiment_of
from unclip.reproduction.asked import check_arms
from unclip.reproduction.preset import find_presets, load_claims, load_preset

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
    a: {parts: [clip, prior]}
    b: {parts: [clip]}
"""


@cache
def known(name="cpu"):
    preset = load_preset(name)
    return preset, load_claims(preset.claims)


def check(key, *, preset=None, experiment=None, options=None, **arm):
    """Check a claim whose first arm is changed."""
    shipped, claims = known()
    preset, claim = preset or shipped, claims[key]
    name, first = next(iter(claim.arms.items()))
    changed = replace(first, options={**first.options, **(options or {})}, **arm)
    claim = replace(claim, arms={**claim.arms, name: changed})

    def own(part):
        return experiment_of(preset, preset.trainings[part], [])

    check_arms({key: claim}, preset, experiment or own)


@pytest.mark.parametrize("name", find_presets())
def test_the_shipped_claims_can_be_asked(name):
    preset, claims = known(name)
    check_arms(claims, preset, lambda part: experiment_of(preset, preset.trainings[part], []))


@pytest.mark.parametrize(
    ("key", "arm", "says"),
    [
        ("binding", {"parts": ["clip", "prior"]}, "parts: has no decoder, which the judge drawing"),
        ("sam-rank", {"parts": ["prior"]}, "parts: has no clip, which the judge rank needs"),
        (
            "pca-coarse-to-fine",
            {"parts": ["clip", "decoder"]},
            "parts: has no pca, which the judge components needs",
        ),
        (
            "prior-over-z_t",
            {"parts": ["clip", "prior", "prior_ar", "decoder"]},
            "parts: prior and prior_ar are each a prior",
        ),
        (
            "prior-over-z_t",
            {"parts": ["clip", "decoder"]},
            "parts: has no prior, which options.given=prior needs",
        ),
        (
            "text-decoder",
            {"parts": ["clip", "decoder_text"], "options": {"given": "z_t"}},
            "options.given=z_t: has no effect: the decoder takes no z_i",
        ),
        (
            "prior-over-z_t",
            {"options": {"settings": {"prior": {"guidanse": 2}}}},
            "prior.guidanse: this prior has no such setting; did you mean 'guidance'?",
        ),
        (
            "prior-over-z_t",
            {"options": {"settings": {"prior": {"steps": 100000}}}},
            "prior.steps: 100000 does not fit into diffusion.steps=",
        ),
        (
            "two-candidates",
            {"options": {"settings": {"decoder": {"guidance": 2}}}},
            "options.settings.decoder: has no effect: the arm has no decoder",
        ),
        (
            "diffusion-over-ar",
            {"options": {"settings": {"prior": {"dot_percentile": 0}}}},
            "prior.dot_percentile: this prior has no such setting",
        ),
        ("prior-over-z_t", {"options": {"settings": {"prior": 3}}}, "changes: 'prior': 3"),
    ],
)
def test_what_an_arm_lacks_names_claim_arm_and_key(key, arm, says):
    with pytest.raises(UserError) as error:
        check(key, **arm)
    _, claims = known()
    name = next(iter(claims[key].arms))
    assert str(error.value).startswith(f"{key}.arms.{name}")
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("key", "change", "says"),
    [
        ("prior-over-z_t", {"source": "photos.tar"}, "drawing reads scenes, and data.source=photo"),
        ("binding", {"max_objects": 1}, "options.prompts=binding: its scenes have one object"),
        ("typographic", {"words": 0}, "its scenes never have a printed word"),
        ("prior-over-caption", {"use_caption": False}, "the decoder reads no captions"),
    ],
)
def test_what_its_data_or_decoder_lacks_is_said(key, change, says):
    preset, _ = known()

    def experiment(part):
        config = experiment_of(preset, preset.trainings[part], [])
        for section in (config.data, config.data.scenes, getattr(config, "model", None)):
            for name, value in change.items():
                if hasattr(section, name):
                    setattr(section, name, value)
        return config

    with pytest.raises(UserError) as error:
        check(key, experiment=experiment)
    assert says in str(error.value)
    assert str(error.value).startswith(f"{key}.arms.")


def test_the_command_asks_before_it_trains(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "experiments" / "reproduction"
    folder.mkdir(parents=True)
    (folder / "claims.yaml").write_text(CLAIM)
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce-paper", "--dry-run"]) != 0
    line = "one.arms.a.parts: has no decoder, which the judge drawing needs"
    assert line in capsys.readouterr().err
