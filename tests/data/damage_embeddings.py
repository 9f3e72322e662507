"""The kinds of damage of embeddings folders; see `damage`."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from damage import LeftOut, Stops
from tiny_data import records, write_clip_retrieval, write_parquet

from data_modules.decoder import DecoderData
from data_modules.prior import PriorData
from unclip.data.config import DataConfig
from unclip.data.embedding_store.source import EmbeddingSource
from unclip.embeddings.tokens import Tokenizer

ROWS = 20
BAD = "0:7"  # shard:row
CASES = {}


def case(name, outcome):
    def register(change):
        def make(path):
            folder = write_clip_retrieval(path / "e", (ROWS,))
            change(folder)
            return folder

        CASES[name] = (make, outcome)
        return change

    return register


def batches(folder, on_error):
    """Training batches of a prior; a decoder is set up as well."""
    source = EmbeddingSource(folder)
    config = DataConfig(batch_size=5, held_out=0, on_error=on_error)
    prior = PriorData(
        config,
        clip_image_size=8,
        clip_tokenize=Tokenizer(12),
        tokenize=Tokenizer(12),
        seed=1,
        embeddings=source,
    )
    prior.setup()
    DecoderData(
        DataConfig(source=str(write_parquet(folder / "d.parquet", records(2)))),
        image_size=8,
        clip_image_size=8,
        clip_tokenize=Tokenizer(12),
        tokenize=Tokenizer(12),
        seed=1,
        embeddings=source,
    )
    return prior.train_dataloader()


def edited(kind, change):
    def make(folder):
        path = folder / kind / f"{kind}_0.npy"
        array = np.load(path)
        change(array)
        np.save(path, array)

    return make


def put(value):
    def change(array):
        array[7] = value

    return change


case("row of embeddings with a NaN", LeftOut("not finite"))(edited("img_emb", put(np.nan)))
case("row of embeddings that is infinite", LeftOut("not finite"))(edited("text_emb", put(np.inf)))
case("row of embeddings that is all zeros", LeftOut("all zeros"))(edited("img_emb", put(0)))


def columns(change):
    def make(folder):
        path = folder / "metadata/metadata_0.parquet"
        found = pq.read_table(path).to_pydict()
        change(found)
        pq.write_table(pa.table(found), path)

    return make


def caption(value):
    def change(found):
        found["caption"][7] = value

    return columns(change)


case("row of embeddings whose caption is null", LeftOut("caption is empty"))(caption(None))
case("row of embeddings whose caption is blank", LeftOut("caption is empty"))(caption(" \n"))


@case("token that CLIP does not have", LeftOut("a token is not below 49408"))
def wild(folder):
    tokens = Tokenizer(12)([f"image number {n}" for n in range(ROWS)]).numpy().astype(np.uint16)
    tokens[7, 3] = 65535
    (folder / "tokens").mkdir()
    np.save(folder / "tokens/tokens_0.npy", tokens)


case("embeddings without captions", Stops("has no captions: expected .*metadata_0.parquet"))(
    columns(lambda found: found.pop("caption"))
)


@case("embeddings with two columns of captions", Stops("two columns called caption"))
def twice(folder):
    texts = pa.array(["x"] * ROWS)
    table = pa.Table.from_arrays([texts] * 3, names=["image_path", "caption", "caption"])
    pq.write_table(table, folder / "metadata/metadata_0.parquet")


@case("embeddings of which one key is of two images", Stops("one key stands for several images"))
@columns
def repeated(found):
    found["image_path"][7] = found["image_path"][3]


@case("embeddings file cut off", Stops("cannot be read"))
def cut(folder):
    path = folder / "img_emb/img_emb_0.npy"
    path.write_bytes(path.read_bytes()[:-10])


@case("damaged captions of embeddings", Stops("metadata_0.parquet cannot be read as parquet"))
def spoilt(folder):
    path = folder / "metadata/metadata_0.parquet"
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(1)
    data = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(data)


@case("embeddings without their metadata of a shard", Stops("copy"))
def missing(folder):
    for kind in ("img_emb", "text_emb"):
        path = folder / kind / f"{kind}_0.npy"
        np.save(folder / kind / f"{kind}_1.npy", np.load(path))
