"""Every file of a source is read or counted with a reason, and no caption goes to another image."""

import io
import json
import os
import tarfile
import tempfile
import unicodedata
from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_data import picture, png

from unclip.common.errors import UserError
from unclip.data.decode import BadSample
from unclip.data.readers.inventory import inventory_of
from unclip.data.readers.names import ending_of, is_hidden, is_image, key_of
from unclip.data.readers.opening import open_files

PROPERTY = settings(deadline=None, suppress_health_check=list(HealthCheck))
PNG = png(picture(1))

STEMS = ["1", "2", "22.04", "22.05", "22", "a b", "caf\u00e9", "cafe\u0301", "A", "a", "0001.seg"]
ENDINGS = [
    *("png", "jpg", "JPG", "jpeg", "webp", "txt", "txt", "TXT", "json", "caption", "heic", "zip"),
    *("", "npz", "csv"),
]
PLACES = ["", "", "", "x/", "a.b/", "x/y z/", ".git/", "__MACOSX/", "._", "."]
NAMES = st.builds(
    lambda place, stem, ending: f"{place}{stem}.{ending}" if ending else f"{place}{stem}",
    *map(st.sampled_from, (PLACES, STEMS, ENDINGS)),
)
FILES = st.lists(st.tuples(NAMES, st.sampled_from(["whole", "whole", "empty", "cut"])), max_size=12)


def content(name, state):
    """An image, or the name as the caption: so that a caption tells which file it is from."""
    if is_image(name):
        data = PNG
    elif ending_of(name) == "json":
        data = json.dumps({"caption": name}).encode()
    else:
        data = name.encode()
    if state == "cut" and is_image(name):
        return data[: len(data) // 2]
    return b"" if state == "empty" else data


def opened(path):
    """The source, or None where it is refused in one line."""
    try:
        return open_files(str(path), on_error="skip")
    except UserError as error:
        problem = str(error)
    assert len(problem.splitlines()) == 1
    return None


def assert_own_captions(source, names=()):
    """Keys differ, and what a sample says is from the file of its name.

    From one of its name in another of Unicode's normal forms only if ``names`` has none of its own.
    """
    texts = {os.path.splitext(n)[0] for n in names if is_caption(n)}
    keys = [source.key(n) for n in range(len(source))]
    assert len(set(keys)) == len(keys)
    for n, key in enumerate(keys):
        try:
            captions = source[n].captions
        except BadSample:
            continue
        for name in captions:
            own, said = (unicodedata.normalize("NFC", text) for text in (key, name))
            assert os.path.splitext(said)[0] in (own, os.path.splitext(own)[0])
            stem = os.path.splitext(key)[0] if is_image(key) else key
            assert os.path.splitext(name)[0] == stem or stem not in texts


def is_caption(name):
    return name.lower().endswith((".txt", ".json")) and not is_hidden(name)


def write(folder, found):
    for name, state in found:
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(name, state))


def files_below(folder):
    return [
        os.path.relpath(os.path.join(place, name), folder)
        for place, _, names in os.walk(folder)
        for name in names
    ]


@PROPERTY
@given(FILES, st.booleans())
def test_folders(found, linked):
    with tempfile.TemporaryDirectory() as folder:
        write(folder, found)
        if linked:
            (Path(folder) / "to nothing.png").symlink_to("nowhere")
        source = opened(folder)
        if source is None:
            return
        names, files = files_below(folder), inventory_of(source)
        assert files.total == len(names)
        images = {n for n in names if is_image(n) and not is_hidden(n) and n != "to nothing.png"}
        assert len(source) == len(images)
        assert_own_captions(source, names)


@PROPERTY
@given(FILES, st.lists(NAMES, max_size=6))
def test_folders_with_a_listing(found, listed):
    with tempfile.TemporaryDirectory() as folder:
        write(folder, found)
        lines = [json.dumps({"file_name": name, "caption": name}) for name in listed]
        (Path(folder) / "metadata.jsonl").write_text("\n".join(lines))
        source = opened(folder)
        if source is None:
            return
        names, files = files_below(folder), inventory_of(source)
        assert files.total == len(names)
        assert len(source) == len(set(listed))
        lacking = {unicodedata.normalize("NFC", name) for name in set(listed) - set(names)}
        read = sum(n in listed or unicodedata.normalize("NFC", n) in lacking for n in names)
        assert files.read == 1 + read


@PROPERTY
@given(FILES, NAMES)
def test_one_more_file_leaves_the_other_samples_on_their_side(found, more):
    with tempfile.TemporaryDirectory() as folder:
        write(folder, found)
        sides = []
        for _ in range(2):
            source = opened(folder)
            sides.append(source and dict(zip(source._names, source.hashes().tolist())))
            write(folder, [(more, "whole")])
        before, after = sides
        if before and after:
            assert before.items() <= after.items()


MEMBERS = st.lists(
    st.tuples(NAMES, st.sampled_from(["whole", "whole", "empty", "cut", "symbolic", "hard"])),
    max_size=12,
)


def write_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, state in members:
            info = tarfile.TarInfo(name)
            if state in ("symbolic", "hard"):
                info.type = tarfile.SYMTYPE if state == "symbolic" else tarfile.LNKTYPE
                info.linkname = members[0][0]
                archive.addfile(info)
            else:
                data = content(name, state)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


@PROPERTY
@given(MEMBERS)
def test_tars(members):
    with tempfile.TemporaryDirectory() as folder:
        tar = Path(folder) / "d.tar"
        write_tar(tar, members)
        source = opened(tar)
        if source is None:
            return
        assert inventory_of(source).total == len(members)
        if all(state != "hard" for _, state in members):  # those say what another file says
            assert_own_captions(source)
        read = {source.key(n) for n in range(len(source))}
        named = [name for each in inventory_of(source).left_out.values() for name in each.names]
        for name, _ in members:
            assert key_of(name) in read or len(named) >= 5 or name in named or not name.isascii()


@PROPERTY
@given(st.lists(MEMBERS, min_size=1, max_size=3), FILES)
def test_folders_of_tars(shards, others):
    with tempfile.TemporaryDirectory() as folder:
        write(folder, [(f"z/{name}", state) for name, state in others])
        for number, members in enumerate(shards):
            write_tar(Path(folder) / f"{number}.tar", [("same.png", "whole"), *members])
        source = opened(folder)
        if source is None:
            return
        members = sum(len(members) + 1 for members in shards)
        assert inventory_of(source).total == members + len(files_below(folder)) - len(shards)
        keys = [source.key(n) for n in range(len(source))]
        assert len(set(keys)) == len(keys)


CAPTIONS = st.none() | st.sampled_from(["", " ", "a"])
ROWS = st.lists(
    st.tuples(
        st.sampled_from([PNG, PNG, b"", PNG[:50], None]),
        st.none() | st.sampled_from(["1.png", "2.png", "x/1.png", ""]),
        CAPTIONS,
    ),
    min_size=1,
    max_size=8,
)
TEXTS = st.sampled_from(
    [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())]
)


def write_table(path, rows, kind, nested):
    struct = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    images = pa.array([{"bytes": image, "path": name} for image, name, _ in rows], struct)
    if not nested:
        images = pa.array([image for image, *_ in rows], pa.binary())
    captions = pa.array([caption for *_, caption in rows], pa.string()).cast(kind)
    table = pa.table({"image": images, "caption": captions})
    pq.write_table(table, path, row_group_size=3)


@PROPERTY
@given(ROWS, TEXTS, st.booleans())
def test_parquets(rows, kind, nested):
    with tempfile.TemporaryDirectory() as folder:
        table, keys = Path(folder) / "d.parquet", []
        for count in (len(rows), max(1, len(rows) - 1)):
            write_table(table, rows[:count], kind, nested)
            source = open_files(str(table))
            assert (len(source), inventory_of(source).total) == (count, 1)
            keys.append([source.key(n) for n in range(count)])
            for n, (image, _, caption) in enumerate(rows[:count]):
                good = image == PNG and bool(caption and caption.strip())
                with nullcontext() if good else pytest.raises(BadSample):
                    assert source[n].captions == [caption]
        assert len(set(keys[0])) == len(rows)
        assert keys[0][: len(keys[1])] == keys[1]  # the last row changes no other's key
