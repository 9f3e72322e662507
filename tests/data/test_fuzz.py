"""Readers on arbitrary and on mutated input: a sample, or an error of ours, in bounded memory."""

import io
import json
import resource
import tempfile
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import tiny_data
from damage import encoded, photo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_data import (
    records,
    write_coco,
    write_csv,
    write_folder,
    write_members,
    write_parquet,
    write_tar,
)

from unclip.common.errors import UserError
from unclip.data.decode import BadSample, Limits, decode_captions, decode_image
from unclip.data.readers.opening import open_files
from unclip.data.readers.tar_index import write_beside

pytestmark = pytest.mark.slow
LIMITS = Limits(max_pixels=10**6)
FUZZ = settings(
    max_examples=3 * settings.default.max_examples,  # 15,000 in `make test-all`
    deadline=timedelta(seconds=20),  # one input that takes so long would stall a worker
    suppress_health_check=list(HealthCheck),
    derandomize=settings.default.max_examples == 100,
)


@pytest.fixture(autouse=True, scope="module")
def _bounded_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 2**20  # KiB


@st.composite
def mutated(draw, data):
    """``data`` with some bytes exchanged, put in, left out or cut off."""
    data = bytearray(data)
    places = st.integers(0, len(data) - 1)
    for place, byte in draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=8)):
        data[place] = byte
    place = draw(places)
    match draw(st.sampled_from(["leave", "cut", "put", "drop"])):
        case "cut":
            del data[place:]
        case "put":
            data[place:place] = draw(st.binary(max_size=600))
        case "drop":
            del data[place : place + draw(st.integers(1, 600))]
    return bytes(data)


def attempt(action, kind):
    """What ``action`` gives, or None when it raises exactly ``kind``, in one line."""
    problem = None
    try:
        return action()
    except kind as error:
        problem = error
    assert isinstance(problem, BadSample) == (kind is BadSample)
    assert len(str(problem).splitlines()) == 1
    return None


def read_all(path):
    """Every sample of a source is right or refused."""
    source = attempt(lambda: open_files(str(path), on_error="skip", limits=LIMITS), UserError)
    if source is None:
        return
    assert len(source.hashes()) == len(source)
    for n in range(len(source)):
        sample = attempt(lambda n=n: source[n], BadSample)
        if sample is not None:
            assert sample.key == source.key(n) == sample.key.encode().decode()
            assert_image(sample.image)
            assert_captions(sample.captions)


def assert_image(image):
    assert image.dtype == np.uint8
    assert image.shape[2:] == (3,)
    assert 0 < image.size <= 3 * LIMITS.max_pixels


def assert_captions(captions):
    assert captions
    assert all(caption.strip() == caption != "" for caption in captions)


IMAGES = [encoded(photo(), kind) for kind in ("jpeg", "png", "gif", "webp", "tiff", "bmp", "ppm")]
IMAGES += [encoded(photo(), "jpeg2000"), encoded(photo(), "avif")]


@FUZZ
@given(st.one_of(st.binary(max_size=2000), *map(mutated, IMAGES)))
def test_images(data):
    image = attempt(lambda: decode_image(data, where="x", limits=LIMITS), BadSample)
    if image is not None:
        assert_image(image)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
)


@FUZZ
@given(JSON | st.binary() | st.lists(st.binary() | st.text()))
def test_captions(value):
    captions = attempt(lambda: decode_captions(value, where="x"), BadSample)
    if captions is not None:
        assert_captions(captions)


def template(write):
    """The bytes of a file as ``write`` makes it."""
    with tempfile.TemporaryDirectory() as folder:
        return write(Path(folder)).read_bytes()


def as_lines(value):
    """Values as JSON, one a line when they are a list."""
    return "\n".join(map(json.dumps, value if isinstance(value, list) else [value])).encode()


def write_images(folder):
    tiny_data.write_images(folder, records(3))


def fuzz(data, name, write=lambda folder: None, open_at="."):
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        (Path(folder) / name).write_bytes(data)
        read_all(Path(folder) / open_at)


def summed(tar):
    """``tar`` with right checksums, so that mutated headers are looked into."""
    data = bytearray(tar)
    for start in range(0, len(data) - 511, 512):
        header = data[start : start + 512]
        if header[257:262] == b"ustar":
            total = sum(header) - sum(header[148:156]) + 8 * 32
            data[start + 148 : start + 156] = b"%06o\0 " % total
    return bytes(data)


LONG = [
    ("n" * 200 + ".png", records(1)[0][1]),
    ("a\nb.txt", b"x"),
    ("é" * 99 + ".json", b'{"caption": ["a", "b"]}'),
]
TARS = [
    template(lambda folder: write_tar(folder / "d.tar", records(3))),
    template(lambda folder: write_members(folder / "d.tar", LONG)),
]
MUTATED_TARS = st.one_of(map(mutated, TARS))


@FUZZ
@given(st.one_of(st.binary(max_size=3000), MUTATED_TARS, MUTATED_TARS.map(summed)))
def test_tars(data):
    fuzz(data, "d.tar")


def beside(folder):
    write_beside(write_tar(folder / "d.tar", records(3)))
    return folder / "d.tar.index.npz"


INDEX = template(beside)


@st.composite
def changed_indexes(draw):
    """An index with one array exchanged; its checksums are right."""
    with np.load(io.BytesIO(INDEX)) as found:
        arrays = dict(found)
    name = draw(st.sampled_from(sorted(arrays)))
    array = arrays[name].copy()
    match draw(st.sampled_from(["number", "type", "shape", "cut"])):
        case "number" if array.size:
            low, high = np.iinfo(array.dtype).min, np.iinfo(array.dtype).max
            place = draw(st.integers(0, array.size - 1))
            array.reshape(-1)[place] = draw(st.integers(low, high))
        case "type":
            array = array.astype(draw(st.sampled_from(["<i8", "<u8", "<i4", "<f8", ">i8", "<U3"])))
        case "shape":
            array = array.reshape(draw(st.sampled_from([(-1,), (1, -1), (-1, 1)])))
        case "cut":
            array = array[draw(st.integers(0, 9)) :]
    file = io.BytesIO()
    np.savez(file, **{**arrays, name: array})
    return file.getvalue()


@FUZZ
@given(mutated(INDEX) | changed_indexes())
def test_indexes_beside_tars(data):
    fuzz(data, "d.tar.index.npz", lambda folder: write_tar(folder / "d.tar", records(3)))


PARQUET = template(lambda folder: write_parquet(folder / "d.parquet", records(9), 4))


@pytest.mark.filterwarnings("ignore:Generating overly large repr")  # of what fails
@FUZZ
@given(st.one_of(st.binary(max_size=300), mutated(PARQUET)))
def test_parquets(data):
    fuzz(data, "d.parquet")


LISTING = template(lambda folder: write_folder(folder / "d", records(3)) / "metadata.jsonl")
TABLE = template(lambda folder: write_csv(folder / "d", records(3)) / "metadata.csv")
ENTRIES = st.lists(st.fixed_dictionaries({"file_name": JSON | st.just("0001.png"), "text": JSON}))


@FUZZ
@given(st.one_of(st.binary(max_size=300), mutated(LISTING), ENTRIES.map(as_lines)))
def test_listings(data):
    fuzz(data, "metadata.jsonl", write_images)


@FUZZ
@given(st.one_of(st.binary(max_size=300), mutated(TABLE)))
def test_tables(data):
    fuzz(data, "metadata.csv", write_images)


@FUZZ
@given(st.binary(max_size=300))
def test_texts_beside_images(data):
    fuzz(data, "0001.txt", write_images)


COCO = template(lambda folder: write_coco(folder / "d", records(3)))
IMAGE = st.fixed_dictionaries({"id": JSON | st.just(7), "file_name": JSON | st.just("0001.png")})
SAID = st.fixed_dictionaries({"image_id": JSON | st.just(7), "caption": JSON | st.just("x")})
FORM = st.fixed_dictionaries({"images": st.lists(IMAGE), "annotations": st.lists(SAID)})


@FUZZ
@given(st.one_of(st.binary(max_size=300), mutated(COCO), (FORM | JSON).map(as_lines)))
def test_coco(data):
    fuzz(data, "captions.json", write_images, open_at="captions.json")
