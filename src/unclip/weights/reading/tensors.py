"""One file of weights: safetensors, or what torch saved, mapped and not copied into memory."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from unclip.common import json_text
from unclip.common.errors import UserError
from unclip.weights.reading.shells import shells_of
from unclip.weights.reading.torchscript import is_torchscript, read_torchscript

SAFE = (".safetensors",)
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".th")
ENDINGS = SAFE + PICKLED
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
MOST_BYTES = 64 << 30  # of a file
MOST_TENSORS = 100_000
MOST_LETTERS = 300  # of a tensor's name
_LEGACY_BYTES = 4 << 30  # of a file from before torch 1.6, which is read whole


def read_file(file: Path, where: str) -> Any:
    """What a file holds: tensors by name, or whatever plain values somebody saved.

    Args:
        file: Its ending is one of `ENDINGS`.
        where: What errors begin with.

    Raises:
        UserError: it is truncated, larger than `MOST_BYTES`, or holds objects of a class.
    """
    if not file.is_file():
        raise UserError(f"{where}: no such file; fetch it again")
    size = file.stat().st_size
    if size > MOST_BYTES:
        raise UserError(f"{where}: has {size:,} bytes; the most is {MOST_BYTES:,}")
    if file.suffix in SAFE:
        try:
            found = load_file(file)
            with file.open("rb") as opened:  # safetensors takes the last of a name that is twice
                size = int.from_bytes(opened.read(8), "little")
                json.loads(opened.read(size), object_pairs_hook=json_text.once)
            return _counted(found, where)
        except (SafetensorError, ValueError) as error:
            raise UserError(
                f"{where}: not a whole safetensors file ({_line(error)}); fetch it again"
            ) from None
    return _counted(_read_pickled(file, size, where), where)


def state_of(content: Any, where: str) -> dict[str, Tensor]:
    """The state dict in what `read_file` found, its names without wrappers' prefixes.

    It may lie in the ``state_dict`` of a Lightning checkpoint, or in the ``ema_model`` (else the
    ``model``) of a trainer's: the averaged weights are sampled. Components of names that
    DistributedDataParallel (``module``) and torch.compile (``_orig_mod``) add are dropped.

    Raises:
        UserError: there is none, or two different tensors have one name.
    """
    for key in ("state_dict", "ema_model", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not content:
        raise UserError(f"{where}: holds no state dict; give a file of weights")
    found: dict[str, Tensor] = {}
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise UserError(
                f"{where}: {str(name)[:80]} is {type(tensor).__name__}, not a tensor; save the "
                "state dict alone"
            )
        if len(name) > MOST_LETTERS:
            raise UserError(
                f"{where}: {name[:80]}...: is a name of {len(name):,} characters; the most is "
                f"{MOST_LETTERS}"
            )
        _whole(tensor, name, where)
        short = ".".join(p for p in name.split(".") if p not in ("module", "_orig_mod"))
        if short in found and not torch.equal(found[short], tensor):
            raise UserError(f"{where}: {name} is there twice, with different values; save one")
        found[short] = tensor
    return found


def checked(tensor: Tensor, name: str, where: str) -> Tensor:
    """The same tensor; NaN, infinities and what is not a plain number are refused.

    Raises:
        UserError: it names the tensor.
    """
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.dtype not in FLOATS:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise UserError(
            f"{where}: {name} is sparse, quantized or {kind}; give plain numbers of float16, "
            "bfloat16, float32 or float64"
        )
    _whole(tensor, name, where)
    if not tensor.isfinite().all():
        raise UserError(f"{where}: {name} has a NaN or infinite value; fetch the file again")
    if tensor.dtype == torch.float64 and not tensor.float().isfinite().all():
        raise UserError(f"{where}: {name} has a number beyond 3.4e38, the most of float32")
    return tensor


def _whole(tensor: Tensor, name: str, where: str) -> None:
    """Refuse a view that repeats few numbers: a small file may say so of any number of them."""
    if tensor.layout != torch.strided or tensor.is_quantized:
        return  # which `checked` refuses, if any network has such a name
    if tensor.nbytes > tensor.untyped_storage().nbytes():
        raise UserError(
            f"{where}: {name} repeats its numbers to the shape {list(tensor.shape)}; save it whole "
            "(contiguous)"
        )


def _read_pickled(file: Path, size: int, where: str) -> Any:
    try:
        if zipfile.is_zipfile(file):
            _check_zip(file, where)
            if is_torchscript(file):
                return read_torchscript(file, where)
            with torch.serialization.safe_globals(shells_of(file, where)):
                return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        if size > _LEGACY_BYTES:
            raise UserError(
                f"{where}: has {size:,} bytes and is not a zip: it is truncated, or older than "
                "torch 1.6; fetch it again, or give safetensors"
            )
        return torch.load(file, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # torch and its unpickler raise a dozen kinds
        text = " ".join(str(error).split())
        found = re.search(r"GLOBAL (\S+)", text) or re.search(r"class (\S+)", text)
        if found and "eights only" in text:
            raise UserError(
                f"{where}: holds an object of the class {found[1]}, which could run code; save "
                "the tensors alone, or give safetensors"
            ) from None
        raise UserError(
            f"{where}: not a whole file of torch's ({_line(error)}); fetch it again"
        ) from None


def _check_zip(file: Path, where: str) -> None:
    """Torch stores without compression, so nothing in its files unpacks to more than it is."""
    with zipfile.ZipFile(file) as archive:
        if len(set(archive.namelist())) < len(archive.namelist()):
            raise UserError(f"{where}: has two entries of one name; save it by torch")
        for entry in archive.infolist():
            small = entry.filename.endswith((".py", ".debug_pkl"))  # TorchScript's own code
            if entry.compress_type != zipfile.ZIP_STORED and not small:
                raise UserError(f"{where}: {entry.filename[:80]} is compressed; save it by torch")


def _counted(content: Any, where: str) -> Any:
    if isinstance(content, dict) and len(content) > MOST_TENSORS:
        raise UserError(f"{where}: holds more than {MOST_TENSORS:,} tensors")
    return content


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
