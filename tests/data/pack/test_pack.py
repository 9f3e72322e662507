"""What is packed is what comes out again, and a killed pack ends as if it had not been killed."""

import io
import json
import os
import signal
import tarfile
from multiprocessing import get_context

import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_data import (
    FakeSource,
    picture,
    png,
    records,
    write_folder,
    write_members,
    write_parquet,
    write_tar,
)
from webdataset.tariterators import group_by_keys, tar_file_expander

from unclip.common.errors import UserError
from unclip.data.config import DataConfig, ScenesConfig
from unclip.data.decode import BadSample
from unclip.data.pack.manifest import Packing
from unclip.data.pack.pack import pack
from unclip.data.pack.shards import safe_name
from unclip.data.readers.names import key_of
from unclip.data.readers.source import RawSource
from unclip.data.sample import Sample
from unclip.data.sources import open_source

FORMATS = ("tar", "parquet")


def opened(path):
    config = DataConfig(scenes=ScenesConfig(count=9), val_samples=4, held_out=0.1)
    return open_source(str(path), config, image_size=16, split="all")


def packed(source, out, *, workers=0, on_error="skip", force=False, **settings):
    return pack(source, out, Packing(**settings), workers=workers, on_error=on_error, force=force)


def checksums(manifest):
    return [shard.sha256 for shard in manifest.shards]


class Listed:
    """Samples given one by one."""

    def __init__(self, samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        return self.samples[index]

    def key(self, index):
        return self.samples[index].key

    def shards(self):
        return None

    def fingerprint(self):
        return "listed"


def listed(*captions):
    return Listed([Sample(f"{n}", picture(n), list(each)) for n, each in enumerate(captions)])


@pytest.fixture(params=["folder", "tar", "parquet", "scenes"])
def source(request, tmp_path):
    if request.param == "scenes":
        return opened("scenes")
    write = {"folder": write_folder, "tar": write_tar, "parquet": write_parquet}[request.param]
    path = tmp_path / f"source.{request.param}"
    write(path, records(13))
    return opened(path)


@pytest.mark.parametrize("form", FORMATS)
def test_a_round_trip_keeps_keys_captions_pixels_and_stored_bytes(source, tmp_path, form):
    manifest = packed(source, tmp_path / "out", format=form, shard_size=5)
    assert manifest.count == len(source) == 13
    assert [shard.count for shard in manifest.shards] == [5, 5, 3]
    again = opened(tmp_path / "out")
    assert [again.key(n) for n in range(13)] == [source.key(n) for n in range(13)]
    for n in (0, 4, 5, 12):
        assert again[n].captions == source[n].captions
        assert np.array_equal(again[n].image, source[n].image)
        if isinstance(source, RawSource):
            assert again.raw(n).image == source.raw(n).image
    everything = open_source(
        str(tmp_path / "out"), DataConfig(on_error="error"), image_size=8, split="all"
    )
    assert len(everything) == 13


@pytest.mark.parametrize("form", FORMATS)
def test_bytes_do_not_depend_on_workers_or_place(source, tmp_path, form):
    one, two = (
        packed(source, tmp_path / str(workers), format=form, shard_size=4, workers=workers)
        for workers in (0, 2)
    )
    assert checksums(one) == checksums(two)
    for name in sorted(path.name for path in (tmp_path / "0").iterdir()):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "2" / name).read_bytes()


def test_members_are_named_as_webdataset_reads_them(tmp_path):
    manifest = packed(listed(["one"], ["two", "three"]), tmp_path / "out")
    path = tmp_path / "out" / manifest.shards[0].file
    with tarfile.open(path) as archive:
        members = archive.getmembers()
    assert [m.name for m in members] == ["0.png", "0.txt", "1.png", "1.json"]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}
    with path.open("rb") as stream:  # `webdataset.WebDataset` leaves its file open
        files = tar_file_expander([{"url": "", "stream": stream}])
        first, second = webdataset.decode("rgb8")(group_by_keys(files))
    assert (first["__key__"], first["txt"]) == ("0", "one")
    assert second["json"] == {"caption": ["two", "three"]}
    assert np.array_equal(second["png"], picture(1))


@pytest.mark.parametrize(
    ("captions", "kind"),
    [([["a"], ["b"], ["c"]], "string"), ([["a"], ["b", "c"], ["d"]], "list<element: string>")],
)
def test_all_shards_of_parquet_have_one_schema(tmp_path, captions, kind):
    packed(listed(*captions), tmp_path / "out", format="parquet", shard_size=1)
    names = [f"train-{n:05d}-of-00003.parquet" for n in range(3)]
    schemas = [pq.read_schema(tmp_path / "out" / name) for name in names]
    assert [str(schema.field("caption").type) for schema in schemas] == [kind] * 3
    features = json.loads(schemas[0].metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    again = opened(tmp_path / "out")
    assert [again[n].captions for n in range(3)] == captions


ODD = ("a/b", "a b", "é", "x%y", "back\\slash", "a.b/c", "same", "same", "-00000009")
REFUSED = ("new\nline", "../up", "/abs", "v1.5", ".hidden", "nul\0", "a//b", "a/./b", "a/..", "")


@pytest.mark.parametrize("form", FORMATS)
def test_odd_keys_survive_or_get_a_name_that_differs(tmp_path, form):
    keys = [*ODD, *REFUSED]
    source = Listed([Sample(key, picture(n), [f"{n}"]) for n, key in enumerate(keys)])
    (shard,) = packed(source, tmp_path / "out", format=form).shards
    again = opened(tmp_path / "out")
    names = [again.key(n) for n in range(len(again))]
    assert [again[n].captions for n in range(len(again))] == [[f"{n}"] for n in range(len(keys))]
    assert names[: len(ODD)] == [*ODD[:7], "same-00000007", ODD[8]]
    assert len(set(names)) == len(names)
    assert [shard.renamed.get(name, name) for name in names] == keys
    if form == "tar":
        with tarfile.open(tmp_path / "out" / shard.file) as archive:
            for name in archive.getnames():
                assert not name.startswith("/")
                assert not {"..", "."} & set(name.split("/"))


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_safe_name_is_read_back_and_stays_in_its_folder(key):
    name = safe_name(key)
    assert safe_name(name) == name or "." in key or not name
    if name:
        assert key_of(f"{name}.jpg") == name
        assert not name.startswith(("/", "."))
        assert ".." not in name.split("/")
        assert "\0" not in name


def encoded(form, **options):
    file = io.BytesIO()
    Image.fromarray(picture(3, 40, 60)).save(file, form, **options)
    return file.getvalue()


def test_only_larger_images_are_reduced_and_keep_their_format(tmp_path):
    files = {
        "1.jpg": encoded("JPEG"),
        "2.png": encoded("PNG"),
        "3.webp": encoded("WEBP"),
        "4.png": png(picture(4, 20, 10)),
    }
    texts = [(f"{n}.txt", b"noise") for n in range(1, 5)]
    source = opened(write_members(tmp_path / "source.tar", [*files.items(), *texts]))
    packed(source, tmp_path / "out", max_side=30, quality=50)
    again = opened(tmp_path / "out")
    formats = []
    for n in range(4):
        with Image.open(io.BytesIO(again.raw(n).image)) as image:
            formats.append((image.format, image.size))
    assert formats == [
        ("JPEG", (30, 20)),
        ("PNG", (30, 20)),
        ("WEBP", (30, 20)),
        ("PNG", (10, 20)),
    ]
    whole = Image.fromarray(picture(3, 40, 60))
    assert np.array_equal(again[1].image, whole.resize((30, 20), Image.Resampling.BICUBIC))
    assert again.raw(3).image == files["4.png"]


def test_what_tars_do_not_name_becomes_png(tmp_path):
    rows = [("0", encoded("BMP"), "a"), ("1", encoded("TIFF"), "b")]
    packed(opened(write_parquet(tmp_path / "d.parquet", rows)), tmp_path / "out")
    again = opened(tmp_path / "out")
    for n in range(2):
        assert again.raw(n).image.startswith(b"\x89PNG")
        assert np.array_equal(again[n].image, picture(3, 40, 60))


def test_unreadable_samples_are_left_out_and_listed(tmp_path):
    source = FakeSource(10, bad=(2, 4, 5, 6, 7))
    manifest = packed(source, tmp_path / "out", shard_size=4)
    content = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert content["count"] == manifest.count == 5
    assert content["finished"]
    assert [shard["file"] for shard in content["shards"]] == ["00000.tar", None, "00002.tar"]
    skipped = [key for shard in content["shards"] for key, _ in shard["skipped"]]
    assert skipped == [f"{n:05d}" for n in (2, 4, 5, 6, 7)]
    assert content["shards"][0]["skipped"] == [["00002", "broken"]]
    again = opened(tmp_path / "out")
    assert [again.key(n) for n in range(5)] == [f"{n:05d}" for n in (0, 1, 3, 8, 9)]


def test_the_first_unreadable_sample_stops_if_it_shall(tmp_path):
    with pytest.raises(BadSample, match=r"^fake: 00002: broken \(--on-error=skip leaves"):
        packed(FakeSource(10, bad=(2,)), tmp_path / "out", on_error="error")
    assert not list((tmp_path / "out").glob("*.tar*"))


def test_nothing_readable_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"^none of 3 samples can be used; 00000: broken$"):
        packed(FakeSource(3, bad=range(3)), tmp_path / "out")


class Deadly(FakeSource):
    """Kills its process at the first look at sample ``at``."""

    at = -1

    def __getitem__(self, index):
        if index == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(index)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("at", "whole_shards"), [(0, 0), (40, 3), (99, 9)])
def test_a_killed_pack_continues_to_the_same_bytes(tmp_path, form, at, whole_shards):
    source = Deadly(100, captions=2)
    whole = checksums(packed(source, tmp_path / "whole", format=form, shard_size=10))
    source.at = at
    settings = {"format": form, "shard_size": 10}
    child = get_context("fork").Process(
        target=packed, args=(source, tmp_path / "out"), kwargs=settings
    )
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob(f"*.{form}")}
    # Samples are handed over by 32; those of the hand before may not be written yet.
    assert whole_shards - 4 < len(kept) <= whole_shards
    source.at = -1
    assert checksums(packed(source, tmp_path / "out", **settings)) == whole
    again = [path for path, time in kept.items() if path.stat().st_mtime_ns != time]
    assert len(again) <= 1  # the one that was written, but not yet noted
    names = [sorted(path.name for path in (tmp_path / d).iterdir()) for d in ("out", "whole")]
    assert names[0] == names[1]


def test_a_lost_or_cut_shard_is_written_again(tmp_path):
    source, out = FakeSource(9), tmp_path / "out"
    first = packed(source, out, shard_size=3)
    (out / "00000.tar").unlink()
    (out / "00002.tar").write_bytes(b"cut")
    source.bad = {4}  # of the shard that is kept
    assert checksums(packed(source, out, shard_size=3)) == checksums(first)


def test_other_settings_or_files_need_another_folder_or_force(tmp_path):
    source, out = FakeSource(9), tmp_path / "out"
    packed(source, out, shard_size=3)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"^--out .*out: .* differs in shard_size, quality; .*--fo"):
        packed(source, out, shard_size=4, quality=90)
    with pytest.raises(UserError, match=r"differs in source, samples; "):
        packed(FakeSource(8), out, shard_size=3)
    packed(source, out, shard_size=5, force=True)
    assert sorted(path.name for path in out.iterdir()) == [
        "00000.tar",
        "00000.tar.index.npz",
        "00001.tar",
        "00001.tar.index.npz",
        "manifest.json",
        "notes.txt",
    ]
    (out / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match=r"^--out .*out: is not empty; .* --force$"):
        packed(source, out, shard_size=5)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"shard_size": 0}, "--shard-size: must be at least 1"),
        ({"max_side": 0}, "--max-side: must be at least 1"),
        ({"quality": 101}, "--quality: must be in [1, 100]"),
        ({"limit": 0}, "--limit: must be at least 1"),
        ({"format": "zip"}, "--format: must be tar or parquet"),
    ],
)
def test_settings_out_of_range(tmp_path, settings, problem):
    with pytest.raises(UserError) as caught:
        packed(FakeSource(3), tmp_path / "out", **settings)
    assert str(caught.value) == problem
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"^--out .*file/out: Not a directory$"):
        packed(FakeSource(3), tmp_path / "file" / "out")


def test_the_limit_takes_the_first(tmp_path):
    packed(FakeSource(9), tmp_path / "out", limit=4)
    again = opened(tmp_path / "out")
    assert [again.key(n) for n in range(len(again))] == [f"{n:05d}" for n in range(4)]
