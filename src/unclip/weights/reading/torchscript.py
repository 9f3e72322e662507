"""The tensors of a TorchScript archive, such as OpenAI's CLIP, without its code.

`torch.jit.load` would compile the archive's program. Its tensors are listed in ``data.pkl``, where
modules are objects of classes named ``__torch__...``: here they become namespaces without methods,
and the only functions that may be called are those that rebuild tensors.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unclip.common.errors import UserError

_MOST_PICKLE = 64 << 20  # bytes of the list
_DEPTH = 64  # of modules in modules
_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
}


def is_torchscript(file: Path) -> bool:
    """Whether a zip is a TorchScript archive."""
    with zipfile.ZipFile(file) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(file: Path, where: str) -> dict[str, Tensor]:
    """The state dict of its module; tensors are views of the mapped file.

    Raises:
        UserError: it holds anything besides modules, tensors and plain values.
    """
    whole = torch.UntypedStorage.from_file(str(file), False, file.stat().st_size)
    with zipfile.ZipFile(file) as archive:
        root = next(n for n in archive.namelist() if n.endswith("/constants.pkl")).split("/")[0]
        entry = archive.getinfo(f"{root}/data.pkl")
        if entry.file_size > _MOST_PICKLE:
            raise UserError(f"{where}: data.pkl has {entry.file_size:,} bytes; no CLIP needs them")
        unpickler = _Unpickler(archive, root, whole, file)
        unpickler.feed(archive.read(entry))
    return dict(_tensors(unpickler.load(), "", 0))


class _Module:
    """A module of the archive: its attributes are what the pickle says."""


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, root: str, whole: Any, file: Path):
        self._archive, self._root, self._whole, self._file = archive, root, whole, file
        self._stream = io.BytesIO()
        super().__init__(self._stream)

    def feed(self, data: bytes) -> None:
        self._stream.write(data)
        self._stream.seek(0)

    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Module
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        if module == "torch.jit._pickle" and name in ("build_intlist", "restore_type_tag"):
            return lambda value, *tag: value
        raise ValueError(f"Weights only: GLOBAL {module}.{name}")

    def persistent_load(self, saved: Any) -> Tensor:
        """A storage, as the flat tensor of all its numbers."""
        kind, dtype, key, _, count = saved
        size = count * dtype.itemsize
        entry = self._archive.getinfo(f"{self._root}/data/{key}")
        if kind != "storage" or size > entry.file_size:
            raise ValueError(f"data/{key} is shorter than its tensors")
        with self._file.open("rb") as file:  # its name and extra fields are in between
            file.seek(entry.header_offset + 26)
            lengths = file.read(4)
        start = entry.header_offset + 30
        start += int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little")
        if start + size > self._whole.nbytes():
            raise ValueError(f"data/{key} ends behind the file")
        return torch.empty(0, dtype=dtype).set_(self._whole[start : start + size])


def _rebuild(flat: Tensor, offset: int, size: Any, stride: Any, *rest: Any) -> Tensor:
    """A view; torch refuses one that leaves the storage."""
    return torch.as_strided(flat, tuple(size), tuple(stride), offset)


def _tensors(value: Any, name: str, depth: int) -> Any:
    if depth > _DEPTH:
        raise ValueError(f"modules are nested deeper than {_DEPTH}")
    for key, item in vars(value).items() if isinstance(value, _Module) else ():
        path = f"{name}.{key}" if name else key
        if isinstance(item, Tensor):
            yield path, item
        else:
            yield from _tensors(item, path, depth + 1)
