import io

import numpy as np
import pytest
from PIL import Image
from tiny_data import FakeSource, records, write_members, write_parquet

from unclip.data.decode import BadSample
from unclip.data.readers.parquet import ParquetSource
from unclip.data.readers.tar import TarSource
from unclip.data.scan import image_format, scan
from unclip.data.skips import kind_of


class Squared:
    def __call__(self, index):
        return index**2


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("count", [0, 1, 32, 101])
def test_results_come_in_order_and_in_chunks_of_32(workers, count):
    indices = np.arange(count)[::-1]
    chunks = list(scan(Squared(), indices, collate=list, workers=workers, title="squaring"))
    assert [each for chunk in chunks for each in chunk] == [int(index) ** 2 for index in indices]
    assert all(len(chunk) == 32 for chunk in chunks[:-1])


class Get:
    def __init__(self, source):
        self.source = source

    def __call__(self, index):
        return self.source[index]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_workers_error_keeps_its_line(workers):
    source = FakeSource(40, bad=(35,))
    with pytest.raises(BadSample, match=r"^fake: 00035: broken$"):
        list(scan(Get(source), range(40), collate=list, workers=workers, title="getting"))


def test_kinds_are_those_of_every_reader(tmp_path):
    key, image, caption = records(1)[0]
    members = [("a/b.png", image[:60]), ("a/b.txt", b"x"), ("c.png", image), ("c.txt", b"\xff")]
    sources = (
        TarSource(write_members(tmp_path / "d.tar", members)),
        ParquetSource(write_parquet(tmp_path / "d.parquet", [(key, b"", caption)])),
    )
    kinds = []
    for source in sources:
        for index in range(len(source)):
            with pytest.raises(BadSample) as caught:
                source[index]
            kinds.append(kind_of(str(caught.value)))
    assert kinds == ["the image is damaged", "the caption is not UTF-8 text", "the image is empty"]


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF"])
def test_formats(form):
    file = io.BytesIO()
    Image.new("RGB", (4, 4)).save(file, form)
    assert image_format(file.getvalue()) == form
