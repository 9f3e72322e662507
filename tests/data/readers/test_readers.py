import json
import pickle
import sys
from multiprocessing import get_context

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_data
from tiny_data import (
    FakeSource,
    picture,
    png,
    records,
    write_coco,
    write_csv,
    write_folder,
    write_images,
    write_members,
    write_parquet,
    write_sidecars,
    write_tar,
)

from unclip.common.errors import UserError
from unclip.data.decode import BadSample, decode_captions
from unclip.data.keys import key_hash
from unclip.data.readers.coco import CocoSource
from unclip.data.readers.folder import FolderSource
from unclip.data.readers.hub import HubSource
from unclip.data.readers.inventory import inventory_of
from unclip.data.readers.names import key_of
from unclip.data.readers.opening import open_files
from unclip.data.readers.parquet import ParquetSource
from unclip.data.readers.source import Concat, Subset, hashes
from unclip.data.readers.tar import TarSource


@pytest.fixture(autouse=True)
def _own_hub(tmp_path, monkeypatch):
    """Copies that the `datasets` library makes stay out of the user's cache."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    datasets.disable_progress_bars()


def hub(folder):
    """A local folder in the layout of the hub, with a parquet."""
    folder.mkdir()
    write_parquet(folder / "train-00000-of-00001.parquet", records())
    return HubSource(str(folder))


SOURCES = {
    "jsonl": lambda path: FolderSource(write_folder(path / "d", records(), field="text")),
    "csv": lambda path: FolderSource(write_csv(path / "d", records(), field="text")),
    "sidecars": lambda path: FolderSource(write_sidecars(path / "d", records())),
    "coco": lambda path: CocoSource(write_coco(path / "d", records())),
    "tar": lambda path: TarSource(write_tar(path / "d.tar", records())),
    "parquet": lambda path: ParquetSource(
        write_parquet(path / "d.parquet", records()), cache_bytes=1
    ),
    "hub": lambda path: hub(path / "d"),
    "hub_images": lambda path: HubSource(str(write_folder(path / "d", records()))),
}


@pytest.fixture(params=SOURCES)
def source(request, tmp_path):
    return SOURCES[request.param](tmp_path)


def test_samples_come_in_any_order_with_their_own_pixels_and_captions(source):
    assert len(source) == 40
    for n in (39, 0, 17, 38, 1, 17):
        sample = source[n]
        assert sample.key == source.key(n) == f"{n:04d}"
        assert sample.captions == [f"image number {n}"]
        assert np.array_equal(sample.image, picture(n))


def test_a_sample_is_had_undecoded_as_it_was_written(source):
    for n, (key, image, caption) in enumerate(records()):
        raw = source.raw(n)
        assert (raw.key, raw.image) == (key, image)
        assert raw.where.startswith(("/", "hf:"))
        assert decode_captions(raw.captions, where="x") == [caption]


def test_hashes_are_those_of_the_keys(source):
    expected = [key_hash(f"{n:04d}") for n in range(40)]
    assert hashes(source).dtype == np.uint64
    assert hashes(source).tolist() == expected
    some = Subset(source, np.array([3, 1, 7]))
    assert hashes(some).tolist() == [expected[n] for n in (3, 1, 7)]
    assert hashes(Concat([some, source])).tolist() == hashes(some).tolist() + expected
    assert hashes(FakeSource(2)).tolist() == [key_hash("00000"), key_hash("00001")]


def test_shards_add_up_to_the_source(source):
    shards = source.shards()
    assert shards is None or shards.sum() == 40


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
    assert [queue.get(timeout=30) for _ in children] == [["image number 31"]] * 2
    for child in children:
        child.join()
    assert pickle.loads(pickle.dumps(source))[0].captions == first


@pytest.mark.parametrize("kind", SOURCES)
def test_the_fingerprint_follows_the_samples_not_the_folder(tmp_path, kind, monkeypatch):
    prints = []
    for place, count in (("a", 40), ("b", 40), ("c", 39)):
        monkeypatch.setitem(globals(), "records", lambda count=count: tiny_data.records(count))
        (tmp_path / place).mkdir()
        prints.append(SOURCES[kind](tmp_path / place).fingerprint())
    assert prints[0] == prints[1] != prints[2]


def test_keys_are_file_names_without_their_endings():
    for name, key in (
        ("a.b/0001.seg.png", "a.b/0001.seg"),
        ("./a//b.png", "a/b"),
        ("../../x.png", "../../x"),
        ("/x/.png", "/x/.png"),
        (".", "."),
        ("a\nb\udce9.png", "a\\nb\\udce9"),
    ):
        assert key_of(name) == key


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
            [f"image number {n}"] for n in range(6)
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
        for line, reason in (
            ("{", "is not JSON"),
            ("[" * 10_000, "is not JSON .nested too deeply"),
            ('{"caption": "a"}', 'needs a "file_name"'),
            ("[]", 'needs a "file_name"'),
            *(
                (
                    json.dumps({"file_name": name, "text": "b"}),
                    "is not a name of a file in the folder",
                )
                for name in ("../x.png", "a/../../x.png", "/x.png", "", ".", "a\0.png", None, 7, [])
            ),
        ):
            (tmp_path / "metadata.jsonl").write_text('{"file_name": "a", "text": "b"}\n' + line)
            with pytest.raises(UserError, match=rf"metadata\.jsonl line 2:? .*{reason}") as caught:
                FolderSource(tmp_path)
            assert "\n" not in str(caught.value)

    def test_a_row_of_a_table_that_cannot_be_used_is_named(self, tmp_path):
        for text, reason in (
            ("a.png,a cat\nb.png,a dog", r"needs a first line with .* it has \['a.png', 'a cat'\]"),
            ("", r"it has \[\]"),
            ("file_name,caption\na.png,x\nb.png,a cat, asleep", "line 3 has 3 fields"),
            ("file_name,caption,n\na.png", "line 2 has 1 fields, the first line 3"),
            ("file_name,text\n../a.png,x", "line 2: '../a.png' is not a name of a file"),
            ('file_name,text\na.png,"x', "line 2 is not CSV"),
        ):
            (tmp_path / "metadata.csv").write_text(text)
            with pytest.raises(UserError, match=rf"metadata\.csv .*{reason}"):
                FolderSource(tmp_path)

    def test_a_table_as_spreadsheets_write_it(self, tmp_path):
        write_images(tmp_path, [("1", png(picture(1)), ""), ("2", png(picture(2)), "")])
        (tmp_path / "metadata.csv").write_bytes(
            b'\xef\xbb\xbfid,file_name,caption\r\n7,1.png,"a cat, ""asleep""\r\non a mat"\r\n\r\n'
            b"8,2.png,a dog\r\n9,1.png,a pet\r\n"
        )
        source = FolderSource(tmp_path)
        captions = [source[n].captions for n in range(len(source))]
        assert captions == [['a cat, "asleep"\r\non a mat', "a pet"], ["a dog"]]

    def test_lines_of_one_file_are_its_captions(self, tmp_path):
        write_images(tmp_path, [("1", png(picture(1)), "")])
        (tmp_path / "metadata.jsonl").write_text(
            '{"file_name": "1.png", "caption": ["a", "b"]}\n{"file_name": "1.png", "text": "c"}\n'
            '{"file_name": "1.png"}\n'
        )
        source = FolderSource(tmp_path)
        assert (len(source), source[0].captions) == (1, ["a", "b", "c"])

    def test_texts_beside_images_are_found_in_folders_below(self, tmp_path):
        write_sidecars(tmp_path / "b" / "c", records(2))
        write_sidecars(tmp_path / "a.d", [("x.y", png(picture(2)), "a caption")])
        (tmp_path / "a.d" / "._x.y.png").write_bytes(b"what macOS leaves behind")
        (tmp_path / "readme.txt").write_text("no caption of an image")
        (tmp_path / "lonely.PNG").write_bytes(png(picture(3)))
        source = FolderSource(tmp_path)
        keys = [source.key(n) for n in range(len(source))]
        assert keys == ["lonely", "a.d/x.y", "b/c/0000", "b/c/0001"]
        assert source[1].captions == ["a caption"]
        with pytest.raises(BadSample, match=r"lonely.PNG: its caption 'lonely.txt' does not exist"):
            source[0]

    def test_keys_keep_what_tells_files_apart(self, tmp_path):
        write_sidecars(tmp_path, [("a 1.2", png(picture(0)), "x"), ("a 1.3", png(picture(1)), "y")])
        source = FolderSource(tmp_path)
        assert [source.key(n) for n in range(2)] == ["a 1.2", "a 1.3"]

    def test_links_are_followed_to_files_alone(self, tmp_path):
        elsewhere = write_images(tmp_path / "elsewhere", records(1)) / "0000.png"
        folder = tmp_path / "d"
        folder.mkdir()
        (folder / "link.png").symlink_to(elsewhere)
        (folder / "device.png").symlink_to("/dev/zero")
        lines = [json.dumps({"file_name": f"{n}.png", "text": n}) for n in ("link", "device")]
        (folder / "metadata.jsonl").write_text("\n".join(lines))
        source = FolderSource(folder)
        assert np.array_equal(source[0].image, picture(0))
        with pytest.raises(BadSample, match=r"device.png: cannot be read \(not a regular file\)"):
            source[1]

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


class TestCoco:
    def test_each_image_has_all_its_captions_and_those_without_are_left_out(self, tmp_path, caplog):
        path = write_coco(tmp_path / "d", records(4))
        content = json.loads(path.read_text())
        content["annotations"] = [
            {"image_id": 7 * n, "caption": f"{n} {v}"} for v in range(5) for n in (3, 0, 2)
        ]
        path.write_text(json.dumps(content))
        source = CocoSource(path)
        assert [source.key(n) for n in range(3)] == ["0000", "0002", "0003"]
        assert source[1].captions == [f"2 {v}" for v in range(5)]
        assert np.array_equal(source[2].image, picture(3))
        assert [r.getMessage() for r in caplog.records] == [
            f"data.source: {path}: 1 image left out, without a caption"
        ]

    @pytest.mark.parametrize(
        "images", ["train2017", "images/train2017", "images", "annotations", "annotations/images"]
    )
    def test_images_are_looked_for_where_they_usually_lie(self, tmp_path, images):
        path = write_coco(tmp_path / "d", records(2))
        (tmp_path / "d" / "train2017").rename(tmp_path / "moved")
        for image in (tmp_path / "moved").iterdir():
            target = tmp_path / "d" / images / image.name
            target.parent.mkdir(parents=True, exist_ok=True)
            image.rename(target)
        assert np.array_equal(CocoSource(path)[1].image, picture(1))
        assert len(CocoSource(path, str(tmp_path / "d" / images))) == 2

    def test_images_that_are_nowhere_are_asked_for(self, tmp_path):
        path = write_coco(tmp_path / "d", records(2))
        (tmp_path / "d" / "train2017").rename(tmp_path / "moved")
        with pytest.raises(UserError, match=r"none of its first images .*json\?images=FOLDER$"):
            CocoSource(path)
        assert np.array_equal(CocoSource(path, str(tmp_path / "moved"))[1].image, picture(1))

    def test_what_is_not_of_its_form_is_refused(self, tmp_path):
        path = tmp_path / "captions.json"
        image = {"id": 1, "file_name": "../x.png"}
        said = [{"image_id": 1, "caption": "a"}]
        for content, reason in (
            ("{", "is not JSON"),
            ("[]", "not of COCO's form"),
            ('{"images": []}', "not of COCO's form"),
            ('{"annotations": []}', "not of COCO's form"),
            (
                '{"images": [{"id": [1], "file_name": "x"}], "annotations": []}',
                r"images\[0\]: id: .* must be a number or a text",
            ),
            ('{"images": [7], "annotations": []}', r"images\[0\] is '7'; it must be an object"),
            (json.dumps({"images": [image], "annotations": said}), "not a name of a file"),
        ):
            path.write_text(content)
            with pytest.raises(UserError, match=rf"^data\.source: .*captions\.json.* {reason}"):
                CocoSource(path)


class TestHub:
    def test_without_the_package_its_name_is_said(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(UserError, match=r"^data\.source: hf:x/y@z .*'unclip\[datasets\]'$"):
            HubSource("x/y@z")

    def test_what_cannot_be_loaded_is_one_line(self, tmp_path):
        folder = write_folder(tmp_path / "d", records(2))
        for spec, reason in (
            (f"{tmp_path}/none", "Couldn't find"),
            (f"{folder}@test", 'Unknown split "test"'),
            (f"{folder}:other", "other.* not found|BuilderConfig"),
        ):
            with pytest.raises(UserError, match=f"hf:{spec} cannot be loaded .*({reason})") as e:
                HubSource(spec)
            assert "\n" not in str(e.value)

    def test_columns_are_those_of_a_parquet(self, tmp_path):
        folder = tmp_path / "d"
        folder.mkdir()
        image = {"bytes": png(picture(1)), "path": "x.png"}
        rows = {"image": [image, {"bytes": None, "path": None}], "text": [["a", "b"], ["c"]]}
        pq.write_table(pa.table(rows), folder / "test.parquet")
        source = HubSource(f"{folder}@test")
        assert source[0].captions == ["a", "b"]
        assert [source.key(n) for n in range(2)] == ["x", "d@test-00000001"]
        with pytest.raises(BadSample, match="the image has no bytes"):
            source[1]
        pq.write_table(pa.table({"image": ["x"], "text": ["a"]}), folder / "test.parquet")
        with pytest.raises(UserError, match=r"^data\.source: hf:.*d@test needs a column image"):
            HubSource(f"{folder}@test")

    @pytest.mark.parametrize("split", ["", "@train", "@test"])
    def test_what_save_to_disk_wrote_is_read(self, tmp_path, split, monkeypatch):
        import datasets

        def rows(first):
            images = [{"bytes": image, "path": f"{k}.png"} for k, image, _ in records(4)[first:]]
            texts = [caption for *_, caption in records(4)[first:]]
            whole = datasets.Dataset.from_dict({"image": images, "caption": texts})
            return whole.cast_column("image", datasets.Image())

        both = datasets.DatasetDict(train=rows(0), test=rows(2))
        both.save_to_disk(tmp_path / "both")
        source = HubSource(f"{tmp_path}/both{split}")
        expected = [caption for *_, caption in records(4)[2 if split == "@test" else 0 :]]
        assert [source[n].captions[0] for n in range(len(source))] == expected
        assert source.key(1) == ("0003" if split == "@test" else "0001")
        rows(0).filter(lambda row: row["caption"] != "image number 1").save_to_disk(
            tmp_path / "one"
        )
        monkeypatch.setenv("HOME", str(tmp_path))
        if split:
            with pytest.raises(UserError, match=rf"without splits; leave out {split}$"):
                HubSource(f"~/one{split}")
        else:
            source = HubSource("~/one")
            assert [source.key(n) for n in range(3)] == ["0000", "0002", "0003"]
            assert source[1].captions == ["image number 2"]
            with pytest.raises(UserError, match="no split 'val'; it has @train, @test"):
                HubSource(f"{tmp_path}/both@val")
            with pytest.raises(UserError, match=rf"read it by data\.source=hf:{tmp_path}/one"):
                open_files(str(tmp_path / "one"))


class TestParquet:
    def test_plain_bytes_and_lists_of_captions(self, tmp_path):
        table = pa.table({"image": [png(picture(5))], "text": [["one", "two"]]})
        pq.write_table(table, tmp_path / "d.parquet")
        source = ParquetSource(tmp_path / "d.parquet")
        assert source[0].captions == ["one", "two"]
        assert source[0].key == "d-00000000"
        assert np.array_equal(source[0].image, picture(5))

    def test_rows_are_numbered_where_paths_repeat(self, tmp_path):
        rows = [("same", *record[1:]) for record in records(3)]
        source = ParquetSource(write_parquet(tmp_path / "d.parquet", rows))
        assert [source.key(n) for n in range(3)] == ["same", "d-00000001", "d-00000002"]

    def test_a_missing_column_is_reported_with_those_present(self, tmp_path):
        for columns in (
            {"image": [b"x"], "label": ["a"]},
            {"image": ["a"], "caption": ["a"]},
            {"image": [b"x"], "caption": [7]},
            {"image": [b"x"], "caption": [[7]]},
        ):
            pq.write_table(pa.table(columns), tmp_path / "d.parquet")
            with pytest.raises(UserError, match=r"d\.parquet needs .* has image \(\w+\), \w+"):
                ParquetSource(tmp_path / "d.parquet")

    def test_a_column_whose_name_has_line_breaks_is_named_on_one_line(self, tmp_path):
        pq.write_table(pa.table({"\nimage\x1b": [b"x"]}), tmp_path / "d.parquet")
        with pytest.raises(UserError, match=r"it has \\nimage\\x1b \(binary\)$"):
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
        assert source[6].captions == ["image number 6"]
        with pytest.raises(BadSample, match="row group 1 cannot be read"):
            source[7]


FORMS = "caf\u00e9", "cafe\u0301"  # one name, in Unicode's forms C and D


@pytest.mark.parametrize("texts", [("txt", "txt"), ("txt", "json"), ("json", "txt")])
def test_names_in_two_forms_of_unicode_are_two_samples(tmp_path, texts):
    for name, ending in zip(FORMS, texts):
        (tmp_path / f"{name}.png").write_bytes(png(picture(0)))
        said = json.dumps({"caption": ascii(name)}) if ending == "json" else ascii(name)
        (tmp_path / f"{name}.{ending}").write_text(said)
    source = FolderSource(tmp_path)
    assert {s.key: s.captions for s in map(source.__getitem__, range(2))} == {
        name: [ascii(name)] for name in FORMS
    }


@pytest.mark.parametrize("said", [0, 1])
def test_a_caption_of_one_form_is_not_given_to_the_image_of_the_other_too(tmp_path, said):
    for name in FORMS:
        (tmp_path / f"{name}.png").write_bytes(png(picture(0)))
    (tmp_path / f"{FORMS[said]}.txt").write_text("x")
    source = FolderSource(tmp_path)
    by_key = {source.key(n): n for n in range(2)}
    assert source[by_key[FORMS[said]]].captions == ["x"]
    with pytest.raises(BadSample, match="does not exist"):
        source[by_key[FORMS[1 - said]]]


def test_a_file_in_the_other_form_than_the_listed_one_is_counted(tmp_path):
    for name in FORMS:
        (tmp_path / f"{name}.png").write_bytes(png(picture(0)))
    row = {"file_name": f"{FORMS[0]}.png", "caption": "x"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row))
    files = inventory_of(FolderSource(tmp_path))
    assert (files.read, files.total) == (2, 3)
    (tmp_path / f"{FORMS[0]}.png").unlink()
    assert inventory_of(FolderSource(tmp_path)).read == 2  # now read in its stead
