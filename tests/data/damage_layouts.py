"""What else lies in a source, names that differ in little, and listings of other forms."""

import json
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
from damage import BAD, GOOD, ROWS, Counted, Stops, Used, case
from tiny_data import (
    records,
    write_coco,
    write_csv,
    write_folder,
    write_images,
    write_members,
    write_sidecars,
    write_tar,
)

# --- files that are no part of a sample -----------------------------------------------------------


def beside(name):
    def make(path):
        folder = write_sidecars(path / "d", records(GOOD))
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(BAD)
        return folder

    return make


for _what, _name, _reason in (
    ("hidden file (._0001.png, .DS_Store)", "._0001.png", "hidden"),
    ("file in a hidden folder (.git, __MACOSX)", "__MACOSX/0001.png", "hidden"),
    ("image of a kind that is not read (HEIC, raw)", "bad.heic", "convert it to JPEG or PNG"),
    ("archive or table inside a folder", "bad.zip", "data.source of its own"),
    ("file of another kind", "bad.npy", r"neither an image nor a caption .\.npy"),
    ("text without an image in a folder", "readme.txt", "a text without an image"),
    (".json of an image that has a .txt", "0001.json", "a further text of an image"),
):
    case(_what, Counted(_name, _reason))(beside(_name))


def linked(target):
    def make(path):
        folder = write_sidecars(path / "d", records(GOOD))
        (path / "elsewhere").mkdir()
        (folder / "bad.png").symlink_to(target)
        return folder

    return make


case("link to a folder", Counted("bad.png", "not followed"))(linked("../elsewhere"))
case("link to nothing", Counted("bad.png", "a link to nothing"))(linked("nowhere"))


@case("image that the listing does not name", Counted("bad.png", r"not named in metadata\.jsonl"))
def unnamed(path):
    folder = write_folder(path / "d", records(GOOD))
    (folder / "bad.png").write_bytes(BAD)
    return folder


@case("file beside shards", Counted("bad.png", "beside shards"))
def others(path):
    (path / "d").mkdir()
    write_tar(path / "d" / "0.tar", records(GOOD))
    (path / "d" / "bad.png").write_bytes(BAD)
    return path / "d"


def members(*more):
    good = []
    for key, image, caption in records(GOOD):
        good += [(f"{key}.png", image), (f"{key}.txt", caption.encode())]
    return lambda path: write_members(path / "d.tar", [*good, *more])


case("further image of a sample in a tar", Counted("0001.seg.png", "a further image of a sample"))(
    members(("0001.seg.png", BAD))
)
case("further text of a sample in a tar", Counted("0001.class.txt", "a caption without an image"))(
    members(("0001.class.txt", b"7"))
)
case("second image of a key in a tar", Counted("0001.png", "a second one of its key"))(
    members(("0001.jpg", BAD))
)

# --- names ----------------------------------------------------------------------------------------

case("tar member with dots in its name (22.04.png)", Used())(
    members(("22.bad.png", BAD), ("22.bad.txt", b"x"))
)


@case("hard link in a tar", Used("used, the file that it links to"))
def hard(path):
    tar = members(("bad.txt", b"x"))(path)
    with tarfile.open(tar, "a") as archive:
        info = tarfile.TarInfo("bad.png")
        info.type, info.linkname = tarfile.LNKTYPE, "0001.png"
        archive.addfile(info)
    return tar


@case("image and caption with one name in two forms of Unicode", Used())
def forms(path):
    rows = [*records(GOOD), ("caf\u00e9 bad", BAD, "x")]
    folder = write_sidecars(path / "d", rows)
    (folder / "caf\u00e9 bad.txt").rename(folder / "cafe\u0301 bad.txt")
    return folder


@case("endings in upper case (.PNG, .TXT)", Used())
def upper(path):
    folder = write_sidecars(path / "d", ROWS)
    (folder / "bad.png").rename(folder / "bad.PNG")
    (folder / "bad.txt").rename(folder / "bad.TXT")
    return folder


@case("images that differ in their ending alone", Used("used, with keys and captions of their own"))
def endings(path):
    folder = write_folder(path / "d", ROWS)
    (folder / "bad.webp").write_bytes(BAD)
    with (folder / "metadata.jsonl").open("a") as file:
        file.write(json.dumps({"file_name": "bad.webp", "caption": "another"}))
    return folder


@case(
    "key that two tars have",
    Used(
        "used, the later one with its tar's name in the key; logged",
        log="data.source: keys repeat: those of 1 of 2 files begin with the file's name, as 1/...",
    ),
)
def repeated(path):
    for number, rows in enumerate((ROWS, records(2))):
        write_tar(path / f"{number}.tar", rows)
    return path


# --- listings -------------------------------------------------------------------------------------


def recoded(path):
    folder = write_csv(path / "d", ROWS)
    text = (folder / "metadata.csv").read_text()
    (folder / "metadata.csv").write_text(text, encoding="utf-16")
    return folder


case("listing in UTF-16", Stops("save it as UTF-8"))(recoded)


def listed(header):
    def make(path):
        folder = write_images(path / "d", ROWS)
        (folder / "metadata.csv").write_text(f"{header}\n")
        return folder

    return make


case("metadata.csv with semicolons", Stops("by commas, not by ';'"))(listed("file_name;caption"))
case("metadata.csv with two columns of one name", Stops("two columns called caption"))(
    listed("file_name,caption,caption")
)


@case("folder in which no image has a caption", Stops("none of its 9 images has a caption"))
def silent(path):
    return write_images(path / "d", ROWS)


@case("metadata.csv in a folder below", Stops("name its folder, data.source="))
def below(path):
    write_csv(path / "d" / "train", ROWS)
    return path / "d"


@case("parquet with two columns of one name", Stops("two columns called caption"))
def twice(path):
    columns = [pa.array([BAD]), pa.array(["x"]), pa.array(["y"])]
    table = pa.Table.from_arrays(columns, names=["image", "caption", "caption"])
    pq.write_table(table, path / "d.parquet")
    return path / "d.parquet"


def identified(identity):
    def make(path):
        captions = write_coco(path / "d", ROWS)
        content = json.loads(captions.read_text())
        for said in content["annotations"]:
            said["image_id"] = identity(said["image_id"])
        captions.write_text(json.dumps(content))
        return captions

    return make


case("COCO ids that are texts in one list and numbers in the other", Used())(identified(str))


@case("COCO images that share an id", Stops("two images have the id 0: '.*' and 'bad.png'"))
def shared(path):
    captions = write_coco(path / "d", ROWS)
    content = json.loads(captions.read_text())
    content["images"][-1]["id"] = content["images"][0]["id"]
    captions.write_text(json.dumps(content))
    return captions


case("COCO captions of other images", Stops("no annotation is of one of its images"))(
    identified(lambda identity: identity + 1000)
)
