import json
import pickle
from multiprocessing import get_context

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_data import (
    picture,
    png,
    records,
    write_folder,
    write_members,
    write_parquet,
    write_tar,
)

from data_modules.decode import BadSample
from data_modules.readers.folder import FolderSource
from data_modules.readers.parquet import ParquetSource
from data_modules.readers.source import key_of
from data_modules.readers.tar import TarSource
from unclip.types import UserError


@pytest.fixture(params=["folder", "tar", "parquet"])
def source(request, tmp_path):
    if request.param == "folder":
        return FolderSource(write_folder(tmp_path / "d", records(), field="text"))
    if request.param == "tar":
        return TarSource(write_tar(tmp_path / "d.tar", records()))
    return ParquetSource(write_parquet(tmp_path / "d.parquet", records()), cache_bytes=1)


def test_samples_come_in_any_order_with_their_own_pixels_and_captions(source):
    assert len(source) == 40
    for n in (39, 0, 17, 38, 1, 17):
        sample = source[n]
        assert sample.key == source.key(n) == f"{n:04d}"
        assert sample.captions == [f"picture number {n}"]
        assert np.array_equal(sample.image, picture(n))


def read_caption(source, number, queue):
    queue.put(source[number].captions)


def test_a_source_that_was_used_still_works_in_a_forked_and_a_pickled_copy(source):
    first = source[0].captions
    queue = get_context("fork").Queue()
    children = [
        get_context("fork").Process(target=read_caption, args=(source, 31, queue)) for _ in range(2)
    ]
    for child in children:
        child.start()
    assert [queue.get(timeout=30) for _ in children] == [["picture number 31"]] * 2
    for child in children:
        child.join()
    assert pickle.loads(pickle.dumps(source))[0].captions == first


def test_the_fingerprint_follows_the_samples_not_the_folder(tmp_path):
    for name, write in (("tar", write_tar), ("parquet", write_parquet)):
        reader = {"tar": TarSource, "parquet": ParquetSource}[name]
        prints = []
        for place, count in (("a", 40), ("b", 40), ("c", 39)):
            (tmp_path / place).mkdir(exist_ok=True)
            path = write(tmp_path / place / f"d.{name}", records(count))
            prints.append(reader(path).fingerprint())
        assert prints[0] == prints[1] != prints[2]


def test_keys_end_at_the_first_dot_of_the_file_name():
    assert key_of("a.b/0001.seg.png") == "a.b/0001"


class TestTar:
    def test_json_gives_the_caption_when_there_is_no_txt(self, tmp_path):
        fields = json.dumps({"caption": "from json"}).encode()
        members = [
            ("a/1.JPG", png(picture(1))),
            ("a/1.json", fields),
            ("a/2.webp", png(picture(2))),
            ("a/2.txt", b"from txt"),
            ("a/2.json", fields),
            ("a/._2.webp", b"what macOS leaves behind"),
        ]
        source = TarSource(write_members(tmp_path / "d.tar", members))
        assert [source[n].captions for n in range(2)] == [["from json"], ["from txt"]]
        assert [source.key(n) for n in range(2)] == ["a/1", "a/2"]

    def test_what_is_missing_or_damaged_is_named(self, tmp_path):
        image = png(picture(1))
        members = [
            ("1.png", image),
            ("2.txt", b"no image"),
            ("3.png", b"plain text"),
            ("3.txt", b"a caption"),
            ("4.png", image),
            ("4.txt", b"caf\xe9"),
            ("5.png", image),
            ("5.json", b"{"),
        ]
        source = TarSource(write_members(tmp_path / "d.tar", members))
        reasons = ("no caption", "no image", "not an image", "not UTF-8", r"\.json cannot be read")
        for n, reason in enumerate(reasons):
            with pytest.raises(BadSample, match=f"d.tar: {n + 1}: .*{reason}"):
                source[n]

    @pytest.mark.parametrize("boundary", [False, True])
    def test_a_tar_cut_off_stops_or_gives_its_whole_members(self, tmp_path, caplog, boundary):
        path = write_tar(tmp_path / "d.tar", records(10))
        whole = TarSource(path)
        offset, size = whole._index.spans[6, 0]
        cut = offset - 512 if boundary else offset + size // 2
        path.write_bytes(path.read_bytes()[:cut])
        with pytest.raises(UserError, match=r"^data\.source: .*d\.tar is cut off .* 12 whole"):
            TarSource(path, on_error="error")
        source = TarSource(path, on_error="skip")
        assert [source[n].captions for n in range(len(source))] == [
            [f"picture number {n}"] for n in range(6)
        ]
        assert len([r for r in caplog.records if "cut off" in r.message]) == 1

    def test_a_file_that_is_no_tar_or_holds_no_image_is_refused(self, tmp_path):
        (tmp_path / "x.tar").write_bytes(b"hello" * 500)
        (tmp_path / "empty.tar").write_bytes(b"")
        write_members(tmp_path / "texts.tar", [("1.txt", b"hello")])
        for name, reason in (("x", "uncompressed tar"), ("empty", "tar"), ("texts", "no image")):
            with pytest.raises(UserError, match=rf"^data\.source: .*{name}\.tar .*{reason}"):
                TarSource(tmp_path / f"{name}.tar")


class TestFolder:
    def test_a_line_that_cannot_be_used_is_named(self, tmp_path):
        for line, reason in (("{", "not JSON"), ('{"caption": "a"}', "file_name"), ("[]", "needs")):
            (tmp_path / "metadata.jsonl").write_text('{"file_name": "a", "text": "b"}\n' + line)
            with pytest.raises(UserError, match=rf"metadata\.jsonl line 2 .*{reason}"):
                FolderSource(tmp_path)

    def test_missing_files_and_bad_captions_are_bad_samples(self, tmp_path):
        (tmp_path / "1.png").write_bytes(png(picture(1)))
        (tmp_path / "metadata.jsonl").write_bytes(
            b'{"file_name": "0.png", "caption": "gone"}\n'
            b'{"file_name": "1.png", "caption": "caf\xe9"}\n'
            b'{"file_name": "2.png"}\n'
        )
        (tmp_path / "2.png").write_bytes(png(picture(1)))
        source = FolderSource(tmp_path)
        for n, reason in enumerate(("0.png: does not exist", "not UTF-8", "no caption")):
            with pytest.raises(BadSample, match=reason):
                source[n]


class TestParquet:
    def test_plain_bytes_and_lists_of_captions(self, tmp_path):
        table = pa.table({"image": [png(picture(5))], "text": [["one", "two"]]})
        pq.write_table(table, tmp_path / "d.parquet")
        source = ParquetSource(tmp_path / "d.parquet")
        assert source[0].captions == ["one", "two"]
        assert source[0].key == "d-00000000"
        assert np.array_equal(source[0].image, picture(5))

    def test_rows_are_numbered_when_paths_are_not_unique(self, tmp_path):
        rows = [("same", *record[1:]) for record in records(3)]
        source = ParquetSource(write_parquet(tmp_path / "d.parquet", rows))
        assert [source.key(n) for n in range(3)] == [f"d-{n:08d}" for n in range(3)]

    def test_a_missing_column_is_reported_with_those_present(self, tmp_path):
        for columns in ({"image": [b"x"], "label": ["a"]}, {"image": ["a"], "caption": ["a"]}):
            pq.write_table(pa.table(columns), tmp_path / "d.parquet")
            with pytest.raises(UserError, match=r"d\.parquet needs .* has image \(\w+\), \w+"):
                ParquetSource(tmp_path / "d.parquet")

    def test_a_file_that_is_cut_off_is_refused(self, tmp_path):
        path = write_parquet(tmp_path / "d.parquet", records(5))
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(UserError, match=r"^data\.source: .*d\.parquet cannot be read"):
            ParquetSource(path)

    def test_empty_cells_are_bad_samples(self, tmp_path):
        image = {"bytes": png(picture(1)), "path": None}
        gone = {"bytes": None, "path": "x.png"}
        table = pa.table({"image": [image, gone, None], "caption": [None, "a", "b"]})
        pq.write_table(table, tmp_path / "d.parquet")
        source = ParquetSource(tmp_path / "d.parquet")
        for n, reason in enumerate(("no caption", "no bytes", "no bytes")):
            with pytest.raises(BadSample, match=reason):
                source[n]

    def test_a_damaged_row_group_spoils_only_its_own_rows(self, tmp_path):
        path = write_parquet(tmp_path / "d.parquet", records(14))
        column = pq.ParquetFile(path).metadata.row_group(1).column(0)
        data = bytearray(path.read_bytes())
        data[column.data_page_offset : column.data_page_offset + 60] = b"\xff" * 60
        path.write_bytes(data)
        source = ParquetSource(path)
        assert source[6].captions == ["picture number 6"]
        with pytest.raises(BadSample, match="row group 1 cannot be read"):
            source[7]
