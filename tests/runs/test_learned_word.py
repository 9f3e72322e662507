"""A word that a frozen CLIP learns in a run: nothing else changes, and its artifact teaches it."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from unclip.cli import main
from unclip.common import artifacts
from unclip.common.adapters import WORD
from unclip.common.errors import UserError
from unclip.config.load import load_experiment, merge_overrides
from unclip.pipeline.pipeline import Pipeline
from unclip.runs import init
from unclip.runs.parents import parents
from unclip.runs.train import assemble, train
from unclip.stages import registry

TOKEN = ["adapter.kind=token", "adapter.token=<sks>", "optim.lr=0.05", "ema.decay=0.1"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for n in range(8):
        Image.new("RGB", (16, 16), (30 * n, 255 - 30 * n, 40)).save(folder / f"{n}.png")
    return folder


@pytest.fixture
def resolved(minute_experiment, cascade, photos, tmp_path):
    """A minute experiment of a kind by which a word is learned."""

    def resolved(kind, *overrides, folder="run"):
        given = {"run.dir": tmp_path / folder, "init": cascade / kind, "clip": cascade / "clip"}
        given |= {"data.source": photos, "data.caption": "a photo of <sks>", "data.held_out": 0}
        given |= {"pca": cascade / "pca"} if kind == "ar_prior" else {}
        words = [f"{key}={value}" for key, value in given.items()]
        words = merge_overrides(words, TOKEN, overrides)
        return load_experiment(str(minute_experiment(kind)), words)

    return resolved


@pytest.mark.parametrize("kind", ["prior", pytest.param("ar_prior", marks=pytest.mark.slow)])
def test_the_gradient_is_in_the_new_rows_alone(resolved, kind):
    wanted = resolved(kind, "adapter.vectors=2", "adapter.initial=cat")
    data, stage, _ = assemble(wanted, parents(wanted)._replace(init=init.find(wanted)))
    pair = stage.encode(next(iter(data.train_dataloader())))
    stage.loss(stage.net, pair, stage.step_random(0, 0), training=True)["loss"].backward()
    trained = {n for n, p in stage.net.named_parameters() if p.grad is not None and p.grad.any()}
    assert trained == {WORD}
    assert getattr(stage.net, WORD).grad.any(dim=1).all()  # of both vectors
    for net in (stage.ema, stage.clip.model):
        assert all(p.grad is None for p in net.parameters())
    assert [*stage.weights()] == [WORD]


@pytest.mark.slow
def test_a_run_changes_the_word_alone_and_teaches_it(resolved, cascade, tmp_path, capfd):
    finished = train(resolved("prior"))
    assert "<sks>: 1 vector, at first the mean" in capfd.readouterr().err
    found = artifacts.describe(finished.artifact)
    rows = found.weights()[WORD]
    clip = registry.STAGES["clip"].load(cascade / "clip")
    before = clip.model.tokenize(["<sks>"])
    net = registry.STAGES[found.stage].load(finished.artifact, clip).net
    base = artifacts.describe(cascade / "prior").weights()
    assert all(torch.equal(base[n], t) for n, t in net.state_dict().items())
    assert (before >= 0).all()
    assert (clip.model.tokenize(["<sks>"]) < 0).sum() == 1
    assert not torch.allclose(rows, clip.model.model.token_embedding.weight.mean(dim=0))
    assert found.path.joinpath("weights.safetensors").stat().st_size < 4096
    assert found.clip_fingerprint == clip.fingerprint
    plain, taught = (Pipeline.load(cascade, adapters=a) for a in ([], [str(found.path)]))
    assert plain.cascade.sha256 != taught.cascade.sha256
    images = [p.generate(["a photo", "a <sks>"], [0, 0]).image for p in (plain, taught)]
    assert torch.equal(images[0][0], images[1][0])
    assert not torch.equal(images[0][1], images[1][1])
    with pytest.raises(UserError, match="has no weight"):
        Pipeline.load(cascade, adapters=[f"{found.path}:0.5"])
    with pytest.raises(UserError, match="holds a learned word alone"):
        train(resolved("prior", f"init={found.path}", folder="second"))
    assert main(["merge", str(found.path), "--out", str(tmp_path / "m")]) == 2
    assert "is a learned word" in capfd.readouterr().err


@pytest.mark.slow
def test_a_resumed_word_has_the_same_bits(resolved):
    whole = train(resolved("prior", "trainer.max_steps=4", folder="whole"))
    train(resolved("prior", "trainer.max_steps=2", folder="parts"))
    parts = train(resolved("prior", "trainer.max_steps=4", folder="parts"), resume=True)
    one, two = (artifacts.describe(f.artifact).weights()[WORD] for f in (whole, parts))
    assert torch.equal(one, two)


@pytest.mark.parametrize(
    ("kind", "overrides", "line"),
    [
        ("prior", ["adapter.token=photo"], "adapter.token=photo: is a word that CLIP knows"),
        ("prior", ["adapter.token=a b"], "adapter.token='a b': must be one word"),
        ("prior", ["adapter.token="], "must be the new word"),
        ("prior", ["adapter.token=null"], "must be the new word"),
        ("prior", ["adapter.vectors=0"], "adapter.vectors=0: must be at least 1"),
        ("prior", ["adapter.rank=2"], "adapter.rank=2: has no effect without adapter.kind=lora"),
        ("prior", ["adapter.initial=a b c"], "adapter.initial=a b c: has 3 tokens"),
        ("prior", ["adapter.token=<other>"], "adapter.token=<other>: is in none of the"),
        ("prior", ["optim.name=muon"], "optim.name='muon': must be adamw"),
        ("prior", ["trainer.strategy=fsdp"], "trainer.strategy='fsdp': must be auto or ddp"),
        ("prior", ["init=null"], "adapter.kind='token': needs init"),
        (
            "prior",
            ["adapter.kind=lora"],
            "adapter.token='<sks>': has no effect without adapter.kind=token",
        ),
        ("prior", ["data.embeddings=x"], "data.embeddings='x': must be null"),
        ("decoder", [], "adapter.kind=token: nothing that the CLIP says of captions"),
    ],
)
def test_what_cannot_learn_a_word_is_one_line(resolved, tmp_path, kind, overrides, line):
    with pytest.raises(UserError) as caught:
        train(resolved(kind, *overrides))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
