"""The kinds of damage of folders, tars, parquets and COCO captions; see `damage`."""

import io
import json
import tarfile
import zlib

import pyarrow as pa
import pyarrow.parquet as pq
from damage import BAD, GOOD, JPEG, ROWS, LeftOut, Stops, Used, Whole, case, near
from tiny_data import (
    picture,
    records,
    write_coco,
    write_csv,
    write_folder,
    write_members,
    write_parquet,
    write_sidecars,
    write_tar,
)

# --- folders --------------------------------------------------------------------------------------


@case("image without a .txt beside it", LeftOut("its caption '.*' does not exist"))
def silent(path):
    folder = write_sidecars(path / "d", ROWS)
    (folder / "bad.txt").unlink()
    return folder


@case("file of the listing that is not there", LeftOut("does not exist"))
def gone(path):
    folder = write_folder(path / "d", ROWS)
    (folder / "bad.png").unlink()
    return folder


@case(
    "file that vanishes after opening",
    LeftOut("does not exist", lambda f: (f / "bad.png").unlink()),
)
def vanishing(path):
    return write_folder(path / "d", ROWS)


@case("link to an image outside of the folder", Used(check=near(picture(GOOD), 0)))
def linked(path):
    folder = write_folder(path / "d", ROWS)
    (folder / "bad.png").rename(path / "elsewhere.png")
    (folder / "bad.png").symlink_to(path / "elsewhere.png")
    return folder


@case("link to a device", LeftOut("not a regular file"))
def device(path):
    folder = write_folder(path / "d", ROWS)
    (folder / "bad.png").unlink()
    (folder / "bad.png").symlink_to("/dev/zero")
    return folder


def line(text):
    def make(path):
        folder = write_folder(path / "d", ROWS)
        with (folder / "metadata.jsonl").open("a") as file:
            file.write(text)
        return folder

    return make


case("line of metadata.jsonl that is not JSON", Stops("line 10 is not JSON", "line"))(line("{"))
case("line of metadata.jsonl that is not an object", Stops("line 10 needs a", "line"))(line("[1]"))
case("line of metadata.jsonl without file_name", Stops("line 10 needs a", "line"))(
    line('{"caption": "x"}')
)
case(
    "lines of metadata.jsonl with one file_name",
    Used("used, with all their captions", lambda s: s.captions == ["the bad one", "x"]),
)(line('{"file_name": "bad.png", "caption": "x"}'))
case(
    "lines of metadata.jsonl with one file_name in two spellings (a.png, ./a.png)",
    Used("used, with all their captions", lambda s: s.captions == ["the bad one", "x"]),
)(line('{"file_name": ".//bad.png", "caption": "x"}'))
case("file_name that leaves the folder (../x.png)", Stops("line 10: .* not a name", "line"))(
    line('{"file_name": "../x.png", "caption": "x"}')
)
case("file_name that is an absolute path", Stops("line 10: .* not a name", "line"))(
    line('{"file_name": "/x.png", "caption": "x"}')
)


@case("metadata.csv without a first line of names", Stops("needs a first line with file_name"))
def headless(path):
    folder = write_csv(path / "d", ROWS)
    text = (folder / "metadata.csv").read_text()
    (folder / "metadata.csv").write_text(text.partition("\n")[2])
    return folder


@case("row of metadata.csv with too many fields", Stops("line 11 has 3 fields", "line"))
def ragged(path):
    folder = write_csv(path / "d", ROWS)
    with (folder / "metadata.csv").open("a") as file:
        file.write("bad.png,a cat, asleep\n")
    return folder


@case("folder without images", Stops("holds no samples"))
def nothing(path):
    (path / "d").mkdir()
    return path / "d"


# --- tars -----------------------------------------------------------------------------------------


def changed_tar(change):
    def make(path):
        tar = write_tar(path / "d.tar", ROWS)
        data = bytearray(tar.read_bytes())
        tar.write_bytes(change(data))
        return tar

    return make


def flipped(data):
    # The header of the sixth sample's image: each member takes a header and some blocks.
    with tarfile.open(fileobj=io.BytesIO(bytes(data))) as archive:
        data[archive.getmember("0005.png").offset + 100] ^= 1
    return data


case("tar cut off", Whole(5))(changed_tar(lambda data: data[: 5 * 2560 + 700]))
case("tar with a flipped bit in a header", Whole(5))(changed_tar(flipped))
case("tar of zero bytes", Stops("not an uncompressed tar .empty file"))(changed_tar(lambda _: b""))
case("compressed tar", Stops("not an uncompressed tar"))(
    changed_tar(lambda data: zlib.compress(data, wbits=31))
)


def members(*more):
    """A tar of good samples with more members."""
    good = []
    for key, image, _ in records(GOOD):
        good += [(f"{key}.png", image), (f"{key}.txt", b"x")]
    return lambda path: write_members(path / "d.tar", [*good, *more])


case("tar without images", Stops("holds no image"))(
    lambda path: write_members(path / "d.tar", [("1.txt", b"x")])
)
case("image without a caption in a tar", LeftOut("no caption"))(members(("bad.png", BAD)))
case("caption without an image in a tar", LeftOut("no image"))(members(("bad.txt", b"x")))
case("broken .json in a tar", LeftOut(r"its \.json cannot be read"))(
    members(("bad.png", BAD), ("bad.json", b"{"))
)
case(
    "members of a tar with one name",
    Used("used, the later member", lambda s: s.captions == ["second"]),
)(members(("bad.png", JPEG), ("bad.txt", b"first"), ("bad.txt", b"second"), ("bad.png", BAD)))


@case(
    "tar member that would escape (../../bad.png)",
    Used("used; nothing is written to disk", near(picture(GOOD), 0)),
)
def escaping(path):
    folder = path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    return members(("../../bad.png", BAD), ("../../bad.txt", b"x"))(folder)


@case("tar member that is a link or a device", LeftOut("no image"))
def special(path):
    tar = write_tar(path / "d.tar", records(GOOD))
    with tarfile.open(tar, "a") as archive:
        for name, kind in (("bad.png", tarfile.SYMTYPE), ("bad.jpg", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("bad.txt")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    return tar


@case(
    "tar that shrinks after opening",
    LeftOut("changed since", lambda folder: (folder / "1.tar").write_bytes(b"")),
)
def shrinking(path):
    folder = path / "d"
    folder.mkdir()
    write_tar(folder / "0.tar", records(GOOD))
    write_tar(folder / "1.tar", ROWS[GOOD:])
    return folder


@case("damaged index beside a tar", Used("used, the index is made anew"))
def misindexed(path):
    (path / "d.tar.index.npz").write_bytes(b"PK\x03\x04")
    return write_tar(path / "d.tar", ROWS)


# --- parquets -------------------------------------------------------------------------------------


def table(path, **columns):
    pq.write_table(pa.table(columns), path / "d.parquet", row_group_size=3)
    return path / "d.parquet"


IMAGE_COLUMN = [{"bytes": image, "path": f"{key}.png"} for key, image, _ in ROWS]
TEXT_COLUMN = [caption for *_, caption in ROWS]

case("parquet without an image column", Stops("needs a column image"))(
    lambda path: table(path, caption=TEXT_COLUMN)
)
case("parquet without a caption column", Stops("needs a column image .* and a column caption"))(
    lambda path: table(path, image=IMAGE_COLUMN)
)
case("parquet with images that are no bytes", Stops("needs a column image"))(
    lambda path: table(path, image=TEXT_COLUMN, caption=TEXT_COLUMN)
)
case("parquet with captions that are numbers", Stops("needs a column image"))(
    lambda path: table(path, image=IMAGE_COLUMN, caption=list(range(9)))
)
case("parquet without rows", Stops("holds no samples"))(
    lambda path: table(path, image=pa.array([], pa.binary()), caption=pa.array([], pa.string()))
)
case("null instead of an image's bytes in a parquet", LeftOut("no bytes"))(
    lambda path: table(
        path,
        image=[*IMAGE_COLUMN[:-1], {"bytes": None, "path": "bad.png"}],
        caption=TEXT_COLUMN,
    )
)


@case("parquet cut off", Stops("cannot be read as parquet"))
def cut(path):
    file = write_parquet(path / "d.parquet", ROWS)
    file.write_bytes(file.read_bytes()[:-100])
    return file


@case("damaged row group of a parquet", LeftOut("row group 1 cannot be read"))
def group(path):
    file = write_parquet(path / "d.parquet", ROWS, rows_per_group=8)
    column = pq.ParquetFile(file).metadata.row_group(1).column(0)
    data = bytearray(file.read_bytes())
    data[column.data_page_offset : column.data_page_offset + 60] = b"\xff" * 60
    file.write_bytes(data)
    return file


# --- COCO -----------------------------------------------------------------------------------------


def coco(change):
    def make(path):
        captions = write_coco(path / "d", ROWS)
        content = json.loads(captions.read_text())
        change(content, captions)
        captions.write_text(json.dumps(content))
        return captions

    return make


case("COCO captions without images", Stops("not of COCO's form"))(
    coco(lambda c, _: c.pop("images"))
)
case("COCO captions without annotations", Stops("not of COCO's form"))(
    coco(lambda c, _: c.pop("annotations"))
)
case("COCO image that is not there", LeftOut("does not exist"))(
    coco(lambda _, path: (path.parents[1] / "train2017" / "bad.png").unlink())
)
case(
    "COCO image without captions",
    Used(
        "not a sample; counted in a log line",
        log="data.source: {path}: 1 image left out, without a caption",
    ),
)(coco(lambda c, _: c["images"].append({"id": -1, "file_name": "silent.png"})))
case("COCO caption of an unknown image", Used("ignored"))(
    coco(lambda c, _: c["annotations"].append({"image_id": -1, "caption": "x"}))
)
