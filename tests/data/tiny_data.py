"""Tiny datasets on disk in each format, and sources that need no disk."""

import csv
import hashlib
import io
import json
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from unclip.data.decode import BadSample
from unclip.data.sample import Sample


def is_held_out(key, share):
    """The formula of the split, for one key."""
    hashed = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(hashed, "little") < share * 2**64


def picture(number, height=12, width=16):
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(pixels, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png", **options)
    return buffer.getvalue()


def records(count=40):
    """(key, image bytes, caption) of the standard tiny dataset."""
    return [(f"{n:04d}", png(picture(n)), f"image number {n}") for n in range(count)]


def write_folder(folder, rows, field="caption"):
    folder.mkdir()
    lines = []
    for key, image, caption in rows:
        (folder / f"{key}.png").write_bytes(image)
        lines.append(json.dumps({"file_name": f"{key}.png", field: caption}))
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def write_images(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    for key, image, _ in rows:
        (folder / f"{key}.png").write_bytes(image)
    return folder


def write_csv(folder, rows, field="caption"):
    write_images(folder, rows)
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file_name", field])
        table.writerows((f"{key}.png", caption) for key, _, caption in rows)
    return folder


def write_sidecars(folder, rows):
    write_images(folder, rows)
    for key, _, caption in rows:
        (folder / f"{key}.txt").write_text(caption + "\n")
    return folder


def write_coco(folder, rows, split="train2017"):
    """The captions file of a folder in COCO's layout."""
    write_images(folder / split, rows)
    content = {
        "images": [{"id": 7 * n, "file_name": f"{row[0]}.png"} for n, row in enumerate(rows)],
        "annotations": [
            {"id": n, "image_id": 7 * n, "caption": caption}
            for n, (*_, caption) in reversed(list(enumerate(rows)))
        ],
    }
    (folder / "annotations").mkdir()
    path = folder / "annotations" / f"captions_{split}.json"
    path.write_text(json.dumps(content))
    return path


def write_members(path, members):
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_tar(path, rows):
    members = []
    for key, image, caption in rows:
        members += [(f"{key}.png", image), (f"{key}.txt", caption.encode())]
    return write_members(path, members)


def write_parquet(path, rows, rows_per_group=7):
    images = [{"bytes": image, "path": f"{key}.png"} for key, image, _ in rows]
    table = pa.table({"image": images, "caption": [caption for *_, caption in rows]})
    pq.write_table(table, path, row_group_size=rows_per_group)
    return path


class FakeSource:
    """``count`` one-colour images, of which ``bad`` cannot be used."""

    def __init__(self, count, bad=(), captions=1, size=8):
        self.count, self.bad, self.captions, self.size = count, set(bad), captions, size

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.bad:
            raise BadSample(f"fake: {self.key(index)}: broken")
        image = np.full((self.size, self.size, 3), index % 256, dtype=np.uint8)
        return Sample(self.key(index), image, [f"{index} v{v}" for v in range(self.captions)])

    def key(self, index):
        return f"{index:05d}"

    def shards(self):
        return None

    def fingerprint(self):
        return f"fake-{self.count}"


def tokenize(captions):
    """Each caption's UTF-8 bytes, padded to 32."""
    rows = [list(caption.encode()[:32]) for caption in captions]
    return torch.tensor([row + [0] * (32 - len(row)) for row in rows])


def embeddings(rows, dim=8, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)


def write_clip_retrieval(
    folder, counts=(5, 3), *, dim=8, dtype="float16", keys=None, captions=None, digits=1, texts=True
):
    """A folder as clip-retrieval writes it; ``keys`` and ``captions`` are of all shards."""
    total = sum(counts)
    keys = [f"{n:04d}" for n in range(total)] if keys is None else keys
    captions = [f"image number {n}" for n in range(total)] if captions is None else captions
    ends = np.cumsum(counts)
    parts = zip(np.split(embeddings(total, dim), ends[:-1]), np.split(np.arange(total), ends[:-1]))
    for shard, (z, rows) in enumerate(parts):
        number = f"{shard:0{digits}d}"
        for kind, array in (("img_emb", z), ("text_emb", -z)) if texts else (("img_emb", z),):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            np.save(folder / kind / f"{kind}_{number}.npy", array.astype(dtype))
        (folder / "metadata").mkdir(exist_ok=True)
        columns = {"image_path": [keys[r] for r in rows], "caption": [captions[r] for r in rows]}
        columns["similarity"] = [0.3] * len(rows)
        pq.write_table(pa.table(columns), folder / "metadata" / f"metadata_{number}.parquet")
    return folder
