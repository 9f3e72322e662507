"""Why a file of tensors cannot be read, in words of ours. Imports no torch."""

from __future__ import annotations

import pickle
import re

# Libraries name the switches that read such files after all, and run what they hold.
_CODE = re.compile(r"weights_only|pickle|python object|torchscript|jit\.load", re.IGNORECASE)
_DAMAGE = re.compile(r"PytorchStreamReader|zip archive|header|mmap|EOF|magic", re.IGNORECASE)


def why_unreadable(error: Exception) -> str:
    """What an ``error`` of torch, numpy or safetensors means for the file that was read.

    It is the end of a sentence about the file, and never advises to trust it.
    """
    text = " ".join(str(error).split())
    if isinstance(error, pickle.UnpicklingError) or _CODE.search(text):
        return "it is damaged, or holds more than tensors and text, which could run code"
    if "state_dict" in text:
        return "its tensors are not those of this network"
    if isinstance(error, EOFError) or _DAMAGE.search(text):
        return "it is damaged or of another format"
    if not text or isinstance(error, (AttributeError, LookupError, TypeError)):
        return "it is not a file of tensors"
    return text[:200]
