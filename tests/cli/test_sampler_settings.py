"""Sampler settings on the command line: where they stand, what they may be, what is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest

from unclip.cli import main, parser
from unclip.common.errors import UserError


def parse(*words: str):
    return parser().parse_args(words)


@pytest.mark.parametrize(
    "words",
    [
        ("sample", "a cat", "decoder.steps=4", "--n", "2"),
        ("sample", "--n", "2", "decoder.steps=4", "a cat"),
        ("sample", "decoder.steps=4", "a cat", "--n=2"),
        ("sample", "a cat", "--n", "2", "decoder.steps=4"),
    ],
)
def test_settings_are_found_wherever_they_stand(words):
    args = parse(*words)
    assert (args.sampler_words, args.caption, args.n) == (["decoder.steps=4"], ["a cat"], 2)


def test_after_an_option_of_several_values_they_are_settings_still():
    args = parse("probe", "guidance", "--decoder-scales", "1", "2", "prior.steps=4")
    assert (args.decoder_scales, args.sampler_words) == ([1.0, 2.0], ["prior.steps=4"])
    args = parse("figures", "--images", "a.png", "b.png", "decoder.steps=4")
    assert [str(p) for p in args.images] == ["a.png", "b.png"]


def test_values_of_options_and_what_follows_two_dashes_are_no_settings():
    assert parse("edit", "a.png", "--to", "prior.x=1").to == "prior.x=1"
    assert parse("edit", "a.png", "--from", "x.y=1", "--to", "b").source == "x.y=1"
    args = parse("inpaint", "a.png", "--mask", "m.png", "--caption", "prior.art=deco")
    assert args.caption == "prior.art=deco"
    assert parse("probe", "typographic", "--word", "prior.x=1").word == ["prior.x=1"]
    assert str(parse("sample", "a", "--out", "prior.v=2").out) == "prior.v=2"
    args = parse("sample", "--", "decoder.steps=4", "E=mc2")
    assert (args.caption, args.sampler_words) == (["decoder.steps=4", "E=mc2"], [])
    assert parse("sample", "E = mc2", "E=mc2 on a board").caption == ["E = mc2", "E=mc2 on a board"]


def test_a_file_in_a_folder_may_have_an_equals_sign():
    assert [str(p) for p in parse("vary", "runs/lr=1/a.png").image] == ["runs/lr=1/a.png"]


NOT_SETTINGS = [
    ("sample", "a", "clip.steps=4"),
    ("sample", "a", "Decoder.steps=4"),
    ("sample", "a", "decodr.steps=4"),
    ("sample", "a", "steps=4"),
    ("vary", "a.png", "clip.steps=3"),
    ("probe", "conditioning", "foo=1"),
    ("figures", "n=3"),
]


@pytest.mark.parametrize("words", NOT_SETTINGS)
def test_a_mistyped_setting_is_not_taken_for_a_caption_or_a_file(words):
    with pytest.raises(UserError, match=r"is not a sampler setting.*after `--`"):
        parse(*words)


def test_the_nearest_stage_is_named():
    with pytest.raises(UserError, match="did you mean 'decoder'"):
        parse("sample", "a", "decodr.steps=4")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("sample", "a", "--decoder-steps", "4"), "--decoder-steps: .* decoder.steps=4"),
        (("sample", "a", "--decoder-steps=4"), "--decoder-steps: .* decoder.steps=4"),
        (("sample", "--decoder-guidance", "-1", "a"), "decoder.guidance=-1"),
        (("sample", "a", "--prior-top_k", "3"), "prior.top_k=3"),
        (("sample", "a", "--prior-dot-percentile"), "prior.dot_percentile=VALUE"),
        (("sample", "a", "--decoder-clip", "static"), "decoder.clip=static"),
        (("sample", "a", "--steps", "4"), "STAGE.steps=4"),
        (("sample", "a", "--guidance", "2"), "STAGE.guidance=2"),
        (("vary", "a.png", "--decoder-eta", "1"), "has been replaced by --eta 1"),
        (("vary", "a.png", "--prior-steps", "4"), "`unclip vary` does not use the prior"),
        (("vary", "a.png", "prior.steps=4"), "prior.steps: `unclip vary` does not use the prior"),
        (("probe", "pca", "prior.steps=4"), "`unclip probe pca` does not use the prior"),
        (("edit", "a.png", "--from", "--decoder-steps"), "--from: expected one argument"),
        (("train", "prior/tiny", "--decoder-steps", "4"), "unrecognized option: --decoder-steps"),
        (("train", "prior/tiny", "--with-parnts"), "did you mean '--with-parents'"),
        (("sample", "a", "--n", "x"), "argument --n: invalid int value"),
        (("evaluate",), "required: stage; see `unclip evaluate --help`"),
        (("train",), "required: experiment; see"),
        (("train", "prior/tiny", "run.dir=x", "--foo"), "unrecognized option: --foo"),
        (("sample", "a", "--n", "2", "b"), "unrecognized argument: b"),
        (("smaple",), "smaple: no such command; did you mean 'sample'?"),
        (
            ("sample", "a", "decoder=2"),
            "give the setting's name, as decoder",
        ),
        (("sample", "a", "decoder.=3"), "give the setting's name, as decoder"),
        (("train", "prior/tiny", "--steps", "4"), "unrecognized option: --steps; see"),
    ],
)
def test_what_a_command_does_not_have_is_one_line_with_the_way_out(words, message):
    with pytest.raises(UserError, match=message) as refusal:
        parse(*words)
    assert "\n" not in str(refusal.value)


def test_overrides_may_follow_options_and_home_is_meant_by_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    args = parse("train", "prior/tiny", "--with-parents", "run.dir=~/r", "clip=~/clip", "a.b=~x")
    assert args.overrides == [f"run.dir={tmp_path}/r", f"clip={tmp_path}/clip", "a.b=~x"]
    args = parse("sample", "a ~ b", "--out", "~/out", "--clip", "~/clip", "--upsampler", "~/u")
    assert (args.out, args.clip, args.upsampler) == (
        tmp_path / "out",
        f"{tmp_path}/clip",
        [tmp_path / "u"],
    )
    assert args.caption == ["a ~ b"]


def test_a_setting_may_count_on_what_the_artifact_says(cascade, tmp_path):
    words = ["sample", "a", "decoder.clip_range=2", "--pipeline", str(cascade)]
    assert main([*words, "--out", str(tmp_path)]) == 0  # its artifact clips statically


def test_unclip_alone_prints_its_help(capsys):
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 0
    assert "commands:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("decoder.steps=abc", "decoder.steps"),
        ("decoder.steps=1", "decoder.steps: 1 must be a number of steps"),
        ("decoder.steps=", "decoder.steps"),
        ("prior.foo=1", "prior.foo: this prior has no such setting"),
        ("prior.guidanc=1", "did you mean 'guidance'"),
        ("upsampler.noise_level=-1", "upsampler.noise_level: must not be negative"),
        ("decoder.sampler=euler", "must be one of ddpm, ddim, dpmpp_2m, heun, ab2\n"),
        ("upsampler.sampler=euler", "must be one of ddpm, ddim, dpmpp_2m, heun, ab2\n"),
        ("prior.sampler=euler", "one of ddpm, ddim, analytic, analytic_ddim, dpmpp_2m, heun, ab2"),
        ("decoder.sampler=heun decoder.eta=1", "it is a setting of ddim\n"),
        ("decoder.sampler=heun", None),
        ("prior.temperature=0.5", None),
    ],
)
@pytest.mark.parametrize("command", ["sample", "figures", "probe"])
def test_bad_values_are_found_before_anything_is_loaded(
    command, setting, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    words = {"sample": ["a"], "figures": [], "probe": ["conditioning"]}[command]
    assert main([command, *words, *setting.split()]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert (message or "runs/quickstart: no such folder") in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("decoder.steps=5000", "decoder.steps: 5000 does not fit into diffusion.steps=1000"),
        ("upsampler.steps=600,600", "upsampler.steps: 600,600 does not fit"),
        ("upsampler.noise_level=50000", "upsampler.noise_level: 50000 must be"),
        ("prior.sampler=analytic", "prior.sampler=analytic: no errors are fitted"),
        ("prior.temperature=0.5", "prior.temperature: this prior has no such setting"),
        ("decoder.guidance=1e300", "decoder.guidance: must be in [0, 1000]"),
        ("prior.candidates=1000000000", "prior.candidates: must be in [1, 1000]"),
        ("decoder.eta=1 decoder.sampler=heun", "decoder.eta: has no effect with decoder.sampler"),
        ("decoder.clip_range=2 decoder.clip=none", "decoder.clip_range: has no effect"),
        (
            "decoder.guidance_interval=[0.3,3] decoder.guidance=1",
            "decoder.guidance_interval: has no effect with decoder.guidance=1",
        ),
        (
            "decoder.guidance_interval=[0.3,0.300001] decoder.guidance=2",
            "decoder.guidance_interval: [0.3, 0.300001] holds none of the noise levels that are",
        ),
        (
            "prior.guidance_interval=[0,0.0001] prior.guidance=2",
            "prior.guidance_interval: [0.0, 0.0001] holds none of the noise levels that are",
        ),
    ],
)
def test_what_the_networks_cannot_do_is_found_before_the_first_step(
    cascade, capsys, tmp_path, setting, message
):
    out = tmp_path / "out"
    words = ["sample", "a", *setting.split(), "--pipeline", str(cascade), "--out", str(out)]
    assert main(words) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error
    assert "step" not in error.split(":")[0]
    assert not out.exists()


@pytest.mark.parametrize("more", [[], ["--devices", "2", "--out", "many"]])
@pytest.mark.parametrize("option", ["precision", "offload", "compile"])
def test_a_misspelt_name_is_refused_before_torch_is_imported(cascade, tmp_path, option, more):
    words = ["sample", "a", "--pipeline", str(cascade), f"--{option}", "bf61", *more]
    code = (
        "import sys; from unclip.cli import main; "
        f"assert main({words!r}) == 2; assert 'torch' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith(f"unclip: error: --{option} bf61: must be one of ")
