"""Samples that bring the z_i they were drawn from: read from a tar, and not encoded again."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_modules.decoder import DecoderData
from data_modules.prior import PriorData
from unclip.common.errors import UserError
from unclip.data.batches import brought_z_i
from unclip.data.config import DataConfig, MixtureConfig
from unclip.data.dataset import Example, Examples
from unclip.data.decode import BadSample, json_caption, json_fields
from unclip.data.order import Draw
from unclip.data.pack.pack import Packing, pack
from unclip.data.pack.shards import SampleRow, write_tar
from unclip.data.readers.tar import TarSource
from unclip.data.transforms import Square
from unclip.stages.clip.part import load as load_clip
from unclip.training.one_pass import z_i_of

Z_I = np.random.default_rng(0).standard_normal((6, 16)).astype(np.float32)
Z_I /= np.linalg.norm(Z_I, axis=1, keepdims=True)


def image_file(number: int) -> bytes:
    """A PNG, no two alike, none its own mirror image."""
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """A tar of images; the last one has no z_i."""
    rows = [
        SampleRow(f"{k:03d}", "png", image_file(k), ["a thing"], {"seed": k}, z_i)
        for k, z_i in enumerate([*Z_I[:5].tolist(), None])
    ]
    write_tar(tmp_path / "drawn.tar", rows)
    return tmp_path / "drawn.tar"


@pytest.fixture(scope="module")
def clip(cascade):
    """The tiny cascade's."""
    return load_clip(cascade / "clip").model


def test_a_tar_gives_back_the_bits(drawn):
    source = TarSource(drawn)
    for k in range(5):
        sample = source[k]
        assert sample.captions == ["a thing"]
        assert sample.z_i.dtype == np.float32
        assert np.array_equal(sample.z_i, Z_I[k])
    assert source[5].z_i is None
    assert source[5].captions == ["a thing"]


def test_several_captions_stay_beside_it(tmp_path):
    write_tar(tmp_path / "a.tar", [SampleRow("0", "png", image_file(0), ["a", "b"], None, [1.0])])
    sample = TarSource(tmp_path / "a.tar")[0]
    assert sample.captions == ["a", "b"]
    assert sample.z_i.tolist() == [1.0]


@pytest.mark.parametrize(
    "z_i",
    [
        *("3", "[]", '["x"]', '["1"]', "[true]", "[[1, 2]]", "[NaN]", "[1e999]", "[1, null]"),
        *("[0, 0]", "[1e39, 1]", f"[1{'0' * 400}]"),
    ],
)
def test_what_is_no_embedding_is_a_bad_sample(z_i):
    text = f'{{"caption": "a thing", "z_i": {z_i}}}'
    with pytest.raises(BadSample, match="here: "):
        json_fields(text.encode(), where="here")


def test_a_caption_is_read_whatever_is_said_of_z_i():
    assert json_caption(b'{"caption": "a thing", "z_i": "abc"}', where="here") == "a thing"


def test_packing_keeps_it(drawn, tmp_path):
    out = tmp_path / "packed"
    pack(TarSource(drawn), out, Packing(format="tar"), workers=0, on_error="error", force=False)
    (shard,) = out.glob("*.tar")
    packed = TarSource(shard)
    assert [packed[k].z_i is None for k in range(6)] == [False] * 5 + [True]
    assert all(np.array_equal(packed[k].z_i, Z_I[k]) for k in range(5))


def test_a_json_without_one_has_none():
    assert json_fields(b'{"caption": "a thing"}', where="here") == ("a thing", None)
    assert json_fields(b"[1, 2]", where="here") == (None, None)


def test_an_image_with_its_z_i_is_never_mirrored(drawn):
    source = TarSource(drawn)
    examples = Examples(source, Square(sizes=(8,), flip=True), seed=0)
    whole = [source[k].image for k in range(6)]
    for epoch in range(16):
        for k in range(5):
            assert np.array_equal(examples[Draw(epoch, k)].images[0], whole[k])
    mirrored = [
        np.array_equal(examples[Draw(n, 5)].images[0], whole[5][:, ::-1]) for n in range(16)
    ]
    assert any(mirrored)
    assert not all(mirrored)


def example(z_i: np.ndarray | None) -> Example:
    return Example("key", "a thing", (), z_i=z_i)


def test_rows_without_one_are_nan():
    found = brought_z_i([example(Z_I[0]), example(None), example(Z_I[2])])
    assert torch.equal(found[0::2], torch.from_numpy(Z_I[0:3:2]))
    assert found[1].isnan().all()
    assert brought_z_i([example(None)] * 3) is None
    with pytest.raises(UserError, match="key: its z_i has 16 numbers, that of key 3; leave out"):
        brought_z_i([example(Z_I[0]), example(Z_I[1, :3])])


@pytest.mark.parametrize("kind", ["decoder", "prior"])
def test_a_mixture_encodes_the_others_alone(drawn, clip, kind):
    mixture = {"own": MixtureConfig(source="scenes"), "base": MixtureConfig(source=str(drawn))}
    config = DataConfig(source="mixture", mixture=mixture, batch_size=16, held_out=0.0, flip=True)
    words = dict(clip_image_size=clip.image_size, clip_tokenize=clip.tokenize, seed=0)
    if kind == "decoder":
        data = DecoderData(config, image_size=16, tokenize=clip.tokenize, **words)
    else:
        data = PriorData(config, tokenize=clip.tokenize, **words)
    batch = next(iter(data.train_dataloader()))
    found, encoded = z_i_of(clip, batch), clip.encode_image(batch.clip_image)
    known = {f"base/{k:03d}": torch.from_numpy(Z_I[k]) for k in range(5)}
    rows = [key in known for key in batch.keys]
    assert any(rows)
    assert not all(rows)
    for k, key in enumerate(batch.keys):
        assert torch.equal(found[k], known.get(key, encoded[k]))


def test_a_z_i_of_another_clip_is_refused(drawn, clip):
    data = PriorData(
        DataConfig(source=str(drawn), batch_size=4, held_out=0.0),
        clip_image_size=clip.image_size,
        clip_tokenize=clip.tokenize,
        tokenize=clip.tokenize,
        seed=0,
    )
    batch = next(iter(data.train_dataloader()))
    with pytest.raises(UserError, match=r"00\d: its z_i has 3 numbers, the CLIP's have 16"):
        z_i_of(clip, batch._replace(brought=batch.brought[:, :3]))
