"""`data.cache_embeddings`: the same training, with every image and caption encoded once."""

from __future__ import annotations

import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from unclip.common.errors import UserError
from unclip.config.load import load_experiment, merge_overrides
from unclip.data.batches import PriorBatch
from unclip.data.embedding_store.table import VectorTable, keys_of, record_type
from unclip.embeddings.clip import Clip
from unclip.runs.train import train
from unclip.stages.clip import part
from unclip.training import encodings
from unclip.training.callbacks import Throughput
from unclip.training.encodings import CachedData, Encodings, Needed, Reads

KINDS = ("prior", "ar_prior", "decoder", "text_decoder")
MORE = {"text_decoder": ["embedding=text", "model.caption=clip", "model.context_mask=true"]}


@pytest.fixture
def load(cascade, minute_experiment, tmp_path, monkeypatch):
    monkeypatch.setenv("UNCLIP_CACHE", str(tmp_path / "cache"))

    def load(kind, folder, *more):
        given = [f"run.dir={tmp_path / folder}", f"clip={cascade / 'clip'}", "trainer.max_steps=8"]
        given += ["data.scenes.count=8", "trainer.threads=1", *MORE.get(kind, [])]
        if kind == "ar_prior":
            given.append(f"pca={cascade / 'pca'}")
        file = minute_experiment("decoder" if "decoder" in kind else kind)
        return load_experiment(str(file), merge_overrides(given, more))

    return load


@pytest.fixture
def encoded(monkeypatch):
    """How many images and captions the frozen CLIP has encoded."""
    count = SimpleNamespace(images=0, captions=0)
    image, text = Clip.encode_image, Clip.encode_text

    def encode_image(self, images):
        count.images += len(images)
        return image(self, images)

    def encode_text(self, tokens):
        count.captions += len(tokens)
        return text(self, tokens)

    monkeypatch.setattr(Clip, "encode_image", encode_image)
    monkeypatch.setattr(Clip, "encode_text", encode_text)
    return count


def weights(folder):
    return (folder / "artifact/weights.safetensors").read_bytes()


@pytest.mark.parametrize(
    "kind", ["prior", "ar_prior", *(pytest.param(k, marks=pytest.mark.slow) for k in KINDS[2:])]
)
def test_training_with_kept_encodings_has_the_same_bits(load, tmp_path, encoded, kind, capsys):
    train(load(kind, "never", "data.cache_embeddings=never"))
    assert "are kept in" not in capsys.readouterr().err
    live = encoded.images + encoded.captions
    train(load(kind, "first", "data.cache_embeddings=always"))
    assert "encodings" in capsys.readouterr().err
    encoded.images = encoded.captions = 0
    train(load(kind, "second", "data.cache_embeddings=always"))
    assert weights(tmp_path / "never") == weights(tmp_path / "first")
    assert weights(tmp_path / "never") == weights(tmp_path / "second")
    assert encoded.images + encoded.captions < live / 2  # the trial, previews and null text


def test_a_killed_run_resumes_with_the_same_bits(load, tmp_path, monkeypatch):
    train(load("prior", "never", "data.cache_embeddings=never"))

    def killed(self, trainer, *args, **kwargs):
        if trainer.global_step == 5:
            raise MemoryError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(Throughput, "on_train_batch_start", killed)
        with pytest.raises(MemoryError):
            train(load("prior", "parts", "trainer.checkpoint_every=2"))
    train(load("prior", "parts"), resume=True)
    assert weights(tmp_path / "never") == weights(tmp_path / "parts")


def test_what_is_drawn_anew_or_once_is_not_kept(load, tmp_path, capsys):
    train(load("prior", "random", "data.crop=random", "trainer.max_steps=3"))
    train(load("prior", "once", "trainer.max_steps=2"))  # 8 samples, of 8
    assert not (tmp_path / "cache/encodings").exists()
    assert "kept" not in capsys.readouterr().err
    for more in ("data.crop=random", "data.flip=true", "data.embeddings=x"):
        with pytest.raises(UserError, match=r"data\.cache_embeddings=.always.: must be auto"):
            load("prior", "always", "data.cache_embeddings=always", more)


@pytest.fixture
def clip(cascade):
    return part.load(str(cascade / "clip"))


def batch_of(clip, keys):
    rng = torch.Generator().manual_seed(len(keys))
    side = clip.model.image_size
    image = torch.rand(len(keys), 3, side, side, generator=rng)
    return PriorBatch(image, clip.model.tokenize(keys), None, keys, keys)


NEEDED = Needed(data="some", images=8, captions=8, batch=4)
READS = Reads(image=True, text=True)


def test_encodings_of_another_clip_data_or_machine_are_others(clip, tmp_path):
    def folder(clip=clip, needed=NEEDED):
        return Encodings(clip, READS, needed, home=tmp_path, exact=True).folder

    first = folder()
    assert folder() == first
    assert folder(needed=NEEDED._replace(data="other")) != first
    other = SimpleNamespace(model=clip.model, fingerprint="other", source=clip.source)
    assert folder(clip=other) != first
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert folder() != first
    finally:
        torch.set_num_threads(threads)


def test_captions_are_kept_where_each_is_drawn_twice(clip, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("UNCLIP_CACHE", str(tmp_path))

    def kept(draws, images=8, captions=24):
        needed = NEEDED._replace(images=images, captions=captions)
        found = CachedData("auto", needed, draws, False).encodings(clip, READS)
        return found and sorted(p.stem for p in found.folder.iterdir())

    assert kept(8) is None
    assert kept(47) == ["z_i"]
    assert "encodings of images by" in capsys.readouterr().err
    assert kept(48) == ["z_i", "z_t"]
    assert kept(10**12, captions=10**9) == ["z_i"]
    assert "do not fit" in capsys.readouterr().err


def test_batches_of_other_sizes_are_left_alone(clip, tmp_path):
    found = Encodings(clip, READS, NEEDED, home=tmp_path, exact=True)
    few = batch_of(clip, ["a", "b"])
    assert found.complete(found.look_up(few)) == few


def test_a_clip_whose_rows_depend_on_their_place_is_not_kept(clip, tmp_path, monkeypatch):
    encode = Clip.encode_image

    def unsteady(self, images):
        return encode(self, images) + torch.arange(len(images))[:, None] * 1e-7

    monkeypatch.setattr(Clip, "encode_image", unsteady)
    with pytest.raises(UserError, match="rounding depends on a sample's place"):
        Encodings(clip, READS, NEEDED, home=tmp_path, exact=True)
    found = Encodings(clip, READS, NEEDED, home=tmp_path, exact=False)
    batch = batch_of(clip, list("abcd"))
    first = found.complete(found.look_up(batch)).encoded
    again = found.complete(found.look_up(batch)).encoded
    assert torch.equal(first.z_i, again.z_i)


def test_sizes_that_round_otherwise_are_encoded_in_larger_batches(clip, monkeypatch):
    def two_differ(self, images):
        return images.flatten(1) + 1.0 * (len(images) == 2)

    monkeypatch.setattr(Clip, "encode_image", two_differ)
    assert encodings.steady_sizes(clip.model, Reads(image=True), 6) == [1, 4, 6]


def test_a_full_disk_stops_keeping_and_no_training(clip, tmp_path, monkeypatch, capsys):
    found = Encodings(clip, READS, NEEDED, home=tmp_path, exact=True)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    batch = batch_of(clip, list("abcd"))
    expected = clip.model.encode_image(batch.clip_image)
    for _ in range(2):
        assert torch.equal(found.complete(found.look_up(batch)).encoded.z_i, expected)
    assert capsys.readouterr().err.count("nothing more is kept: No space left on device") == 1


def test_what_was_used_longest_ago_makes_room(tmp_path, monkeypatch):
    monkeypatch.setattr(encodings, "MOST", 3 * 4096)
    for age, name in enumerate(("new", "mine", "old")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "z_i.bin").write_bytes(b"x" * 4096)
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    encodings.make_room(tmp_path, 4096, keep=tmp_path / "mine")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "new", "old"]
    encodings.make_room(tmp_path, 2 * 4096, keep=tmp_path / "mine")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine", "new"]
    with pytest.raises(UserError, match="do not fit"):
        encodings.make_room(tmp_path, 4 * 4096, keep=tmp_path / "mine")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=4096))
    with pytest.raises(UserError, match="half of the"):  # of these, of mine and of new
        encodings.make_room(tmp_path, 6145, keep=tmp_path / "mine")
    assert (tmp_path / "new").exists()
    encodings.make_room(tmp_path, 4097, keep=tmp_path / "mine")
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_a_table_gives_what_it_was_given_and_nothing_that_is_torn(tmp_path):
    keys = keys_of(f"{n}".encode() for n in range(40))
    vectors = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    one = VectorTable(tmp_path / "a.bin", length=3, records=40)
    other = VectorTable(tmp_path / "a.bin", length=3, records=40)
    one.write(keys[:30], vectors[:30])
    found, there = other.read(keys)
    assert there.tolist() == [True] * 30 + [False] * 10
    assert (found[:30] == vectors[:30]).all()
    size = record_type(3).itemsize
    data = bytearray((tmp_path / "a.bin").read_bytes())
    place = data.index(vectors[0].tobytes())
    data[place] ^= 1
    (tmp_path / "a.bin").write_bytes(data)
    assert one.read(keys)[1].sum() == 29
    assert len(data) % size == 0
    one.write(keys, vectors)
    found, there = other.read(keys)
    assert there.all()
    assert (found == vectors).all()
    one.write(keys, vectors)
    assert (tmp_path / "a.bin").read_bytes().count(vectors[0].tobytes()) == 1
    for table in (one, other):
        table.close()


def test_keys_without_a_place_are_not_kept(tmp_path):
    table = VectorTable(tmp_path / "a.bin", length=1, records=1)
    keys = keys_of(f"{n}".encode() for n in range(200))
    table.write(keys, np.ones((200, 1), np.float32))
    there = table.read(keys)[1]
    assert 0 < there.sum() < 200
    table.close()
