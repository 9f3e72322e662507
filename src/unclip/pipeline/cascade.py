"""A cascade: trained stages that fit together. Nothing here samples; see `unclip.pipeline`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unclip.common import artifacts
from unclip.common.added import with_adapters
from unclip.common.artifacts import Artifact
from unclip.common.devices import find_device
from unclip.common.errors import UserError
from unclip.common.hashing import file_sha256
from unclip.common.undrawn import Undrawn
from unclip.embeddings import words
from unclip.embeddings.clip import FrozenClip, fingerprint_of
from unclip.embeddings.codec import Codec
from unclip.embeddings.config import Embeddings
from unclip.embeddings.gpt2 import Gpt2Tokenizer
from unclip.embeddings.tokens import Tokenizer
from unclip.nn.compilation import Compilation
from unclip.nn.offload import Offload
from unclip.pipeline.execution import choose_compilation, choose_offload
from unclip.pipeline.folder import require_there
from unclip.pipeline.inference import inference
from unclip.pipeline.precision import cast_parameters, choose_precision
from unclip.pipeline.settings import Settings
from unclip.stages import registry
from unclip.stages._prior.part import PriorPart
from unclip.stages.decoder.sampling import DecoderPart
from unclip.stages.row import CLIP, DECODER, PCA, PRIOR, UPSAMPLER
from unclip.stages.upsampler.sampling import UpsamplerPart

CPU = torch.device("cpu")
_TOLD = ("diffusion", "x0_errors", "takes")  # what some parts are told besides their networks


@dataclass(frozen=True)
class Cascade:
    """Frozen stages on one device; making one moves and freezes their networks.

    Args:
        clip: Which the other stages were trained with; None if none of them reads it (GLIDE).
        prior: Needed by what starts from a caption, if the decoder takes image embeddings.
        decoder: From embedding and caption to a small image.
        upsamplers: In the order in which they are applied.
        codec: The PCA, needed by reconstructions from principal components alone.
        device: Of every network.
        dtype: Of the parameters of prior, decoder and upsamplers, None for what they have; CLIP
            and PCA stay in float32.
        offload: What moves the networks to the device by turns; None: all are there.
        compilation: What compiles the blocks of prior, decoder and upsamplers; None: nothing does.
        sha256: Of what `load_cascade` was given but for the samplers' settings: the same on every
            device and in every precision. Empty if the stages come from elsewhere.

    Raises:
        UserError: a prior for a decoder that takes no image embeddings, or stages without the CLIP
            that they read.
    """

    clip: FrozenClip | None
    prior: PriorPart | None
    decoder: DecoderPart
    upsamplers: tuple[UpsamplerPart, ...] = ()
    codec: Codec | None = None
    device: torch.device = CPU
    dtype: torch.dtype | None = None
    offload: Offload | None = None
    compilation: Compilation | None = None
    sha256: str = ""

    def __post_init__(self) -> None:
        if self.prior is not None and self.decoder.takes != "image":
            raise UserError(
                "prior: the decoder takes no image embeddings, so it cannot use a prior"
            )
        for part in (*([self.prior] if self.prior else []), self.decoder, *self.upsamplers):
            _settle(part.net, self.device, self.dtype, self.offload)
            if self.compilation is not None:
                self.compilation.add(part.net)
        if self.clip is not None:
            _place(self.clip.model, self.device, self.offload)
        elif self.decoder.takes != "none":
            self.require_clip()
        if self.codec is not None:
            object.__setattr__(self, "codec", self.codec.to(self.device))

    @property
    def embeddings(self) -> Embeddings | None:
        """Which its stages agree on (`unclip.embeddings.lengths`)."""
        return None if self.clip is None else self.clip.model.embeddings

    @property
    def tokenizer(self) -> Tokenizer | Gpt2Tokenizer:
        """What reads captions: the CLIP, or a decoder that takes nothing of it."""
        own = self.decoder
        if self.clip is None or (own.takes == "none" and own.clip is None):
            return own.tokenize
        tokenizer: Tokenizer = self.clip.model.tokenize
        return tokenizer if isinstance(tokenizer, Tokenizer) else Tokenizer(self.clip.model.context)

    def require_clip(self) -> FrozenClip:
        """The CLIP, for what needs one.

        Raises:
            UserError: there is none.
        """
        if self.clip is None:
            raise UserError("clip: this cascade has none, and needs one for this; add its folder")
        return self.clip

    def fingerprint(self) -> str:
        """A hash of what decides its samples, but for the samplers' settings and the codec."""
        state = hashlib.sha256(_of_clip(self.clip).encode())
        for part in (self.prior, self.decoder, *self.upsamplers):
            if part is not None:
                state.update(fingerprint_of(part.net.state_dict()).encode())
                told = [part.net.config, *(getattr(part, name, None) for name in _TOLD)]
                state.update(repr(told).encode())
        return state.hexdigest()

    @inference
    def embed_captions(self, captions: Sequence[str]) -> Tensor:
        """z_t ``[B, D]``."""
        clip = self.require_clip().model
        return clip.encode_text(clip.tokenize(list(captions)).to(self.device)).z_t


def _settle(
    net: nn.Module, device: torch.device, dtype: torch.dtype | None, offload: Offload | None
) -> None:
    """Freeze a network, then cast and move it: the device never holds more than it needs."""
    net.eval().requires_grad_(False)
    if dtype is not None:
        cast_parameters(net, dtype)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    _place(net, device, offload)


def _place(net: nn.Module, device: torch.device, offload: Offload | None) -> None:
    if offload is None:
        net.to(device)
    else:
        offload.add(net)


def load_part(kind: str, path: Path | str | Artifact, clip: FrozenClip | None = None) -> Any:
    """A trained stage of ``kind`` from its artifact, whichever stage of that kind it is.

    Raises:
        UserError: the artifact is of another kind, or was trained with another CLIP.
    """
    artifact = artifacts.describe(path, key=kind)
    artifacts.expect(artifact, registry.of_kind(kind), key=kind)
    return registry.STAGES[artifact.stage].load(artifact, clip)


def load_cascade(
    *,
    clip: Path | str | None,
    decoder: Path | str,
    prior: Path | str | None = None,
    upsamplers: Sequence[Path | str] = (),
    pca: Path | str | None = None,
    device: torch.device | str = "cpu",
    precision: str = "32",
    offload: str = "none",
    compile: str = "none",
    adapters: Sequence[str] = (),
) -> Cascade:
    """From separate artifacts; those of different CLIPs refuse each other.

    ``clip`` is None for a decoder that reads none. ``prior`` is not read where the decoder takes
    no image embeddings. Upsamplers are applied in the order of their sizes. ``precision``,
    ``offload`` and ``compile`` are of `unclip.pipeline.settings`.
    ``adapters`` are ``PATH`` or ``PATH:WEIGHT``, each added to the stage that it was trained on.
    """
    if isinstance(upsamplers, (str, Path)):
        upsamplers = [upsamplers]
    if not isinstance(upsamplers, Sequence):
        raise UserError(f"upsamplers={upsamplers!r}: must be a list of paths of artifacts")
    given: list[tuple[str, Any]] = [(DECODER, decoder)]
    given += [(UPSAMPLER, path) for path in upsamplers]
    several = ((CLIP, clip), (PRIOR, prior), (PCA, pca))
    given += [(key, path) for key, path in several if path is not None]
    for key, path in given:
        if not isinstance(path, (str, Path)):
            raise UserError(f"{key}={path!r}: must be the path of an artifact")
    paths = [path for key, path in given if key in (DECODER, UPSAMPLER, PRIOR)]
    merged: dict[Any, Any] = dict(zip(paths, with_adapters(paths, adapters), strict=True))
    place = find_device(str(device), key="device")
    dtype = choose_precision(precision, place, key="precision")
    turns = choose_offload(offload, place, key="offload")
    compilation = choose_compilation(compile, place, offload, key="compile")
    with Undrawn():
        frozen = None if clip is None else registry.STAGES[CLIP].load(clip)

    def loaded(kind: str, path: Path | str) -> Any:
        with Undrawn():
            part = load_part(kind, merged[path], frozen)
        _settle(part.net, place, dtype, turns)  # before the next is loaded, in float32 as well
        return part

    own: DecoderPart = loaded(DECODER, decoder)
    if own.takes != "image":
        prior = None
    sampling = [merged[path] for path in (prior, decoder, *upsamplers) if path is not None]
    enlarging = [loaded(UPSAMPLER, path) for path in upsamplers]
    return Cascade(
        clip=frozen,
        prior=None if prior is None else loaded(PRIOR, prior),
        decoder=own,
        upsamplers=tuple(sorted(enlarging, key=lambda p: p.net.config.image_size)),
        codec=None if pca is None else load_part(PCA, pca, frozen),
        device=place,
        dtype=dtype,
        offload=turns,
        compilation=compilation,
        sha256=_sha256(frozen, sampling),
    )


def _of_clip(clip: FrozenClip | None) -> str:
    """A hash of the CLIP and the words that it has learned; "" of none."""
    return "" if clip is None else clip.fingerprint + words.digest(clip.model)


def _sha256(clip: FrozenClip | None, stages: Sequence[Path | str | Artifact]) -> str:
    """Of what decides samples besides the samplers' settings; of upsamplers the order is theirs."""
    found = []
    for each in stages:
        artifact = artifacts.describe(each)
        weights: Any = [(artifact.sha256, 1.0)]
        if merging := artifact.merging:
            weights = [(merging.base.sha256, 1.0)]
            weights += [(adapter.sha256, weight) for adapter, weight in merging.adapters]
        config = {key: v for key, v in artifact.config.items() if key in ("model", "diffusion")}
        errors = artifact.path / artifacts.X0_ERRORS
        own = file_sha256(errors) if errors.is_file() else ""
        found.append(json.dumps([artifact.stage, weights, config, own], sort_keys=True))
    state = [_of_clip(clip), *sorted(found)]
    return hashlib.sha256(json.dumps(state).encode()).hexdigest()


def open_folder(
    folder: Path | str,
    device: torch.device | str = "cpu",
    precision: str = "32",
    offload: str = "none",
    compile: str = "none",
    adapters: Sequence[str] = (),
) -> Cascade:
    """From a folder with ``decoder``, any ``upsampler*``, ``clip``, ``prior`` and ``pca``.

    Each is an artifact, or a run's folder with one inside.
    """
    if not isinstance(folder, (str, Path)):
        raise UserError(f"pipeline={folder!r}: must be the path of a cascade's folder")
    root = Path(folder)
    require_there(root)
    if not root.is_dir():
        raise UserError(f"pipeline={folder}: is a file; a bundle has to be unpacked into a folder")
    if not (root / DECODER).is_dir():
        raise UserError(
            f"pipeline={folder}: {DECODER} missing in it, and nothing else draws; give the folder "
            f"of a cascade that has one, or import one: `unclip import SOURCE --out {folder}`"
        )
    given = {name: root / name for name in (PRIOR, PCA) if (root / name).is_dir()}
    return load_cascade(
        clip=str(root / CLIP) if (root / CLIP).is_dir() else None,
        decoder=root / DECODER,
        upsamplers=sorted(p for p in root.glob(f"{UPSAMPLER}*") if p.is_dir()),
        device=device,
        precision=precision,
        offload=offload,
        compile=compile,
        adapters=adapters,
        **given,
    )


def check_stages(cascade: Cascade, settings: Settings) -> None:
    """Refuse values that cannot be, and settings of a stage that the cascade does not have.

    Raises:
        UserError: it names the first of them.
    """
    settings.check()
    for stage in lacking(cascade):
        if key := settings.first_of(stage):
            raise UserError(f"{key}: this cascade has no {stage}")


def lacking(cascade: Cascade) -> list[str]:
    """Which stages that have settings it does not have."""
    there = {PRIOR: cascade.prior, DECODER: cascade.decoder, UPSAMPLER: cascade.upsamplers}
    return [stage for stage, part in there.items() if not part]


def with_settings(cascade: Cascade, settings: Settings) -> Cascade:
    """The same stages with other sampler settings of their own.

    Raises:
        UserError: a setting that a stage does not have, or of a stage that is not there.
    """
    check_stages(cascade, settings)

    def changed(stage: str, part: Any) -> Any:
        return part and replace(part, sampler=settings.apply(stage, part))

    return replace(
        cascade,
        prior=changed(PRIOR, cascade.prior),
        decoder=changed(DECODER, cascade.decoder),
        upsamplers=tuple(changed(UPSAMPLER, part) for part in cascade.upsamplers),
    )
