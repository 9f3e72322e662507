"""`unclip finetune`: what it chooses, what it refuses, and the cascade that comes of it."""

from __future__ import annotations

import json
import os
import shutil
import types
from dataclasses import asdict

import pytest
import torch
import yaml
from PIL import Image

from unclip.cli import main
from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.config.load import load_experiment, parse_overrides
from unclip.finetuning import choices, finetune
from unclip.finetuning.finetune import compared, prepare
from unclip.finetuning.preservation import Preservation
from unclip.finetuning.request import Request
from unclip.pipeline.pipeline import Pipeline


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for n in range(30):
        Image.new("RGB", (20, 16), (8 * n, 255 - 8 * n, 40)).save(folder / f"{n}.png")
        (folder / f"{n}.txt").write_text(f"colour {n}")
    return folder


@pytest.fixture
def request_of(cascade, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(choices, "_memory", lambda *_: [])

    def request(**changes):
        plain = {"source": str(photos), "base": str(cascade), "out": str(tmp_path / "mine")}
        return Request(**plain | changes)

    return request


def settings(task):
    return load_experiment(task.name, task.overrides).config


def first(request):
    return prepare(request).tasks[0]


def test_decoder_and_prior_begin_from_the_cascade_on_the_images(
    request_of, cascade, photos, tmp_path
):
    tasks = prepare(request_of(steps=40)).tasks
    assert [task.part for task in tasks] == ["decoder", "prior"]
    for task in tasks:
        before = load_experiment(task.name).config
        now = settings(task)
        assert (now.init, now.clip) == (str(cascade / task.part), str(cascade / "clip"))
        mixed = {name: (one.source, one.weight) for name, one in now.data.mixture.items()}
        assert mixed == {"own": (str(photos), 0.5), "base": (f"{tmp_path}/mine/preserved", 0.5)}
        assert (now.data.source, now.data.held_out, now.data.flip) == ("mixture", 0.1, True)
        assert now.init_teaches == "base"
        assert now.trainer.early_stopping == 2
        assert now.optim.lr == pytest.approx(before.optim.lr / 10)
        assert (now.trainer.max_steps, now.trainer.val_every, now.optim.warmup_steps) == (40, 8, 2)
        assert now.trainer.precision == "32"
        assert now.model == before.model
        assert now.adapter.kind == "none"
        words = parse_overrides(task.overrides)
        assert "trainer.devices" not in words  # as it is already


@pytest.mark.parametrize(
    ("optimizer", "share", "of_lora"),
    [("muon", 0.6, 1.3), ("adamw", 0.1, 1.0), ("adamw8bit", 0.1, 1.0)],
)
def test_the_rate_depends_on_the_optimizer(
    request_of, cascade, tmp_path, optimizer, share, of_lora
):
    other = tmp_path / "base"
    for part in ("clip", "prior", "decoder"):
        shutil.copytree(cascade / part / "artifact", other / part)
    config = other / "decoder/config.yaml"
    content = yaml.safe_load(config.read_text())
    content["optim"] |= {"name": optimizer, "lr": 1e-3}
    config.write_text(yaml.safe_dump(content))
    assert settings(first(request_of(base=str(other)))).optim.lr == pytest.approx(1e-3 * share)
    lora = settings(first(request_of(base=str(other), adapter="lora", out=str(tmp_path / "two"))))
    assert lora.optim.lr == pytest.approx(1e-3 * of_lora)


def test_no_batch_is_larger_than_the_set(request_of, photos):
    for n in range(8, 30):
        (photos / f"{n}.png").unlink()
    (prior,) = prepare(request_of(stages=("prior",))).tasks
    assert settings(prior).data.batch_size < 9


def test_large_weights_train_by_an_adapter(request_of, monkeypatch):
    assert settings(first(request_of(adapter="lora"))).adapter.kind == "lora"
    monkeypatch.setattr(choices, "LARGE", 1)
    for task in prepare(request_of()).tasks:
        before, now = load_experiment(task.name).config, settings(task)
        assert (now.adapter.kind, now.adapter.rank, now.optim.lr) == ("lora", 32, before.optim.lr)
    assert settings(first(request_of(adapter="none"))).adapter.kind == "none"


def test_small_stages_share_the_cores_of_a_cpu(request_of, monkeypatch):
    together = []
    monkeypatch.setattr(finetune, "run_together", lambda commands: together.append([*commands]))
    request = request_of(preserve=0)
    prepared = prepare(request)
    finetune.finetune(request, prepared)
    monkeypatch.setattr(choices, "LARGE", 1)
    finetune.finetune(request, prepared)
    assert together == [["decoder", "prior"], ["decoder"], ["prior"]]
    assert not choices.side_by_side(request_of(device="cuda"))


def test_the_average_ends_where_the_training_does(request_of):
    """Of a short run the average forgets what it began from: its decay^steps is small."""
    for steps in (40, 1000):
        decay = settings(first(request_of(steps=steps))).ema.decay
        assert decay**steps < 1e-3


def test_batches_are_split_until_they_fit(cascade, photos, tmp_path, monkeypatch):
    asked = []

    def planned(resolved, **_):
        asked.append(resolved.config.trainer.accumulate)
        total = types.SimpleNamespace(memory=types.SimpleNamespace(total=2**31))
        chosen = types.SimpleNamespace(fits=asked[-1] >= fits, need=total, seconds=1.0)
        return types.SimpleNamespace(chosen=chosen, overrides=["trainer.cpu_offload=true"])

    monkeypatch.setattr(choices, "plan", planned)
    request = Request(source=str(photos), base=str(cascade), out=str(tmp_path / "m"))
    fits = 3
    words = parse_overrides(first(request).overrides)
    assert asked[:3] == [1, 2, 4]  # what divides a batch of 16
    assert (words["trainer.accumulate"], words["trainer.cpu_offload"]) == ("4", "true")
    fits = 1000
    with pytest.raises(UserError, match=r"needs 2\.0 GiB even with one sample at a time"):
        prepare(request)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stages": ("upsampler_9",)}, "--stages upsampler_9: must be one of decoder"),
        ({"overrides": ("data.source=x",)}, "data.source: is decided by"),
        ({"overrides": ("init=x",)}, "init: is decided by"),
        ({"overrides": ("optim.lrr=1",)}, "optim.lrr: "),
        ({"source": "nowhere"}, "nowhere does not exist"),
        ({"caption": " "}, "data.caption"),
    ],
)
def test_what_cannot_be_is_one_line_and_writes_nothing(request_of, tmp_path, changes, said):
    with pytest.raises(UserError, match=said):
        prepare(request_of(**changes))
    assert not (tmp_path / "mine").exists()


def test_images_without_captions_need_a_word(request_of, photos):
    for path in photos.glob("*.txt"):
        path.unlink()
    with pytest.raises(UserError, match="--token"):
        prepare(request_of())
    assert settings(first(request_of(caption="a photo of sks dog"))).data.caption


def test_a_folder_without_a_decoder_is_no_cascade(request_of, cascade, tmp_path):
    shutil.copytree(cascade / "clip", tmp_path / "c" / "clip")
    with pytest.raises(UserError, match="is not a cascade: decoder missing"):
        prepare(request_of(base=str(tmp_path / "c")))


def test_it_is_said_where_no_sample_is_held_out(request_of, photos, capsys):
    for path in sorted(photos.glob("*.txt"))[4:]:
        path.unlink()
        path.with_suffix(".png").unlink()
    note = "none of the 4 samples is held out at data.held_out=0.1"
    prepare(request_of())
    assert note in capsys.readouterr().err
    task = prepare(request_of(overrides=("data.held_out=0.7",), preserve=0)).tasks[0]
    assert note not in capsys.readouterr().err
    assert settings(task).data.held_out == 0.7
    assert settings(task).data.batch_size < 4  # of those that are left


def test_a_cascade_without_a_clip_says_how_to_add_one(request_of, cascade, tmp_path):
    shutil.copytree(cascade / "decoder", tmp_path / "c" / "decoder")
    with pytest.raises(UserError, match=r"c: has no clip, .* `unclip import SOURCE --out .*c`"):
        prepare(request_of(base=str(tmp_path / "c")))


@pytest.mark.slow
def test_from_images_to_a_page_and_again(cascade, photos, tmp_path, monkeypatch, capfd):
    ran = []

    def here(commands):
        for words in commands.values():
            ran.append(words[3:])
            assert main(words[3:]) == 0
            torch.set_num_threads(1)

    monkeypatch.setattr(finetune, "run_together", here)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})  # several would start pytest again
    monkeypatch.setattr(choices, "_memory", lambda *_: [])
    out = tmp_path / "mine"
    words = ["finetune", str(photos), "--from", str(cascade), "--out", str(out), "--steps", "2"]
    words += ["--prompt", "colour 3", "data.batch_size=4", "--device", "cpu"]
    assert main([*words, "--dry-run"]) == 0
    assert not ran
    assert not out.exists()
    assert main(words) == 0
    told = capfd.readouterr().out
    assert [run[0] for run in ran] == ["sample", "train", "train"]
    assert all(f"unclip {run[0]} {run[1]}" in told for run in ran)
    assert "50% of each batch is taken from 200 images that" in told
    for part in ("decoder", "prior"):
        old, new = (artifacts.describe(folder / part).weights() for folder in (cascade, out))
        assert any(not torch.equal(old[name], new[name]) for name in old)
    clip, theirs = (artifacts.describe(folder / "clip") for folder in (out, cascade))
    assert clip.sha256 == theirs.sha256
    assert not (out / "clip" / "checkpoints").exists()  # the artifact alone
    Pipeline.load(out).generate(["colour 3"], [0])
    page = (out / "index.html").read_text()
    assert "Before and after" in page
    assert "unclip train" in page
    assert (out / "before_and_after.png").is_file()
    monkeypatch.setattr(choices, "LARGE", 1)  # another choice now, which does not count
    assert main(words) == 0
    assert len(ran) == 3  # finished, kept
    capfd.readouterr()
    assert main([*words, "trainer.seed=1"]) == 2
    assert "was started with --overrides" in capfd.readouterr().err
    content = json.loads((out / finetune.FILE).read_text())
    whole = json.dumps(content)
    for damaged in (
        whole[:-9],
        json.dumps(content | {"tasks": [3]}),
        '{"request": 3, "tasks": []}',
        json.dumps(content | {"preservation": {"share": 1}}),
    ):
        (out / finetune.FILE).write_text(damaged)
        assert main(words) == 2
        assert "is damaged" in capfd.readouterr().err
    assert main([*words[:5], str(cascade), *words[6:]]) == 2
    assert "an input" in capfd.readouterr().err


def test_what_the_base_is_kept_by(request_of, cascade, tmp_path):
    """Captions of the base's scenes, of a file, or of the kind; else none, which is said."""
    chosen = prepare(request_of()).preservation
    assert (chosen.share, len(chosen.captions)) == (0.5, 200)  # more than two for each of 26
    assert len(set(chosen.captions)) > 25
    assert chosen == prepare(request_of()).preservation  # the same again
    file = tmp_path / "captions.txt"
    file.write_text("a cat\na dog\n")
    chosen = prepare(request_of(preserve=0.5, preserve_captions=str(file))).preservation
    assert (chosen.share, chosen.captions[:3]) == (0.5, ("a cat", "a dog", "a cat"))
    assert "--preserve 0" in prepare(request_of(preserve=0)).preservation
    stored = cascade / "decoder" / "artifact" / "config.yaml"
    other = tmp_path / "base"
    for part in ("clip", "prior", "decoder"):
        shutil.copytree(cascade / part / "artifact", other / part)
    (other / "decoder/config.yaml").write_text(
        stored.read_text().replace("source: scenes", "source: elsewhere")
    )
    base = {"base": str(other)}
    assert "no captions are known" in prepare(request_of(**base)).preservation
    assert settings(first(request_of(**base))).data.mixture == {}
    with pytest.raises(UserError, match="--preserve: no captions are known"):
        prepare(request_of(preserve=0.3, **base))
    told = {"caption": "a photo of sks dog", "token": "sks dog", **base}
    assert set(prepare(request_of(**told)).preservation.captions) == {"a photo of a dog"}


def test_what_is_preserved_keeps_its_z_i_where_there_is_one(request_of, cascade, tmp_path):
    assert prepare(request_of()).preservation.words[-2:] == ["--fast", "--keep-z-i"]
    other = tmp_path / "base"
    for part in ("clip", "prior", "decoder"):
        shutil.copytree(cascade / part / "artifact", other / part)
    config = other / "decoder/config.yaml"
    for change in ({"embedding": "text"}, {"model": {"use_z_i": False}}):
        content = yaml.safe_load((cascade / "decoder/artifact/config.yaml").read_text())
        content["model"] |= change.pop("model", {})
        config.write_text(yaml.safe_dump(content | change))
        preserved = prepare(request_of(base=str(other))).preservation
        assert preserved.words[-1] == "--fast"


def test_what_an_earlier_version_began_is_drawn_as_it_began(request_of, tmp_path):
    request = request_of()
    prepared = prepare(request)
    content = asdict(prepared.preservation)
    del content["fast"], content["keep_z_i"]
    words = Preservation(**content).words
    assert prepared.preservation.words == [*words, "--fast", "--keep-z-i"]


def test_many_images_are_not_protected_from(request_of, monkeypatch):
    monkeypatch.setattr(finetune, "SMALL_SET", 10)
    prepared = prepare(request_of())
    now = settings(prepared.tasks[0])
    assert (now.data.mixture, now.data.flip, now.trainer.early_stopping) == ({}, False, 0)
    assert isinstance(prepared.preservation, str)
    assert isinstance(prepare(request_of(preserve=0.2)).preservation, Preservation)


def test_what_the_first_steps_told_is_compared_with_the_truth(request_of):
    tasks = prepare(request_of()).tasks
    summaries = [
        {"forecast": 110.0, "training_seconds": 100.0},
        {"forecast": 9.0, "training_seconds": 5.0, "stopped_early": True}
        | {"steps": 40, "best_step": 20},
    ]
    runs = [types.SimpleNamespace(summary=summary) for summary in summaries]
    assert compared(tasks, runs) == [
        "decoder: told 110 s, took 100 s (+10 %)",
        "prior: stopped at step 40; its weights are of step 20",
    ]
    assert compared(tasks, [types.SimpleNamespace(summary={"forecast": None})] * 2) == []


WORD = {"adapter": "token", "token": "<sks> colour", "caption": "a photo of <sks> colour"}


def test_a_word_is_learned_by_the_prior_and_nothing_is_drawn_before(
    request_of, photos, cascade, tmp_path
):
    for n in range(9):  # some may be held out
        (photos / f"{n}.txt").write_text("<SKS> colour, bright")
    prepared = prepare(request_of(**WORD))
    (task,) = prepared.tasks
    now = settings(task)
    assert (task.part, task.folder) == ("prior", tmp_path / "mine" / "token_prior")
    assert (now.run.dir, now.init) == (str(task.folder), str(cascade / "prior"))
    told = (now.adapter.kind, now.adapter.token, now.adapter.vectors, now.adapter.initial)
    assert told == ("token", "<sks>", 1, "colour")
    assert (now.optim.name, now.optim.weight_decay) == ("adamw", 0)
    assert prepared.preservation == "off, since no weights change"
    other = request_of(**WORD | {"initial": "red blue", "vectors": 2})
    assert settings(first(other)).adapter.initial == "red blue"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"token": "photo"}, "--token=photo: is a word that CLIP knows"),
        ({"token": "my <sks>"}, "--token=my: is a word that CLIP knows"),
        ({"initial": "a b"}, "--initialise-from=a b: has 2 tokens, and the word 1 vector;"),
        ({"stages": ("decoder",)}, "so it can learn no word; give --stages prior"),
        ({"stages": ("decoder", "prior")}, "--stages decoder prior: a word is learned by one"),
        ({"stages": ("upsampler",)}, "so it can learn no word; give --stages prior"),
        ({"preserve": 0.3}, "--preserve: has no effect with --adapter token"),
    ],
)
def test_what_cannot_learn_a_word_is_one_line(request_of, photos, tmp_path, changes, said):
    for n in range(9):
        (photos / f"{n}.txt").write_text("<sks>")
    with pytest.raises(UserError) as caught:
        prepare(request_of(**WORD | changes))
    assert said in str(caught.value)
    assert not (tmp_path / "mine").exists()


def test_a_word_that_no_caption_says_is_one_line(request_of, tmp_path):
    with pytest.raises(UserError, match=r"^--token=<sks>: is in none of the training"):
        prepare(request_of(adapter="token", token="<sks>", caption="a photo of <sks>"))
    assert not (tmp_path / "mine").exists()


def test_a_cascade_without_clip_learns_no_word(request_of, cascade, tmp_path):
    shutil.copytree(cascade / "decoder" / "artifact", tmp_path / "c" / "decoder")
    with pytest.raises(UserError, match="has no CLIP, whose word it would be"):
        prepare(request_of(**WORD | {"base": str(tmp_path / "c")}))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--adapter", "token"], "--adapter token: needs --token"),
        (["--vectors", "2"], "--vectors: has no effect without --adapter token"),
        (["--initialise-from", "dog"], "--initialise-from: has no effect without"),
        (["--adapter", "token", "--token", "<a>", "--vectors", "0"], "must be at least 1"),
        (["--adapter", "token", "--token", "<a>", "--initialise-from", " "], "must be a text"),
    ],
)
def test_options_of_a_word_go_with_it(cascade, photos, tmp_path, capsys, words, said):
    given = ["finetune", str(photos), "--from", str(cascade), "--out", str(tmp_path / "o")]
    assert main([*given, *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_two_words_one_after_the_other(cascade, photos, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(
        finetune, "run_together", lambda commands: [main(w[3:]) for w in commands.values()]
    )
    monkeypatch.setattr(choices, "_memory", lambda *_: [])
    for path in photos.glob("*.txt"):
        path.unlink()
    one, two = tmp_path / "one", tmp_path / "two"
    words = ["--adapter", "token", "--steps", "2", "data.batch_size=4", "--device", "cpu"]
    words += ["--prompt", "a <sks>"]
    first = ["finetune", str(photos), "--from", str(cascade), "--token", "<sks>", "--out", str(one)]
    assert main([*first, *words]) == 0
    second = ["finetune", str(photos), "--from", str(one), "--out", str(two), "--token"]
    assert main([*second, "<SKS>", *words]) == 2
    assert "has learned it already" in capfd.readouterr().err
    assert main([*second, "<cup>", *words]) == 0
    base, once, twice = (Pipeline.load(folder) for folder in (cascade, one, two))
    captions = ["a photo", "a <sks>"]
    images = [p.generate(captions, [0, 0]).image for p in (base, once, twice)]
    assert torch.equal(images[0][0], images[2][0])
    assert torch.equal(images[1], images[2])
    assert not torch.equal(images[0][1], images[1][1])
    assert [*twice.cascade.tokenizer.words] == ["<sks>", "<cup>"]
    assert len({p.cascade.sha256 for p in (base, once, twice)}) == 3
    assert main([*first, *words]) == 0  # finished, kept
