"""Captions out of files: the same rows in every form, and a line for what cannot be used."""

from __future__ import annotations

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from unclip.common.errors import UserError
from unclip.data.readers.captions import Caption, digest_captions, read_captions

ROWS = [("birds/1.jpg", 'a "red", small bird'), ("b 2.png", "ein grüner Vogel"), ("x", "a, b")]
KEYS = ["birds_1", "b_2", "x"]


def write(folder, form, rows):
    file, objects = folder / f"captions.{form}", [{"file_name": k, "caption": c} for k, c in rows]
    if form == "parquet":
        pq.write_table(pa.Table.from_pylist(objects), file)
    elif form in ("csv", "tsv"):
        with file.open("w", newline="") as opened:
            writer = csv.writer(opened, delimiter="\t" if form == "tsv" else ",")
            writer.writerows([("file_name", "caption"), *rows])
    elif form == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in objects))
    else:
        file.write_text(json.dumps(objects))
    return file


@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_every_form_holds_the_same_captions(tmp_path, form):
    found = read_captions(write(tmp_path, form, ROWS))
    assert found == [Caption(key, text) for key, (_, text) in zip(KEYS, ROWS, strict=True)]


def test_lines_and_lists_of_texts_have_numbers_for_keys(tmp_path):
    texts = [f"a {n}" for n in range(11)]
    (tmp_path / "c.txt").write_text("\ufeff" + "\n\n ".join(texts))
    (tmp_path / "c.json").write_text(json.dumps(texts))
    (tmp_path / "c.csv").write_text("text\n" + "\n".join(texts))
    for file in tmp_path.iterdir():
        assert read_captions(file) == [Caption(f"{n:02d}", text) for n, text in enumerate(texts)]


def test_a_line_ends_where_an_editor_ends_it(tmp_path):
    """Not at the separators that Unicode knows besides: numbers would no longer be lines."""
    (tmp_path / "c.txt").write_bytes("a\u2028b\r\nc\x0cd\re\x85f\n".encode())
    found = read_captions(tmp_path / "c.txt")
    assert found == [Caption("0", "a\u2028b"), Caption("1", "c\x0cd"), Caption("2", "e\x85f")]


def test_of_coco_each_annotation_is_a_caption_with_its_id(tmp_path):
    rows = [{"image_id": 9, "id": n, "caption": f"a {n}. \n"} for n in (7, 5, 6)]
    (tmp_path / "c.json").write_text(json.dumps({"images": [{"id": 9}], "annotations": rows}))
    assert read_captions(tmp_path / "c.json") == [
        Caption("7", "a 7."),
        Caption("5", "a 5."),
        Caption("6", "a 6."),
    ]


def test_keys_differ_and_are_file_names(tmp_path):
    rows = [("a.jpg", "1"), ("a.png", "2"), ("../a", "3"), ("..", "4"), ("a-1", "5"), ("é", "6")]
    found = read_captions(write(tmp_path, "jsonl", rows))
    keys = [caption.key for caption in found]
    assert len(set(keys)) == len(keys)
    assert all(set("/.\\ ").isdisjoint(key) and key for key in keys)
    assert keys[:2] == ["a", "a-1"]
    several = [{"id": 4, "caption": ["a", "b"]}]
    (tmp_path / "s.json").write_text(json.dumps(several))
    assert read_captions(tmp_path / "s.json") == [Caption("4", "a"), Caption("4-1", "b")]


def test_the_digest_changes_with_a_key_a_text_and_the_order():
    a, b = Caption("1", "a"), Caption("2", "b")
    lists = [[a, b], [b, a], [a], [Caption("1", "ab")], [Caption("1a", ""), b], [a, a]]
    assert len({digest_captions(each) for each in lists}) == len(lists)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("c.txt", " \n", "has no captions"),
        ("c.csv", "", "is empty; its first line names the columns"),
        ("c.csv", "name,words\na,b\n", "needs a column caption or text; it has name, words"),
        ("c.csv", "id,caption\n1,a\n2,a, b\n", "line 3 has 3 fields, the first line 2"),
        ("c.csv", "id,caption\n1,a\n2,\n", "line 3: the caption is empty; correct or remove it"),
        ("c.csv", 'id,caption\n1,"a\n', "is not CSV"),
        ("c.json", "{", "is not JSON"),
        ("c.json", '{"a": 1}', "is neither a list of captions nor of COCO's form"),
        ("c.json", '["a", 3]', 'row 1 needs a "caption"'),
        ("c.json", '["a", "\\ud800"]', "row 1: the caption is not UTF-8 text"),
        ("c.jsonl", '{"caption": "a"}\n{"caption": 3}\n', "line 2: the caption is an int"),
        ("c.jsonl", '{"caption": "a"}\n[]\n', 'line 2 needs a "caption"'),
        ("c.jsonl", "a red circle\n", "line 1 is not JSON"),
        ("c.parquet", "a", "cannot be read as parquet"),
    ],
)
def test_what_cannot_be_used_is_a_line_that_names_the_place(tmp_path, name, text, said):
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(UserError) as raised:
        read_captions(file)
    line = str(raised.value)
    assert line.startswith(f"--captions {file}")
    assert said in line
    assert "\n" not in line


def test_names_fit_on_every_disk(tmp_path):
    """Of 255 bytes; and no image takes the place of another where case does not count."""
    keys = ["鳥" * 100, "鳥" * 99, "Bird", "bird", "한", "\u1112\u1161\u11ab", "x" * 100]
    found = [c.key for c in read_captions(write(tmp_path, "jsonl", [(k, "a") for k in keys]))]
    assert max(len(key.encode()) for key in found) <= 170
    assert found[2:] == ["Bird", "bird-3", "한", "\u1112\u1161\u11ab-5", "x" * 100]
    assert found[0] == "鳥" * 53
    assert found[1] == "鳥" * 53 + "-1"
