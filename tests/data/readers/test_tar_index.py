import io
import logging
import os
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_data import records, write_members, write_tar

from unclip.common.errors import UserError
from unclip.data import files
from unclip.data.keys import Strings, key_hash, key_hashes, printable
from unclip.data.readers import tar_index as index
from unclip.data.readers.tar import TarSource
from unclip.data.readers.tar_index import _warn_unwritable, tar_index, write_beside
from unclip.data.readers.tar_members import scan_tar


@pytest.fixture
def tar(tmp_path, monkeypatch):
    monkeypatch.setenv("UNCLIP_CACHE", str(tmp_path / "cache"))
    return write_tar(tmp_path / "d.tar", records())


@pytest.fixture
def scans(monkeypatch):
    """The tars whose members were looked for one by one."""
    scanned = []
    scan = scan_tar
    monkeypatch.setattr(index, "scan_tar", lambda tar: scanned.append(tar.path) or scan(tar))
    return scanned


def found(tar):
    return tar_index(files.stat_file(str(tar)))


def assert_same(a, b):
    assert list(a.keys) == list(b.keys)
    assert np.array_equal(a.hashes, b.hashes)
    assert np.array_equal(a.spans, b.spans)
    assert np.array_equal(a.headers, b.headers)
    assert a[4:] == b[4:]


def test_spans_are_what_tarfile_says(tar):
    got = found(tar)
    with tarfile.open(tar) as archive:
        for n, key in enumerate(got.keys):
            image, text = archive.getmember(f"{key}.png"), archive.getmember(f"{key}.txt")
            expected = [[m.offset_data, m.size] for m in (image, text)]
            assert got.spans[n].tolist() == [*expected, [-1, -1]]
    assert got.hashes.tolist() == [key_hash(key) for key in got.keys]
    assert (got.members, got.damaged) == (80, False)


def test_a_tar_is_scanned_once_until_it_changes(tar, scans):
    first = found(tar)
    assert_same(found(tar), first)
    assert len(scans) == 1
    os.utime(tar, ns=(0, 0))
    assert_same(found(tar), first)
    write_tar(tar, records(39))
    assert len(found(tar).keys) == 39
    assert len(scans) == 3


def test_the_index_beside_a_tar_goes_with_it(tar, tmp_path, scans):
    write_beside(tar)
    scans.clear()
    (tmp_path / "moved").mkdir()
    for path in (tar, tmp_path / "d.tar.index.npz"):
        (tmp_path / "moved" / path.name).write_bytes(path.read_bytes())
    moved = found(tmp_path / "moved" / "d.tar")
    assert not scans
    assert not (tmp_path / "cache").exists()
    assert_same(moved, found(tar))
    write_tar(tmp_path / "moved" / "d.tar", records(39))
    assert len(found(tmp_path / "moved" / "d.tar").keys) == 39
    assert len(scans) == 1


def archive(**changes):
    """An index as `_write` makes it, with some arrays exchanged."""

    def change(path):
        with np.load(path) as old:
            arrays = {**old, **{k: v(old[k]) for k, v in changes.items()}}
        np.savez(path, **arrays)

    return change


def put(column, value):
    def change(spans):
        spans = spans.copy()
        spans[3, 0, column] = value
        return spans

    return change


@pytest.mark.parametrize(
    "change",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:700]),
        lambda path: path.write_bytes(path.read_bytes().replace(b"'<i8'", b"'<f8'")),
        lambda path: np.savez_compressed(path, **np.load(path)),
        lambda path: np.savez(path, about=np.array([{}], dtype=object)),
        lambda path: np.savez(path, about=np.arange(3)),
        archive(about=lambda about: about + 1),
        archive(blob=lambda blob: blob[:-1]),
        archive(blob=lambda blob: blob | 0x80),
        archive(offsets=lambda offsets: offsets[::-1]),
        archive(offsets=lambda offsets: offsets[:-1]),
        archive(offsets=lambda offsets: np.zeros_like(offsets)),
        archive(hashes=lambda hashes: hashes[:-1]),
        archive(hashes=lambda hashes: hashes.astype(np.int64)),
        archive(spans=lambda spans: spans[:, :2]),
        archive(spans=put(1, 2**62)),
        archive(spans=put(1, -1)),
        archive(spans=put(0, 2**62)),
    ],
)
def test_an_index_that_cannot_be_right_is_made_anew(tar, tmp_path, scans, change, caplog):
    first = found(tar)
    (cached,) = (tmp_path / "cache" / "tars").iterdir()
    change(cached)
    assert_same(found(tar), first)
    assert len(scans) == 2
    assert_same(found(tar), first)  # from the cache again
    assert len(scans) == 2
    assert not caplog.records


def test_a_cache_that_cannot_be_written_costs_one_warning(tar, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("UNCLIP_CACHE", str(tmp_path / "file" / "cache"))
    _warn_unwritable.cache_clear()
    other = write_tar(tmp_path / "e.tar", records(3))
    assert (len(TarSource(tar)), len(TarSource(other))) == (40, 3)
    assert [r.getMessage() for r in caplog.records] == [
        f"{tmp_path}/file/cache/tars cannot be written (Not a directory): "
        "tars are indexed at every start"
    ]


def test_nothing_is_left_of_an_index_that_could_not_be_written(tar, tmp_path, monkeypatch):
    def full(file, **_):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert len(found(tar).keys) == 40
    with pytest.raises(OSError, match="No space"):
        write_beside(tar)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == [tar]


def test_a_size_below_zero_does_not_read_for_ever(tmp_path, caplog):
    path = write_members(tmp_path / "d.tar", [("1.png", b"x"), ("2.png", b"y")])
    data = bytearray(path.read_bytes())
    second = 1024  # the header of the second member; its size at 124, its checksum at 148
    data[second + 124 : second + 136] = (-2048).to_bytes(12, "big", signed=True)
    total = sum(data[second : second + 512]) - sum(data[second + 148 : second + 156]) + 8 * 32
    data[second + 148 : second + 156] = b"%06o\0 " % total
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"d\.tar is cut off or damaged after 1 whole members"):
        TarSource(path)
    with caplog.at_level(logging.WARNING):
        assert len(TarSource(path, on_error="skip")) == 1


def test_headers_of_headers_end(tmp_path):
    path = tmp_path / "d.tar"
    info = tarfile.TarInfo("././@PaxHeader")
    info.type = tarfile.XHDTYPE
    path.write_bytes(info.tobuf() * 2000)
    with pytest.raises(UserError, match=r"d\.tar is not an uncompressed tar \(maximum recursion"):
        TarSource(path)
    first = write_members(tmp_path / "e.tar", [("1.png", b"x")]).read_bytes()[:1024]
    path.write_bytes(first + info.tobuf() * 2000)
    with pytest.raises(UserError, match=r"d\.tar is cut off or damaged after 1 whole members"):
        TarSource(path)


def test_links_devices_and_sparse_files_are_no_samples(tmp_path):
    path = tmp_path / "d.tar"
    with tarfile.open(path, "w") as archive:
        for name, kind in (("a.png", tarfile.SYMTYPE), ("b.png", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("../../c.png")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    assert list(found(path).keys) == ["../../c"]


@given(st.lists(st.text(st.characters(), max_size=5)))
def test_strings_are_kept_whatever_they_hold(texts):
    strings = Strings.of(texts)
    assert list(strings) == texts
    assert len(strings) == len(texts)
    assert (strings.digest() == Strings.of([*texts, "x"]).digest()) is False
    for text in map(printable, texts):
        assert text.encode().decode() == text  # no surrogate
        assert len(text.splitlines()) <= 1


def test_equal_texts_in_other_pieces_have_another_digest():
    assert Strings.of(["ab", "c"]).digest() != Strings.of(["a", "bc"]).digest()


def test_a_million_keys_cost_what_their_bytes_do():
    keys = Strings.of(f"{n:09d}" for n in range(1_000_000))
    assert keys.blob.nbytes + keys.offsets.nbytes == 9_000_000 + 8 * 1_000_001
    assert keys[999_999] == "000999999"


def test_hashes_are_pinned():
    # `b2sum -l 64`, little-endian: a change would exchange the held-out samples.
    assert key_hash("0001") == int.from_bytes(bytes.fromhex("220f2ba5e26b4694"), "little")
    assert key_hashes(["0001", "é"]).tolist() == [key_hash("0001"), key_hash("é")]
