"""Reading folders of embeddings: ours is written in tests/cli/test_embed.py."""

import json
import pickle
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_data import embeddings, is_held_out, write_clip_retrieval

from unclip.common.errors import UserError
from unclip.data.embedding_store.arrays import usable_rows
from unclip.data.embedding_store.layout import file_of, files_of
from unclip.data.embedding_store.rows import truncate_tokens
from unclip.data.embedding_store.source import EmbeddingSource
from unclip.data.embedding_store.writer import EmbeddingShard, Writer
from unclip.data.keys import held_out_mask, key_hashes
from unclip.embeddings.clip import FrozenClip
from unclip.embeddings.tokens import Tokenizer


@pytest.fixture
def folder(tmp_path):
    return write_clip_retrieval(tmp_path / "e")


def put(path, array):
    path.parent.mkdir(exist_ok=True)
    np.save(path, array)


def test_rows_are_counted_through_the_shards_and_gathered_in_any_order(tmp_path):
    for dtype in ("float16", "float32"):
        source = EmbeddingSource(write_clip_retrieval(tmp_path / dtype, (5, 3, 4), dtype=dtype))
        assert (len(source), source.dim, source.shards().tolist()) == (12, 8, [5, 3, 4])
        rows = np.array([11, 0, 5, 4, 5, 7, 8])
        whole = embeddings(12).astype(dtype)
        for arrays, expected in ((source.z_i, whole), (source.z_t, -whole)):
            found = source.gather(arrays, source.places(rows))
            assert found.dtype == dtype
            assert np.array_equal(found, expected[rows])
        assert source.names(rows) == ["2:3", "0:0", "1:0", "0:4", "1:0", "1:2", "2:0"]
        assert source.captions(source.places(rows)) == [f"image number {row}" for row in rows]
        assert [source.key(row) for row in (11, 0)] == ["0011", "0000"]


def test_numbers_of_shards_may_be_padded(tmp_path):
    counts = [2] * 12
    plain = EmbeddingSource(write_clip_retrieval(tmp_path / "plain", counts))
    padded = EmbeddingSource(write_clip_retrieval(tmp_path / "padded", counts, digits=4))
    rows = np.arange(24)
    assert np.array_equal(
        padded.gather(padded.z_i, padded.places(rows)), plain.gather(plain.z_i, plain.places(rows))
    )
    assert plain.fingerprint() == padded.fingerprint()


@pytest.mark.parametrize(("shards", "expected"), [(1, "0"), (9, "0"), (10, "00"), (100, "000")])
def test_files_are_named_as_clip_retrieval_names_them(shards, expected):
    digits = int(np.log10(shards)) + 1  # its own rule
    assert file_of("img_emb", 0, shards) == f"img_emb/img_emb_{expected}.npy"
    assert len(expected) == digits
    assert file_of("metadata", 0, shards) == f"metadata/metadata_{expected}.parquet"


def test_keys_come_from_the_metadata_or_are_numbers_of_rows(folder):
    def hashes_with(**columns):
        for number, count in enumerate((5, 3)):
            table = {name: values[:count] for name, values in columns.items()}
            pq.write_table(pa.table(table), folder / f"metadata/metadata_{number}.parquet")
        for file in folder.glob("keys/*"):
            file.unlink()
        source = EmbeddingSource(folder)
        return source.key(6), source.hashes()

    letters, numbers = list("abcde"), list(range(5))
    for columns in ({"key": letters}, {"image_path": letters, "key": list("vwxyz")}):
        key, hashes = hashes_with(caption=letters, **columns)
        assert key == "b"
        assert np.array_equal(hashes, key_hashes("abcdeabc"))
    key, hashes = hashes_with(caption=letters, key=numbers)  # a column of numbers is not a key
    assert key == "6"
    assert np.array_equal(hashes, key_hashes("01234567"))


def test_the_hash_of_a_key_is_the_one_that_samples_are_split_by():
    keys = [f"key {n} \u00e4" for n in range(300)]
    for share in (0.0, 0.02, 0.5, 0.999):
        below = held_out_mask(key_hashes(keys), share)
        assert below.tolist() == [is_held_out(key, share) for key in keys]
    assert key_hashes([]).shape == (0,)


@pytest.mark.parametrize("context", [3, 8, 16, 77])
def test_tokens_are_cut_as_the_tokenizer_would_have_cut_the_caption(context):
    caption = "a red ! circle above the blue square with seven very small stars"
    captions = [*(caption[:n] for n in range(len(caption) + 1)), "! ! ! ! ! ! ! !"]
    stored = Tokenizer(77)(captions).numpy().astype(np.uint16)
    assert torch.equal(truncate_tokens(stored, context), Tokenizer(context)(captions))


def test_tokens_and_hashes_are_made_once_and_kept(folder):
    source = EmbeddingSource(folder)
    captions = source.captions(source.places(np.arange(8)))
    expected = Tokenizer(10)(captions).numpy()
    assert np.array_equal(np.concatenate(source.tokens(10)), expected)
    assert source.hashes().shape == (8,)
    files = [folder / f"{kind}/{kind}_{n}.npy" for kind in ("tokens_10", "keys") for n in (0, 1)]
    made = [file.stat().st_mtime_ns for file in files]
    assert not list(folder.glob("*/.*"))

    again = EmbeddingSource(folder)
    assert np.array_equal(np.concatenate(again.tokens(10)), expected)
    assert np.array_equal(again.hashes(), source.hashes())
    assert [file.stat().st_mtime_ns for file in files] == made


def test_only_missing_shards_of_tokens_are_made(folder):
    EmbeddingSource(folder).tokens(10)
    first, second = (folder / f"tokens_10/tokens_10_{n}.npy" for n in (0, 1))
    before = second.read_bytes()
    second.unlink()
    kept = first.stat().st_mtime_ns
    EmbeddingSource(folder).tokens(10)
    assert (first.stat().st_mtime_ns, second.read_bytes()) == (kept, before)


def test_stored_tokens_are_used_when_they_are_long_enough(folder):
    for shard, count in enumerate((5, 3)):
        put(folder / f"tokens/tokens_{shard}.npy", np.full((count, 12), 7, np.uint16))
    source = EmbeddingSource(folder)
    assert source.tokens(12)[1].tolist() == [[7] * 12] * 3
    assert source.tokens(8)[0].shape == (5, 12)
    assert not (folder / "tokens_8").exists()
    assert source.tokens(13)[0].shape == (5, 13)  # of the captions, which were not cut
    assert (folder / "tokens_13/tokens_13_0.npy").is_file()


def test_a_read_only_folder_has_its_tokens_in_the_cache(folder, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setenv("UNCLIP_CACHE", str(cache))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    source = EmbeddingSource(folder)
    source.tokens(9)
    home = cache / "embeddings" / source.fingerprint()
    assert sorted(p.name for p in home.glob("*/*")) == ["tokens_9_0.npy", "tokens_9_1.npy"]
    assert not (folder / "tokens_9").exists()
    cache.rename(tmp_path / "gone")
    cache.write_text("a file where the cache should be")
    with pytest.raises(UserError, match=r"tokens_9 cannot be written \(Not a directory\)"):
        EmbeddingSource(folder).tokens(9)


def test_a_source_is_pickled_as_its_path(folder):
    source = EmbeddingSource(folder)
    source.tokens(8)
    data = pickle.dumps(source)
    assert len(data) < 1000
    assert np.array_equal(pickle.loads(data).z_i[1], source.z_i[1])


def test_the_fingerprint_follows_the_embeddings_not_the_folder(tmp_path):
    def fingerprint(name, **options):
        return EmbeddingSource(write_clip_retrieval(tmp_path / name, **options)).fingerprint()

    first = fingerprint("a")
    assert fingerprint("b") == first
    captions = [f"another caption {n}" for n in range(8)]
    others = [{"counts": (4, 4)}, {"dtype": "float32"}, {"dim": 9}, {"captions": captions}]
    assert len({first, *(fingerprint(str(n), **o) for n, o in enumerate(others))}) == 5


def test_a_caption_that_is_missing_or_no_utf8_does_not_cost_the_others(folder):
    damaged = pa.array([b"one", b"\xff two", None, b"four", b"five"]).view(pa.string())
    table = pa.table({"caption": damaged})
    pq.write_table(table, folder / "metadata/metadata_0.parquet")
    source = EmbeddingSource(folder)
    found = source.captions(source.places(np.arange(5)))
    assert found == ["one", "\ufffd two", "", "four", "five"]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rows_that_are_no_embeddings_are_found_by_their_bits(dtype):
    z = np.array([[1, -2], [np.nan, 0], [0, np.inf], [-np.inf, 1], [0, 0]], dtype)
    assert usable_rows(z).tolist() == [True, False, False, False, False]
    extremes = np.array([[np.finfo(dtype).max, np.finfo(dtype).tiny]], dtype)
    assert usable_rows(extremes).all()


def test_an_empty_shard_is_no_harm(tmp_path):
    source = EmbeddingSource(write_clip_retrieval(tmp_path / "e", (0, 3, 0)))
    assert np.array_equal(
        source.gather(source.z_i, source.places(np.arange(3))), embeddings(3).astype("float16")
    )


def test_embeddings_of_another_clip_are_refused(folder):
    def frozen(dim, fingerprint="f" * 64):
        model = SimpleNamespace(embed_dim=dim, embeddings=None, freeze=list)
        return FrozenClip(model, fingerprint, "runs/clip")

    EmbeddingSource(folder).check_clip(frozen(8))
    with pytest.raises(UserError, match=r"have 8 numbers, the CLIP runs/clip has 16; use the CLIP"):
        EmbeddingSource(folder).check_clip(frozen(16))
    shards = [{"rows": 5}, {"rows": 3}]
    manifest = {"format_version": 1, "clip": {"fingerprint": "e" * 64}, "shards": shards}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    EmbeddingSource(folder).check_clip(frozen(8, "e" * 64))
    with pytest.raises(UserError, match=r"another CLIP \(eeeeeeeeeeee\) than runs/clip \(ffffffff"):
        EmbeddingSource(folder).check_clip(frozen(8))


def truncate(path, by=1):
    path.write_bytes(path.read_bytes()[:-by])


FLOAT16 = np.zeros((3, 8), np.float16)
DAMAGES = {  # what is done to the folder: what is said
    "no img_emb": (
        lambda f: [file.unlink() for file in files_of(f, "img_emb")],
        r"has no img_emb/img_emb_0\.npy; expected a folder of `unclip embed` or of clip-retrieval",
    ),
    "no rows": (
        lambda f: [
            put(file, np.empty((0, 8), np.float16))
            for kind in ("img_emb", "text_emb")
            for file in files_of(f, kind)
        ],
        "holds no embeddings",
    ),
    "a missing number": (
        lambda f: (f / "img_emb/img_emb_0.npy").unlink(),
        r"img_emb has 1 shard, but none of number 0; copy it again",
    ),
    "a number twice": (
        lambda f: put(f / "img_emb/img_emb_00.npy", FLOAT16),
        r"img_emb_0\.npy and .*img_emb_00\.npy are both shard 0; remove one",
    ),
    "fewer texts": (
        lambda f: (f / "text_emb/text_emb_1.npy").unlink(),
        r"text_emb has 1 shard, img_emb has 2; copy the others too",
    ),
    "shorter texts": (
        lambda f: put(f / "text_emb/text_emb_1.npy", FLOAT16[:2]),
        r"text_emb_1\.npy has 2 rows, its shard of img_emb has 3; copy both again",
    ),
    "narrower texts": (
        lambda f: [
            put(file, np.zeros((n, 4), np.float16))
            for file, n in zip(files_of(f, "text_emb"), (5, 3))
        ],
        r"texts have 4 numbers, images 8",
    ),
    "shorter metadata": (
        lambda f: pq.write_table(pa.table({"caption": ["a"]}), f / "metadata/metadata_1.parquet"),
        r"metadata_1\.parquet has 1 row, its shard of img_emb has 3",
    ),
    "metadata that are no parquet": (
        lambda f: (f / "metadata/metadata_1.parquet").write_text("key,caption"),
        r"metadata_1\.parquet cannot be read as parquet \(.*\); copy it again",
    ),
    "a wrong dtype": (
        lambda f: put(f / "img_emb/img_emb_0.npy", np.zeros((5, 8), np.int8)),
        r"img_emb_0\.npy is int8 \[5, 8\], expected float16 or float32 \[N, D\]",
    ),
    "a wrong number of dimensions": (
        lambda f: put(f / "img_emb/img_emb_0.npy", np.zeros(5, np.float16)),
        r"img_emb_0\.npy is float16 \[5\], expected float16 or float32 \[N, D\]",
    ),
    "a shard of another width": (
        lambda f: put(f / "img_emb/img_emb_1.npy", np.zeros((3, 9), np.float16)),
        r"img_emb_1\.npy is float16 \[3, 9\], img_emb_0\.npy is float16 \[5, 8\]; all shards",
    ),
    "a shard of another dtype": (
        lambda f: put(f / "img_emb/img_emb_1.npy", np.zeros((3, 8), np.float32)),
        r"img_emb_1\.npy is float32 .* all shards must be alike",
    ),
    "a truncated .npy": (
        lambda f: truncate(f / "img_emb/img_emb_1.npy"),
        r"img_emb_1\.npy cannot be read: it is damaged or of another format; copy it again",
    ),
    "an empty .npy": (
        lambda f: (f / "img_emb/img_emb_1.npy").write_bytes(b""),
        r"img_emb_1\.npy cannot be read: it is damaged.*; copy it again",
    ),
    "pickled objects": (
        lambda f: np.save(f / "img_emb/img_emb_1.npy", np.array([{}, {}, {}]), allow_pickle=True),
        r"img_emb_1\.npy cannot be read: it is damaged.*; copy it again",
    ),
    "an .npz": (
        lambda f: np.savez((f / "img_emb/img_emb_1.npy").open("wb"), a=FLOAT16),
        r"img_emb_1\.npy is an \.npz; save one array, as \.npy",
    ),
    "a run that is not finished": (
        lambda f: (f / "begun.json").write_text("{}"),
        r"is not finished; run the same `unclip embed` again",
    ),
    "a manifest that is not JSON": (
        lambda f: (f / "manifest.json").write_text("{"),
        r"manifest\.json: damaged \(.*\); copy it again",
    ),
    "a manifest of another version": (
        lambda f: (f / "manifest.json").write_text('{"format_version": 2}'),
        r"manifest\.json: format version 2, this unclip reads 1",
    ),
    "a manifest without its fields": (
        lambda f: (f / "manifest.json").write_text('{"format_version": 1}'),
        r"manifest\.json: damaged; copy it again, or remove it",
    ),
    "a manifest of more": (
        lambda f: (f / "manifest.json").write_text(
            '{"format_version": 1, "shards": [{"rows": 5}, {"rows": 3}, {"rows": 3}], "clip": {}}'
        ),
        r"manifest\.json lists 11 rows, there are 8",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_damaged_folder_is_refused_in_one_line(folder, damage):
    act, message = DAMAGES[damage]
    act(folder)
    with pytest.raises(UserError, match=message) as error:
        EmbeddingSource(folder)
    assert str(error.value).count("\n") == 0
    assert str(folder) in str(error.value)


def test_a_full_disk_is_named_and_what_is_finished_is_kept(tmp_path, monkeypatch):
    writer = Writer(tmp_path / "e", {"clip": {}}, shards=1)
    writer.prepare(force=False)
    z = np.ones((1, 4), np.float16)
    shard = EmbeddingShard(z, z, np.ones((1, 8), np.uint16), ["a"], ["a cat"], 0)

    def full(file, array, **_):
        file.write(b"half")
        raise OSError("8 requested and 4 written")  # numpy's own: without a number

    monkeypatch.setattr(np, "save", full)
    message = "cannot be written: 8 requested and 4 written; finished shards are kept: make room"
    with pytest.raises(UserError, match=message):
        writer.write(0, shard)
    left = [path.name for path in (tmp_path / "e").rglob("*") if path.is_file()]
    assert left == ["begun.json"]


def test_captions_are_needed_for_tokens(folder):
    for file in folder.glob("metadata/*"):
        file.unlink()
    source = EmbeddingSource(folder)
    assert not source.has_captions
    with pytest.raises(
        UserError, match=r"has no captions: expected metadata/metadata_0\.parquet with"
    ):
        source.tokens(8)
    put(folder / "tokens/tokens_0.npy", np.zeros((5, 8), np.int64))
    put(folder / "tokens/tokens_1.npy", np.zeros((3, 8), np.int64))
    with pytest.raises(UserError, match=r"tokens_0\.npy is int64 \[5, 8\], expected uint16"):
        source.tokens(8)
