"""The stages in a folder of components, or in the folder of one."""

from __future__ import annotations

from unclip.common.errors import UserError
from unclip.weights.clips import from_transformers
from unclip.weights.diffusers.components import CLIPS, DECODER, PRIOR, UPSAMPLER, Components
from unclip.weights.diffusers.decoder import read_decoder
from unclip.weights.diffusers.prior import read_prior
from unclip.weights.diffusers.upsampler import read_upsampler
from unclip.weights.found import Found
from unclip.weights.reading.folders import Source


def find(source: Source, *, half: bool) -> list[Found]:
    """The stages of a source, the CLIP first."""
    parts = Components(source)
    parts.check()
    found = _clip(parts, half)
    for cls, read in ((PRIOR, read_prior), (DECODER, read_decoder), (UPSAMPLER, read_upsampler)):
        folders = parts.of(cls)
        if len(folders) > (2 if cls == UPSAMPLER else 1):
            raise UserError(f"{source.label}: has {len(folders)} of {cls}; give one of them")
        if folders:
            found.append(read(parts, folders, half))
    return found


def find_clip(source: Source, *, half: bool) -> list[Found]:
    """The CLIP of a source, if it has one; the source may be a pipeline of any kind."""
    return _clip(Components(source), half)


def _clip(parts: Components, half: bool) -> list[Found]:
    folders = {kind: parts.of(cls) for cls, kind in CLIPS.items()}
    if not any(folders.values()):
        return []
    return [from_transformers(parts.source, folders, parts.configs, half=half)]
