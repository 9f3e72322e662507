"""A file that holds code, or is damaged, is refused: nothing runs, no advice to trust it."""

from __future__ import annotations

import gc
import io
import json
import pickle
import re

import numpy as np
import open_clip
import pytest
import torch

from unclip.common.errors import UserError
from unclip.data.embedding_store.arrays import _open
from unclip.embeddings.clip import load_open_clip
from unclip.training.checkpoint_damage import read_rest

ADVICE = re.compile(r"weights_only|allow_pickle|trust|torch\.load|jit\.load|False|True|\x1b", re.I)

ran = []


def run():
    ran.append("code of the file")


class Code:
    def __reduce__(self):
        return run, ()


def numpy_bytes(save) -> bytes:
    buffer = io.BytesIO()
    save(buffer, np.array([Code()], dtype=object))
    return buffer.getvalue()


FILES = {
    "code": lambda file: torch.save({"a": Code()}, file),
    "a module": lambda file: torch.save(torch.nn.Linear(2, 2), file),
    "raw code": lambda file: file.write_bytes(pickle.dumps(Code())),
    "numpy": lambda file: file.write_bytes(pickle.dumps({"a": np.ones(3)})),
    "objects": lambda file: file.write_bytes(numpy_bytes(np.save)),
    "many": lambda file: file.write_bytes(numpy_bytes(np.savez)),
    "a list": lambda file: torch.save([1, 2], file),
    "a number": lambda file: torch.save(5, file),
    "others": lambda file: torch.save({"a": torch.ones(2)}, file),
    "text": lambda file: file.write_text("hello"),
    "nothing": lambda file: file.write_bytes(b""),
    "half": lambda file: file.write_bytes(file.read_bytes()[:200]),
}
SMALL = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 8, "layers": 1, "width": 16, "head_width": 8, "patch_size": 4},
    "text_cfg": {"context_length": 4, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}
READERS = {
    "clip.pt": lambda file: load_open_clip(f"open_clip:small@{file}"),
    "clip.bin": lambda file: load_open_clip(f"open_clip:small@{file}"),
    "clip.safetensors": lambda file: load_open_clip(f"open_clip:small@{file}"),
    "clip.npz": lambda file: load_open_clip(f"open_clip:small@{file}"),
    "rest.pt": lambda file: read_rest(file.parent),
    "img_emb_0.npy": lambda file: _open(file, ("float16",), "[n, D]"),
}


@pytest.fixture(scope="module", autouse=True)
def small(tmp_path_factory):
    """An architecture that takes no time to build."""
    file = tmp_path_factory.mktemp("small") / "small.json"
    file.write_text(json.dumps(SMALL))
    open_clip.add_model_config(file)


@pytest.mark.filterwarnings("ignore")  # torch's, of old formats
@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("content", FILES)
def test_no_message_advises_to_trust_a_file(tmp_path, name, content):
    file = tmp_path / name
    torch.save({"a": torch.ones(9)}, file)
    FILES[content](file)
    ran.clear()
    with pytest.raises(UserError) as caught:
        READERS[name](file)
    message = str(caught.value).replace(str(tmp_path), "")
    assert name in message
    assert len(message.splitlines()) == 1
    assert not ADVICE.search(message)
    assert not ran
    del caught
    gc.collect(1)  # numpy leaves a file open that it cannot map
