"""Layouts as people have them: what is read, what is counted, and what an error advises."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_data import (
    picture,
    png,
    records,
    write_coco,
    write_images,
    write_members,
    write_sidecars,
    write_tar,
)

from unclip.common.errors import UserError
from unclip.data.decode import BadSample
from unclip.data.readers.inventory import inventory_of
from unclip.data.readers.opening import open_files

ROWS = records(4)
IMAGE = png(picture(0))


def keys(source):
    return [source.key(n) for n in range(len(source))]


def captions(source):
    return {source.key(n): source[n].captions for n in range(len(source))}


def left_out(source):
    found = inventory_of(source)
    return {reason: each.names for reason, each in found.left_out.items()}


def refusal(path):
    with pytest.raises(UserError) as caught:
        open_files(str(path))
    assert not isinstance(caught.value, BadSample)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_tar_members_with_dots_are_samples_and_what_webdataset_keeps_beside_one_is_counted(
    tmp_path,
):
    members = []
    for name in ("22.04", "22.05", "v1.5", "plain"):
        members += [(f"{name}.jpg", IMAGE), (f"{name}.txt", name.encode())]
    members += [("plain.seg.png", IMAGE), ("plain.class.txt", b"7"), ("plain.npy", b"x")]
    source = open_files(str(write_members(tmp_path / "d.tar", members)))
    assert captions(source) == {name: [name] for name in ("22.04", "22.05", "v1.5", "plain")}
    assert left_out(source) == {
        "a further image of a sample": ["plain.seg.png"],
        "a caption without an image": ["plain.class.txt"],
        "neither an image nor a caption (.npy)": ["plain.npy"],
    }
    assert inventory_of(source).read == 8


def test_a_hard_link_in_a_tar_is_the_file_it_links_to(tmp_path):
    import io
    import tarfile

    with tarfile.open(tmp_path / "d.tar", "w") as archive:
        for name, data in (("a.png", IMAGE), ("a.txt", b"one"), ("b.txt", b"two")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        info = tarfile.TarInfo("b.png")
        info.type, info.linkname = tarfile.LNKTYPE, "a.png"
        archive.addfile(info)
    source = open_files(str(tmp_path / "d.tar"))
    assert captions(source) == {"a": ["one"], "b": ["two"]}
    assert np.array_equal(source[1].image, picture(0))


def test_keys_that_a_second_tar_has_too_get_its_name(tmp_path, caplog):
    for folder, number in (("x", 0), ("y", 1), ("y", 2)):
        (tmp_path / folder).mkdir(exist_ok=True)
        members = [("0.png", png(picture(number))), ("0.txt", f"{folder} {number}".encode())]
        members += [(f"own {number}.png", IMAGE), (f"own {number}.txt", b"own")]
        write_members(tmp_path / folder / f"{number % 2}.tar", members)
    source = open_files(f"{tmp_path}/*/*.tar")
    assert captions(source) == {
        "0": ["x 0"],
        "own 0": ["own"],
        "y/0/0": ["y 2"],
        "y/0/own 2": ["own"],
        "y/1/0": ["y 1"],
        "y/1/own 1": ["own"],
    }
    assert len(set(source.hashes().tolist())) == 4  # of the keys alone: the split stays
    assert "keys repeat: those of 2 of 3 files begin with the file's name" in caplog.text


def test_one_added_image_changes_neither_keys_nor_split(tmp_path):
    write_sidecars(tmp_path, ROWS)
    before = dict(zip(keys(source := open_files(str(tmp_path))), source.hashes()))
    (tmp_path / "0001.jpg").write_bytes(IMAGE)
    (tmp_path / "0002.webp").write_bytes(IMAGE)
    source = open_files(str(tmp_path))
    after = dict(zip(keys(source), source.hashes()))
    assert set(after) == {*before, "0001.png", "0002.webp"}
    assert {key: after[key] for key in before} == before
    assert after["0001.png"] == before["0001"]  # on the same side as the other of its name


def test_images_and_captions_pair_whatever_their_case_and_normal_form(tmp_path):
    (tmp_path / "Cat.JPG").write_bytes(IMAGE)
    (tmp_path / "Cat.TXT").write_text("a cat")
    (tmp_path / "caf\u00e9.jpeg").write_bytes(IMAGE)
    (tmp_path / "cafe\u0301.txt").write_text("coffee")
    (tmp_path / "json.tif").write_bytes(IMAGE)
    (tmp_path / "json.json").write_text('{"caption": ["a", "b"], "width": 7}')
    found = captions(open_files(str(tmp_path)))
    assert found == {"Cat": ["a cat"], "caf\u00e9": ["coffee"], "json": ["a", "b"]}
    members = [(path.name, path.read_bytes()) for path in sorted(tmp_path.iterdir())]
    assert captions(open_files(str(write_members(tmp_path / "d.tar", members)))) == found


def test_a_listing_in_another_normal_form_finds_its_files(tmp_path):
    (tmp_path / "cafe\u0301.png").write_bytes(IMAGE)
    (tmp_path / "metadata.csv").write_text("file_name,caption\ncaf\u00e9.png,coffee\n")
    source = open_files(str(tmp_path))
    assert source[0].captions == ["coffee"]
    assert inventory_of(source).as_dict() == {"total": 2, "read": 2, "left_out": []}


def test_what_else_lies_in_a_folder_is_counted(tmp_path):
    write_sidecars(tmp_path, ROWS)
    for name in ("._0000.png", "__MACOSX/a.png", ".git/b.png", "c.heic", "d.zip", "e.caption"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(IMAGE)
    (tmp_path / "readme.txt").write_text("no caption")
    (tmp_path / "0001.json").write_text("{}")
    (tmp_path / "gone.png").symlink_to("nowhere")
    (tmp_path / "elsewhere").symlink_to("/usr")
    source = open_files(str(tmp_path))
    assert keys(source) == [key for key, *_ in ROWS]
    assert {reason: set(names) for reason, names in left_out(source).items()} == {
        "hidden or of the operating system": {"._0000.png", "__MACOSX/a.png", ".git/b.png"},
        "an image of a kind that is not read (.heic); convert it to JPEG or PNG": {"c.heic"},
        "an archive or table within the source; give it as a data.source of its own": {"d.zip"},
        "neither an image nor a caption": {"e.caption"},
        "a text without an image": {"readme.txt"},
        "a further text of an image": {"0001.json"},
        "a link to nothing, a device or a pipe": {"gone.png"},
        "a link to a folder, which is not followed; name that folder": {"elsewhere"},
    }
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "0001.png", "caption": "x"}')
    source = open_files(str(tmp_path))
    assert set(left_out(source)["not named in metadata.jsonl"]) == {
        "0000.png",
        "0000.txt",
        "0001.json",
        "0001.txt",
        "0002.png",
    }


def test_files_of_img2dataset_with_their_tables_beside(tmp_path):
    for shard in range(2):
        write_sidecars(tmp_path / f"0000{shard}", ROWS[2 * shard : 2 * shard + 2])
        for key, *_ in ROWS[2 * shard : 2 * shard + 2]:
            (tmp_path / f"0000{shard}" / f"{key}.json").write_text(json.dumps({"caption": "x"}))
        table = pa.table({"url": ["u", "v"], "caption": ["x", "y"], "key": ["0", "1"]})
        pq.write_table(table, tmp_path / f"0000{shard}.parquet")
        (tmp_path / f"0000{shard}_stats.json").write_text("{}")
    source = open_files(str(tmp_path))
    assert captions(source) == {
        f"0000{n // 2}/{key}": [caption] for n, (key, _, caption) in enumerate(ROWS)
    }
    assert inventory_of(source).read == 8
    assert inventory_of(source).total == 4 * 3 + 2 * 2


def test_what_lies_beside_shards_is_counted(tmp_path):
    write_tar(tmp_path / "0.TAR", ROWS)
    write_images(tmp_path / "more", ROWS)
    (tmp_path / "0_stats.json").write_text("{}")
    source = open_files(str(tmp_path))
    (names,) = left_out(source).values()
    assert names == ["0_stats.json", *(f"more/{key}.png" for key, *_ in ROWS)]
    assert (inventory_of(source).read, inventory_of(source).total) == (8, 13)


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
@pytest.mark.parametrize("form", ["utf-16", "utf-16-le"])
def test_a_listing_that_is_not_utf8_says_so(tmp_path, name, form):
    write_images(tmp_path, ROWS)
    text = {"metadata.csv": "file_name,caption\n0000.png,x\n"}.get(
        name, '{"file_name": "0000.png"}'
    )
    (tmp_path / name).write_bytes(text.encode(form))
    assert f"{name} is UTF-16 or UTF-32 text; save it as UTF-8" in refusal(tmp_path)


def test_a_nul_byte_in_a_listing_is_named_by_its_place(tmp_path, caplog):
    write_images(tmp_path, ROWS)
    (tmp_path / "metadata.csv").write_text("file_name,caption\n0000.png,x\n0001.png,aé\0b\n")
    source = open_files(str(tmp_path))
    assert f"{tmp_path / 'metadata.csv'} line 3 column 12 has a NUL byte" in caplog.text
    assert source[0].captions == ["x"]
    with pytest.raises(BadSample, match=r"0001\.png: the caption has a NUL"):
        source[1]


def test_a_table_with_semicolons_or_two_columns_of_a_name_says_so(tmp_path):
    write_images(tmp_path, ROWS)
    (tmp_path / "metadata.csv").write_text("file_name;caption\n0000.png;x\n")
    assert "separate its fields by commas, not by ';'" in refusal(tmp_path)
    (tmp_path / "metadata.csv").write_text("file_name,caption,caption\n0000.png,x,y\n")
    assert "has two columns called caption; keep one" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("train/metadata.csv", "train/metadata.csv lies there: name its folder, data.source="),
        ("captions.txt", "captions.txt lies there, which is not read: make it a metadata.csv"),
        ("metadata.json", "metadata.json lies there, which is not read: make it a metadata.csv"),
        ("Metadata.CSV", "Metadata.CSV lies there, which is not read: make it a metadata.csv"),
        ("notes.md", "or give all captions in a metadata.csv with the columns file_name"),
    ],
)
def test_images_without_captions_are_refused_with_what_lies_there(tmp_path, name, advice):
    write_images(tmp_path / "train", ROWS)
    (tmp_path / name).write_text("file_name,caption\n")
    said = refusal(tmp_path)
    assert "none of its 4 images has a caption beside it, as train/0000.txt; " in said
    assert advice in said


@pytest.mark.parametrize("kinds", [(int, str), (str, int), (float, int), (int, float)])
def test_coco_ids_match_whatever_type_they_are_written_in(tmp_path, kinds):
    path = write_coco(tmp_path / "d", ROWS)
    content = json.loads(path.read_text())
    for image in content["images"]:
        image["id"] = kinds[0](image["id"])
    for said in content["annotations"]:
        said["image_id"] = kinds[1](said["image_id"])
    path.write_text(json.dumps(content))
    assert captions(open_files(str(path))) == {key: [caption] for key, _, caption in ROWS}


@pytest.mark.parametrize(
    ("part", "entry", "said"),
    [
        ("images", {"id": 3}, "images[2] (id 3) has no file_name"),
        ("images", {"file_name": "a.png"}, "images[2] has no id"),
        ("images", {"id": [1], "file_name": "a.png"}, "images[2]: id: '[1]' must be a number"),
        (
            "images",
            {"id": 3, "file_name": "../a.png"},
            "images[2] (id 3): '../a.png' is not a name",
        ),
        ("images", 7, "images[2] is '7'; it must be an object with id"),
        ("annotations", {"id": 9, "image_id": 0}, "annotations[2] (id 9) has no caption"),
        ("annotations", {"id": 9, "caption": "x"}, "annotations[2] (id 9) has no image_id"),
        ("annotations", {"image_id": None, "caption": "x"}, "image_id: 'None' must be a number"),
        ("annotations", None, "annotations[2] is 'None'; it must be an object with image_id"),
    ],
)
def test_a_bad_entry_of_coco_is_named(tmp_path, part, entry, said):
    path = write_coco(tmp_path / "d", ROWS)
    content = json.loads(path.read_text())
    content[part].insert(2, entry)
    path.write_text(json.dumps(content))
    message = refusal(path)
    assert message.startswith(f"data.source: {path}: {part}[2]")
    assert said in message


def test_coco_annotations_of_other_images_say_so(tmp_path):
    path = write_coco(tmp_path / "d", ROWS)
    content = json.loads(path.read_text())
    for said in content["annotations"]:
        said["image_id"] += 1000
    path.write_text(json.dumps(content))
    assert "no annotation is of one of its images: their id is '0', ..., image_id is" in refusal(
        path
    )


def test_images_beside_coco_captions_are_counted(tmp_path):
    path = write_coco(tmp_path / "d", ROWS)
    write_images(tmp_path / "d" / "train2017", [("other", IMAGE, "")])
    assert left_out(open_files(str(path))) == {
        "not named in captions_train2017.json": ["other.png"]
    }


@pytest.mark.parametrize("column", ["image", "caption", "text"])
def test_a_parquet_with_two_columns_of_a_name_is_refused(tmp_path, column):
    columns = {"image": pa.array([IMAGE]), "caption": pa.array(["x"]), "text": pa.array(["y"])}
    names = [*columns, column]
    table = pa.Table.from_arrays([columns[name] for name in names], names=names)
    pq.write_table(table, tmp_path / "d.parquet")
    assert f"has two columns called {column}; keep one" in refusal(tmp_path / "d.parquet")


def test_a_tar_that_is_replaced_by_one_of_its_size_and_time_is_indexed_anew(tmp_path):
    import os

    from unclip.data.readers.tar_index import write_beside

    for beside in (False, True):
        path = write_members(tmp_path / f"{beside}.tar", [("a.png", IMAGE), ("a.txt", b"one")])
        if beside:
            write_beside(path)
        status = os.stat(path)
        assert captions(open_files(str(path))) == {"a": ["one"]}
        write_members(path, [("b.png", IMAGE), ("b.txt", b"two")])
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert (os.stat(path).st_size, os.stat(path).st_mtime_ns) == (
            status.st_size,
            status.st_mtime_ns,
        )
        assert captions(open_files(str(path))) == {"b": ["two"]}


def test_a_member_that_is_not_what_the_index_says_is_a_bad_sample(tmp_path):
    path = write_tar(tmp_path / "d.tar", records(40))
    source = open_files(str(path))
    data = bytearray(path.read_bytes())
    assert data[2560 * 17 : 2560 * 17 + 4] == b"0017"
    data[2560 * 17 : 2560 * 17 + 4] = b"0099"
    path.write_bytes(data)
    with pytest.raises(BadSample, match=r"0017: is not what its index says; remove .*\.index\.npz"):
        source[17]
    assert source[16].captions == ["image number 16"]
