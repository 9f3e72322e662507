"""`data.caption`: what images are called that have no caption of their own."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tiny_data import picture, png, write_members

from unclip.common.errors import UserError
from unclip.data.decode import BadSample
from unclip.data.readers.opening import open_files

IMAGE = png(picture(0))
CAPTION = "a photo of a {folder}"


def captions(path, caption=CAPTION):
    source = open_files(str(path), caption=caption)
    return {source.key(n): source[n].captions for n in range(len(source))}


@pytest.fixture
def folder(tmp_path):
    """Two folders of one image each, an image beside them, and one with a caption of its own."""
    folder = tmp_path / "my_pets"
    for name in ("golden_retriever/1.png", "cat/1.png", "2.png", "3.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(IMAGE)
    return folder


ALL = {
    "golden_retriever/1": ["a photo of a golden retriever"],
    "cat/1": ["a photo of a cat"],
    "2": ["a photo of a my pets"],
    "3": ["a photo of a my pets"],
}


def test_folders_name_their_images(folder):
    assert captions(folder) == ALL
    assert captions(f"{folder}/") == ALL
    with pytest.raises(UserError, match=r'data\.caption="a photo of a dog"$'):
        open_files(str(folder))


def test_own_captions_are_kept_and_unusable_ones_stay_bad(folder):
    (folder / "2.txt").write_text("my dog")
    (folder / "3.txt").write_text(" ")
    source = open_files(str(folder), caption=CAPTION)
    kept = [n for n in range(len(source)) if source.key(n) != "3"]
    assert {source.key(n): source[n].captions for n in kept} == {
        k: ["my dog"] if k == "2" else v for k, v in ALL.items() if k != "3"
    }
    (bad,) = set(range(len(source))) - set(kept)
    with pytest.raises(BadSample, match="the caption is empty"):
        source[bad]


def test_listings_and_coco(folder):
    names = ["cat/1.png", "2.png"]
    coco = folder.parent / "captions.json"
    images = [{"id": n, "file_name": name} for n, name in enumerate(names)]
    coco.write_text(
        json.dumps({"images": images, "annotations": [{"image_id": 1, "caption": "mine"}]})
    )
    wanted = {"cat/1": ["a photo of a cat"], "2": ["mine"]}
    assert captions(f"{coco}?images={folder}") == wanted
    lines = [{"file_name": names[0]}, {"file_name": names[1], "caption": "mine"}]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert captions(folder) == wanted


def test_tars(tmp_path):
    members = [("cat/1.png", IMAGE), ("2.png", IMAGE), ("3.png", IMAGE), ("3.txt", b"mine")]
    tar = write_members(tmp_path / "dogs.tar", members)
    assert captions(tar) == {
        "cat/1": ["a photo of a cat"],
        "2": ["a photo of a dogs"],
        "3": ["mine"],
    }


def test_tables_without_a_column_of_captions(tmp_path):
    table = pa.table({"image": [{"bytes": IMAGE, "path": "cat/1.png"}]})
    pq.write_table(table, tmp_path / "d.parquet")
    assert captions(tmp_path / "d.parquet") == {"cat/1": ["a photo of a cat"]}
    with pytest.raises(UserError, match="a column caption or text"):
        open_files(str(tmp_path / "d.parquet"))
    table = table.append_column("caption", [[3]])
    pq.write_table(table, tmp_path / "d.parquet")
    with pytest.raises(UserError, match="a column caption or text"):  # of numbers
        open_files(str(tmp_path / "d.parquet"), caption=CAPTION)


def test_a_dataset_of_the_hub_without_a_column_of_captions(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"image": [{"bytes": IMAGE, "path": "cat/1.png"}]})
    rows.cast_column("image", datasets.Image()).save_to_disk(tmp_path / "d")
    assert captions(f"hf:{tmp_path / 'd'}") == {"1": ["a photo of a d"]}  # paths are not kept


def test_the_fingerprint_has_the_captions_in_it(folder):
    def fingerprint(path, caption):
        return open_files(str(path), caption=caption).fingerprint()

    moved = folder.rename(folder.parent / "theirs")
    assert fingerprint(moved, "a") != fingerprint(moved, "b")
    plain, named = fingerprint(moved, "a"), fingerprint(moved, "{folder}")
    folder = moved.rename(folder)
    assert fingerprint(folder, "a") == plain  # wherever it lies
    assert fingerprint(folder, "{folder}") != named  # which is in the captions
