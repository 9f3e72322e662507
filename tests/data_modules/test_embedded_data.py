"""Batches of priors and decoders whose embeddings lie on disk."""

import logging
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_data import (
    embeddings,
    is_held_out,
    records,
    tokenize,
    write_clip_retrieval,
    write_parquet,
)

from data_modules.decoder import DecoderData
from data_modules.prior import PriorData
from unclip.common.errors import UserError
from unclip.data.config import DataConfig, EmbeddedDataConfig, ScenesConfig
from unclip.data.decode import BadSample
from unclip.data.embedding_store.source import EmbeddingSource
from unclip.embeddings.lengths import stored
from unclip.embeddings.tokens import END_OF_TEXT, Tokenizer
from unclip.training.one_pass import z_i_of, z_t_of

COUNTS = (15, 5, 20)
TOTAL = sum(COUNTS)


@pytest.fixture
def folder(tmp_path):
    return write_clip_retrieval(tmp_path / "e", COUNTS)


def prior_data(folder, *, tokenize=Tokenizer(9), seed=1, **fields):
    config = DataConfig(**{"batch_size": 8, "held_out": 0.2, "val_samples": 5, **fields})
    return PriorData(
        config,
        clip_image_size=12,
        clip_tokenize=Tokenizer(12),
        tokenize=tokenize,
        seed=seed,
        embeddings=None if folder is None else EmbeddingSource(folder),
    )


def rows_of(batch):
    starts = np.cumsum([0, *COUNTS])
    return [int(starts[int(s)]) + int(r) for s, r in (key.split(":") for key in batch.keys)]


def assert_rows(batch, dtype="float16"):
    """The batch holds what the folder holds in the rows that its keys name."""
    rows = rows_of(batch)
    stored = embeddings(TOTAL).astype(dtype)[rows]
    captions = [f"image number {row}" for row in rows]
    assert batch.clip_image is None
    assert torch.equal(batch.z_i, torch.from_numpy(stored))
    assert torch.equal(batch.z_t, torch.from_numpy(-stored))
    assert torch.equal(batch.clip_tokens, Tokenizer(12)(captions))
    assert torch.equal(batch.tokens, Tokenizer(9)(captions))
    assert batch.captions in ([], captions)


def test_a_batch_is_rows_of_the_folder(folder):
    data = prior_data(folder)
    batches = list(data.train_dataloader())
    assert len(batches) == len(data.splits.train) // 8
    for batch in batches:
        assert_rows(batch)
        assert batch.captions == []  # not read where nobody looks at them
    seen = [row for batch in batches for row in rows_of(batch)]
    assert len(set(seen)) == len(seen)
    for batch in [*data.val_dataloader(), *data.one_pass(limit=11)]:
        assert_rows(batch)
        assert len(batch.captions) == len(batch.keys)


def test_rows_are_split_by_the_hash_of_their_key_so_captions_of_a_image_stay_together(tmp_path):
    keys = [f"{n // 3:04d}" for n in range(TOTAL)]
    folder = write_clip_retrieval(tmp_path / "e", COUNTS, keys=keys)
    data = prior_data(folder, held_out=0.3)
    held_out = [n for n, key in enumerate(keys) if is_held_out(key, 0.3)]
    assert 0 < len(held_out) < TOTAL
    assert data.splits.held_out.rows.tolist() == held_out
    training = sorted({*range(TOTAL)} - {*held_out})
    assert data.splits.train.rows.tolist() == training
    assert prior_data(folder, held_out=0.3, limit=4).splits.train.rows.tolist() == training[:4]
    assert len(prior_data(folder, held_out=0).splits.train) == TOTAL


def test_samples_and_their_order_are_those_of_the_images(tmp_path):
    rows = records(TOTAL)
    folder = write_clip_retrieval(tmp_path / "e", COUNTS, keys=[key for key, *_ in rows])
    pictures = prior_data(None, source=str(write_parquet(tmp_path / "d.parquet", rows)))
    stored = prior_data(folder)
    for a, b in (
        (pictures.train_dataloader(), stored.train_dataloader()),
        (pictures.val_dataloader(), stored.val_dataloader()),
    ):
        expected = [[int(key) for key in batch.keys] for batch in a]
        assert [rows_of(batch) for batch in b] == expected
        assert expected


def test_the_source_that_the_config_names_is_not_opened(folder):
    data = prior_data(folder, source="nowhere")
    data.setup()
    assert len(data.splits.train) + len(data.splits.held_out) == TOTAL


def test_scenes_contrast_does_not_order_embeddings(folder):
    paired = prior_data(folder, scenes=ScenesConfig(contrast=6)).train_dataloader()
    plain = prior_data(folder).train_dataloader()
    assert [b.keys for b in paired] == [b.keys for b in plain]


def test_workers_change_nothing(folder):
    for split in ("train_dataloader", "val_dataloader"):
        a, b = (list(getattr(prior_data(folder, num_workers=n), split)()) for n in (0, 2))
        assert [x.keys for x in a] == [x.keys for x in b]
        assert all(
            torch.equal(x.z_i, y.z_i) and torch.equal(x.tokens, y.tokens) for x, y in zip(a, b)
        )


def test_what_fit_pca_needs_is_there_without_captions(tmp_path):
    folder = write_clip_retrieval(tmp_path / "e", COUNTS, dtype="float32")
    for file in folder.glob("metadata/*"):
        file.unlink()
    batches = list(prior_data(folder, tokenize=None).one_pass())
    assert all(batch.tokens is batch.clip_tokens is None for batch in batches)
    rows = [row for batch in batches for row in rows_of(batch)]
    stored = torch.from_numpy(embeddings(TOTAL)[rows])
    assert torch.equal(torch.cat([batch.z_i for batch in batches]), stored)
    with pytest.raises(UserError, match="has no captions"):
        prior_data(folder).setup()


def test_embeddings_are_normalised_when_they_are_used(folder):
    batch = next(iter(prior_data(folder).train_dataloader()))
    expected = torch.nn.functional.normalize(batch.z_i.float(), dim=1)
    for kind in (None, "unit"):
        clip = SimpleNamespace(embeddings=kind)
        torch.testing.assert_close(z_i_of(clip, batch), expected)
        torch.testing.assert_close(z_t_of(clip, batch), -expected)
    assert torch.equal(stored(expected, "unit"), expected)  # what a float32 folder is for
    assert torch.equal(stored(torch.zeros(1, 8), "unit"), torch.zeros(1, 8))


def test_raw_embeddings_are_used_as_they_are_stored(folder):
    batch = next(iter(prior_data(folder).train_dataloader()))
    clip = SimpleNamespace(embeddings="raw")
    assert torch.equal(z_i_of(clip, batch), batch.z_i.float())
    assert torch.equal(z_t_of(clip, batch), batch.z_t.float())


@pytest.fixture
def holes(tmp_path):
    """A folder two rows of which are no numbers, and their names."""
    folder = write_clip_retrieval(tmp_path / "e", COUNTS)
    for kind, row in (("img_emb", 3), ("text_emb", 7)):
        file = folder / kind / f"{kind}_0.npy"
        array = np.load(file)
        array[row, 2] = np.nan
        np.save(file, array)
    return folder, {"0:3", "0:7"}


def test_rows_that_are_no_numbers_are_replaced_logged_once_and_the_rest_is_as_before(holes, caplog):
    folder, bad = holes
    data = prior_data(folder, held_out=0, batch_size=10)
    sound = write_clip_retrieval(folder.parent / "sound", COUNTS)
    expected = prior_data(sound, held_out=0, batch_size=10).train_dataloader()
    loader = data.train_dataloader()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            for batch, whole in zip(loader, expected, strict=True):
                assert_rows(batch)
                assert not bad & {*batch.keys}
                kept = [k for k, key in enumerate(whole.keys) if key not in bad]
                assert [batch.keys[k] for k in kept] == [whole.keys[k] for k in kept]
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    for name in bad:
        line = f"skipped {folder}: shard:row {name}: the embedding is not finite"
        assert messages.count(line) == 1
    again = prior_data(folder, held_out=0, batch_size=10).train_dataloader()
    first = prior_data(folder, held_out=0, batch_size=10, num_workers=1).train_dataloader()
    assert [b.keys for b in again] == [b.keys for b in first]


def test_a_row_that_is_no_number_stops_the_run_where_it_is_told_to(holes):
    folder, _ = holes
    data = prior_data(folder, held_out=0, on_error="error")
    with pytest.raises(
        BadSample, match=r"shard:row 0:[37]: the embedding is not finite \(data\.on_error=skip"
    ):
        list(data.train_dataloader())


@pytest.mark.parametrize("which", ["img", "text"])
def test_embeddings_of_zeros_are_refused(tmp_path, which):
    """They have no direction: a prior would train on them without a word."""
    folder = write_clip_retrieval(tmp_path / "e", COUNTS)
    for number, count in enumerate(COUNTS):
        np.save(folder / f"{which}_emb/{which}_emb_{number}.npy", np.zeros((count, 8), np.float16))
    for on_error, message in (
        ("skip", "almost no usable rows"),
        ("error", "the embedding is all zeros"),
    ):
        with pytest.raises(UserError, match=message):
            list(prior_data(folder, held_out=0, on_error=on_error).train_dataloader())


def test_too_many_rows_that_are_no_numbers_stop_the_run(tmp_path):
    folder = write_clip_retrieval(tmp_path / "e", COUNTS)
    np.save(folder / "img_emb/img_emb_2.npy", np.full((20, 8), np.inf, np.float16))
    loader = prior_data(folder, held_out=0, batch_size=10, max_skipped=0.3).train_dataloader()
    message = r"\d+ of the first \d+ .* data\.max_skipped=0\.3: the embedding is not finite \(\d+\)"
    with pytest.raises(UserError, match=message):
        [list(loader) for _ in range(3)]
    for number, count in enumerate(COUNTS):
        np.save(folder / f"img_emb/img_emb_{number}.npy", np.full((count, 8), np.inf, np.float16))
    loader = prior_data(folder, held_out=0, max_skipped=1.0).train_dataloader()
    with pytest.raises(UserError, match=r"almost no usable rows; the last: .* not finite"):
        list(loader)


def decoder_data(source, folder, **fields):
    config = DataConfig(source=str(source), **{"batch_size": 8, "held_out": 0.2, **fields})
    return DecoderData(
        config,
        image_size=6,
        clip_image_size=12,
        clip_tokenize=tokenize,
        tokenize=tokenize,
        seed=1,
        embeddings=None if folder is None else EmbeddingSource(folder),
    )


def test_images_find_their_embedding_by_key_wherever_it_lies(tmp_path):
    rows = records(TOTAL)
    shuffled = np.random.default_rng(0).permutation(TOTAL + 9)  # and some of other images
    folder = write_clip_retrieval(
        tmp_path / "e", (30, 10, 9), keys=[f"{n:04d}" for n in shuffled], dtype="float32"
    )
    parquet = write_parquet(tmp_path / "d.parquet", rows)
    stored = torch.from_numpy(embeddings(TOTAL + 9))
    place = {f"{n:04d}": at for at, n in enumerate(shuffled)}
    plain, joined = (decoder_data(parquet, f, flip=True) for f in (None, folder))
    for a, b in (
        (plain.train_dataloader(), joined.train_dataloader()),
        (plain.val_dataloader(), joined.val_dataloader()),
    ):
        for without, batch in zip(a, b, strict=True):
            assert torch.equal(batch.z_i, stored[[place[key] for key in batch.keys]])
            assert batch.clip_image is None
            assert without.z_i is None
            for name in ("image", "tokens", "clip_tokens"):
                assert torch.equal(getattr(batch, name), getattr(without, name))
            assert (batch.keys, batch.captions) == (without.keys, without.captions)
    assert plain.splits.train.fingerprint() != joined.splits.train.fingerprint()


def test_several_rows_of_a_key_are_of_one_image(tmp_path):
    rows = records(10)
    keys = [f"{n // 2:04d}" for n in range(20)]
    folder = write_clip_retrieval(tmp_path / "e", (20,), keys=keys, dtype="float32")
    array = np.load(folder / "img_emb/img_emb_0.npy")
    np.save(folder / "img_emb/img_emb_0.npy", array[np.arange(20) // 2 * 2])
    data = decoder_data(write_parquet(tmp_path / "d.parquet", rows), folder, held_out=0)
    batch = next(iter(data.train_dataloader()))
    first = torch.from_numpy(embeddings(20))[::2]
    assert torch.equal(batch.z_i, first[[int(key) for key in batch.keys]])


def test_a_image_without_a_finite_embedding_is_a_bad_sample(tmp_path):
    rows = records(30)
    folder = write_clip_retrieval(tmp_path / "e", (29,))
    array = np.load(folder / "img_emb/img_emb_0.npy")
    array[4] = np.nan
    np.save(folder / "img_emb/img_emb_0.npy", array)
    parquet = write_parquet(tmp_path / "d.parquet", rows)
    source = decoder_data(parquet, folder, held_out=0).splits.train
    assert source[3].key == "0003"
    with pytest.raises(BadSample, match=r"^0029: has no embedding in "):
        source[29]
    with pytest.raises(BadSample, match=r"^0004: its embedding in .* is not finite"):
        source[4]
    for batch in decoder_data(parquet, folder, held_out=0).train_dataloader():
        assert not {"0029", "0004"} & {*batch.keys}
        assert batch.z_i.isfinite().all()


def test_embeddings_of_other_data_are_refused(tmp_path):
    parquet = write_parquet(tmp_path / "d.parquet", records(30))
    other = write_clip_retrieval(tmp_path / "e", (9,), keys=[f"other/{n}" for n in range(9)])
    message = (
        r"has none of the first \d+ keys of data\.source \(0000, \.\.\.\), but other/0, \.\.\."
    )
    with pytest.raises(UserError, match=message):
        decoder_data(parquet, other).setup()
    for file in other.glob("metadata/*"):
        file.unlink()
    with pytest.raises(UserError, match=r"has no keys to find images by \(metadata/metadata_0"):
        decoder_data(parquet, other)


def test_crops_that_the_embedding_has_not_seen_are_refused():
    EmbeddedDataConfig(crop="random").validate()
    EmbeddedDataConfig(embeddings="e", flip=True).validate()
    with pytest.raises(UserError, match=r"data\.crop: must be center with data\.embeddings"):
        EmbeddedDataConfig(embeddings="e", crop="random").validate()
    with pytest.raises(UserError, match=r"data\.embeddings: must name a folder, or be null"):
        EmbeddedDataConfig(embeddings="").validate()


@pytest.mark.parametrize("apart", [True, False])
def test_a_key_that_stands_for_two_images_is_refused(tmp_path, apart):
    keys = ["0", "1", "0", "2"] if apart else ["0", "0", "1", "2"]
    folder = write_clip_retrieval(tmp_path / "e", (4,), keys=keys)
    where = "0 and 2" if apart else "0 and 1"
    message = rf"one key stands for several images, as '0' in rows {where}; embed the source again"
    with pytest.raises(UserError, match=message):
        decoder_data(write_parquet(tmp_path / "d.parquet", records(3)), folder)


def silent(kind, captions):
    return {
        "null": lambda: pa.nulls(len(captions)),
        "string": lambda: pa.array(captions, pa.string()),
        "string_view": lambda: pa.array(captions, pa.string()).cast(pa.string_view()),
        "dictionary": lambda: pa.array(captions, pa.string()).dictionary_encode(),
        "large_string": lambda: pa.array(captions, pa.large_string()),
    }[kind]()


def write_captions(folder, shard, captions):
    first = sum(COUNTS[:shard])
    keys = [f"{first + n:04d}" for n in range(COUNTS[shard])]
    table = pa.table({"image_path": keys, "caption": captions})
    pq.write_table(table, folder / f"metadata/metadata_{shard}.parquet")


@pytest.mark.parametrize("texts", [True, False])
@pytest.mark.parametrize("tokenized", [True, False])
@pytest.mark.parametrize("kind", ["null", "string", "string_view", "dictionary", "large_string"])
def test_rows_without_a_caption_are_bad_samples_and_their_column_may_have_any_type(
    tmp_path, caplog, kind, tokenized, texts
):
    folder = write_clip_retrieval(tmp_path / "e", COUNTS, texts=texts)
    captions = [None, "", " \n", "a", "b"]
    write_captions(folder, 1, silent(kind, captions))
    bad = {f"1:{n}" for n in range(5 if kind == "null" else 3)}
    tokenize = Tokenizer(9) if tokenized else None
    loader = prior_data(folder, tokenize=tokenize, held_out=0, max_skipped=0.5).train_dataloader()
    for _ in range(2):
        for batch in loader:
            assert not bad & {*batch.keys}
            if tokenized or not texts:
                assert (batch.clip_tokens[:, 1] != END_OF_TEXT).all()
    messages = {record.getMessage() for record in caplog.records}
    assert messages == {f"skipped {folder}: shard:row {n}: the caption is empty" for n in bad}


def test_a_folder_whose_captions_are_all_missing_says_so(tmp_path):
    folder = write_clip_retrieval(tmp_path / "e", COUNTS)
    for shard, count in enumerate(COUNTS):
        write_captions(folder, shard, pa.nulls(count))
    loader = prior_data(folder, held_out=0).train_dataloader()
    with pytest.raises(UserError, match=r"almost no usable rows; the last: .* caption is empty"):
        list(loader)
    table = pa.table({"image_path": [f"{n:04d}" for n in range(15, 20)]})
    pq.write_table(table, folder / "metadata/metadata_1.parquet")
    with pytest.raises(
        UserError, match=r"no captions: expected .*metadata_1\.parquet with a column"
    ):
        prior_data(folder, held_out=0).setup()


def test_two_columns_of_captions_are_refused(tmp_path):
    folder = write_clip_retrieval(tmp_path / "e", COUNTS)
    columns = [pa.array(["x"] * 5)] * 3
    table = pa.Table.from_arrays(columns, names=["image_path", "caption", "caption"])
    pq.write_table(table, folder / "metadata/metadata_1.parquet")
    with pytest.raises(UserError, match=r"metadata_1\.parquet has two columns called caption"):
        EmbeddingSource(folder)


def test_tokens_beyond_the_vocabulary_are_a_bad_sample(tmp_path):
    folder = write_clip_retrieval(tmp_path / "e", COUNTS)
    list(prior_data(folder, held_out=0).train_dataloader())
    (file,) = folder.glob("tokens_12/*_1.npy")
    array = np.load(file)
    array[2, 3] = 65535
    np.save(file, array)
    data = prior_data(folder, held_out=0, on_error="error")
    with pytest.raises(
        BadSample, match=r"shard:row 1:2: a token is not below 49408, as CLIP's are"
    ):
        list(data.train_dataloader())
