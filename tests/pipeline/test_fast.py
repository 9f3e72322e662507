"""`--fast`: which settings it stands for, what wins over it, and that every command has it."""

from __future__ import annotations

import pytest

from unclip.cli import main, parser
from unclip.cli.evaluate import _settings
from unclip.cli.sampling_options import open_pipeline
from unclip.diffusion.config import GuidedSamplerConfig, SamplerConfig
from unclip.pipeline.fast import fast_changes
from unclip.pipeline.settings import Settings
from unclip.stages.ar_prior.config import ArPriorExperiment


def change(own, *, given=None, **more):
    stage = {"decoder": own if isinstance(own, list) else [own]}
    return fast_changes(stage, Settings({"decoder": given or {}}), **more)["decoder"]


@pytest.mark.parametrize(
    ("own", "steps"),
    [
        (GuidedSamplerConfig(steps=56), 14),
        (SamplerConfig(steps="10,10,13,12,2"), 11),
        (SamplerConfig(steps="inner59"), 14),
        (SamplerConfig(steps=24), 8),  # with fewer it draws other things
        (SamplerConfig(steps=5), 5),
        (SamplerConfig(sampler="heun", steps=29), 14),  # of 57 evaluations
        ([SamplerConfig(steps="fast27"), SamplerConfig(steps=45)], 9),  # of 72 for two upsamplers
    ],
)
def test_it_is_a_quarter_of_the_evaluations(own, steps):
    assert change(own) == {"sampler": "ab2", "steps": steps}


@pytest.mark.parametrize("own", [GuidedSamplerConfig(steps=60), SamplerConfig(steps="inner63")])
def test_many_evaluations_are_even_in_log_snr(own):
    assert change(own) == {"sampler": "dpmpp_2m", "steps": "logsnr15"}


def test_what_is_given_wins():
    own = SamplerConfig(steps=64)
    assert change(own, given={"steps": 20}) == {"sampler": "ab2"}
    assert change(own, given={"sampler": "ddim"}) == {"steps": 16}
    assert change(own, given={"sampler": "heun"}) == {"steps": 8}  # 15 evaluations
    assert change(own, given={"guidance": 3}) == {"sampler": "dpmpp_2m", "steps": "logsnr16"}


def test_timesteps_even_in_log_snr_are_for_dpmpp_2m():
    own = SamplerConfig(steps=64)
    assert change(own, given={"steps": "logsnr20"}) == {"sampler": "dpmpp_2m"}
    assert change(own, given={"sampler": "dpmpp_2m"}) == {"steps": "logsnr16"}
    assert change(own, given={"sampler": "ab2"}) == {"steps": 16}
    assert change(own, given={"sampler": "analytic"}) == {}  # fitted for its own steps


def test_a_sampler_that_the_command_decides_stays():
    own = SamplerConfig(sampler="heun", steps=32)
    assert change(own, keep_sampler=("decoder",)) == {"steps": 8}


def test_a_prior_without_steps_stays_as_it_is():
    assert fast_changes({"prior": [ArPriorExperiment().sampler]}, Settings()) == {}


IMAGE = ("a.png",)
COMMANDS = {
    ("sample", "a"): (("prior", "decoder", "upsampler"), ()),
    ("demo",): (("prior", "decoder", "upsampler"), ()),
    ("figures",): (("prior", "decoder", "upsampler"), ("decoder",)),
    ("vary", *IMAGE): (("decoder", "upsampler"), ("decoder",)),
    ("interpolate", "a.png", "b.png"): (("decoder", "upsampler"), ("decoder",)),
    ("edit", *IMAGE, "--to", "b"): (("prior", "decoder", "upsampler"), ("decoder",)),
    ("inpaint", *IMAGE, "--mask", "m.png", "--caption", "b"): (
        ("prior", "decoder", "upsampler"),
        ("decoder",),
    ),
    ("probe", "conditioning"): (("prior", "decoder", "upsampler"), ()),
    ("probe", "typographic"): (("decoder", "upsampler"), ("decoder",)),
    ("probe", "pca"): (("decoder", "upsampler"), ("decoder",)),
}


@pytest.mark.parametrize("words", list(COMMANDS))
def test_every_command_that_samples_has_it(words):
    stages, kept = COMMANDS[words]
    args = parser().parse_args([*words, "--fast"])
    assert (args.fast, args.fast_for, args.keep_sampler) == (True, stages, kept)
    assert not parser().parse_args(list(words)).fast


def test_the_stages_get_the_settings_that_are_said(cascade, capsys, monkeypatch):
    def opened(*words):
        args = parser().parse_args(["sample", "a", "--pipeline", str(cascade), *words])
        stages = open_pipeline(args).cascade
        samplers = [part.sampler for part in (stages.prior, stages.decoder, *stages.upsamplers)]
        return args.sampler_words, [(s.sampler, s.steps) for s in samplers], capsys.readouterr().err

    words, own, error = opened()
    assert (words, error) == ([], "")
    assert own == [("ddim", 4)] * 3
    words, fast, error = opened("--fast", "decoder.steps=3")
    said = "prior.sampler=dpmpp_2m prior.steps=4 decoder.sampler=ab2 upsampler.sampler=ddim"
    assert error == f"unclip: --fast: {said} upsampler.steps=4\n"
    assert words == [*said.split(), "upsampler.steps=4", "decoder.steps=3"]
    assert fast == [("dpmpp_2m", 4), ("ab2", 4), ("ddim", 4)]  # decoder.steps is the call's own
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert opened("--fast")[2] == ""  # said once, by the first process


def test_an_evaluation_has_it_too(cascade, capsys):
    [found] = _settings(["prior.eta=0"], [str(cascade / "prior")], ["diffusion_prior"], fast=False)
    assert found.changes == {"prior": {"eta": "0"}}
    [found] = _settings(["prior.steps=3"], [str(cascade / "prior")], ["diffusion_prior"], fast=True)
    assert found.changes == {"prior": {"sampler": "dpmpp_2m", "steps": "3"}}
    assert f"--fast of {cascade / 'prior'}: prior.sampler=dpmpp_2m\n" in capsys.readouterr().err
    assert main(["evaluate", str(cascade), "--fast", "--n", "1", "decoder.steps=2"]) == 0
    assert (
        "--fast: prior.sampler=dpmpp_2m prior.steps=4 decoder.sampler=ab2"
        in capsys.readouterr().err
    )
