"""The stages in a folder of files, or in one file.

What a file is, its tensors' names tell. Sizes are those of the tensors; what no shape tells (heads,
pixels, groups) is in a ``config.json`` beside the files, or is as published.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unclip.common.errors import UserError
from unclip.common.terminal import say
from unclip.stages.row import DECODER
from unclip.weights.clips import from_openai, is_openai
from unclip.weights.found import Found
from unclip.weights.originals import glide, karlo
from unclip.weights.originals.laion import from_dalle2
from unclip.weights.originals.unet import State
from unclip.weights.reading.folders import Source
from unclip.weights.reading.tensors import ENDINGS, read_file, state_of
from unclip.weights.settings import Settings, section

States = dict[str, tuple[State, str]]
"""By kind: a state dict, and what errors about it begin with."""
LAION_CONFIG = "prior_config.json"
_KINDS = {  # a tensor that only this file has
    "model.prd_emb": "prior",
    "model.cf_param": "decoder",
    "model_first_steps.input_blocks.0.0.weight": "improved_sr",
    "transformer_proj.weight": "glide",
    "net.causal_transformer.layers.0.0.to_q.weight": "dalle2",
}


def find(source: Source, *, merges: Path | None = None) -> list[Found]:
    """The stages of a source, the CLIP first; ``merges`` are GPT-2's, for GLIDE's networks."""
    folder = _folder(source)
    states, stats = _read(source, folder)
    config_file = f"{folder}/config.json" if folder else "config.json"
    config = source.json(config_file) if config_file in source.names else {}
    where = source.where(config_file)
    groups = Settings(config, where).get("norm_groups", int, 32)
    sections = {k: karlo.Section(section(config, k, where), where) for k in states}
    found = []
    if "clip" in states:
        found.append(from_openai(*states["clip"]))
    if "prior" in states:
        found.append(karlo.prior(*states["prior"], stats, sections["prior"]))
    size = 64
    if "decoder" in states:
        size = sections["decoder"].model.get("image_size", int, 64)
        found.append(karlo.decoder(*states["decoder"], sections["decoder"], size, groups))
    if "improved_sr" in states:
        found.append(karlo.upsampler(*states["improved_sr"], sections["improved_sr"], size, groups))
    if "dalle2" in states:
        file = f"{folder}/{LAION_CONFIG}" if folder else LAION_CONFIG
        content = source.json(file)
        found.append(from_dalle2(*states["dalle2"], content, source.where(file)))
    return found + _glide(source, folder, states, config, merges)


def find_clip(source: Source) -> list[Found]:
    """The CLIP of a source, if it has one."""
    states, _ = _read(source, _folder(source))
    return [from_openai(*states["clip"])] if "clip" in states else []


def _glide(
    source: Source, folder: str, states: States, config: dict[str, Any], given: Path | None
) -> list[Found]:
    found: list[Found] = []
    for kind in glide.KINDS.values():  # a base before its upsampler
        if kind not in states:
            continue
        state, where = states[kind]
        own = section(config, kind, source.where("config.json"))
        names = ("n_vocab", "end_token", "norm_groups")
        shared: dict[str, Any] = {name: config[name] for name in names if name in config}
        values = shared | own
        bases = [f.experiment.model.image_size for f in found if f.stage == DECODER]
        found.append(
            glide.network(
                kind,
                state,
                where,
                Settings(values, source.where("config.json")),
                glide.merges_beside(source, folder, given, where),
                bases[0] if bases else None,
            )
        )
    return found


def _folder(source: Source) -> str:
    """The folder of the weights: the source's own, or the only one below it that has any."""
    folders = sorted({n.rpartition("/")[0] for n in source.names if n.endswith(ENDINGS)})
    if not folders:
        raise UserError(f"{source.label}: holds no weights; give a folder or file of weights")
    if "" in folders or len(folders) == 1:
        return "" if "" in folders else folders[0]
    laion = [f for f in folders if f"{f}/{LAION_CONFIG}" in source.names]
    if len(laion) != 1:
        raise UserError(
            f"{source.label}: has weights in {folders[0]}/, {folders[1]}/"
            f"{' and others' if len(folders) > 2 else ''}; give one of these folders"
        )
    return laion[0]


def _read(source: Source, folder: str) -> tuple[States, tuple[State, str] | None]:
    """The networks in a folder by their kinds, and the statistics of Karlo's prior."""
    states: States = {}
    stats: tuple[State, str] | None = None
    unknown = []
    for name in source.inside(folder):
        if not name.endswith(ENDINGS):
            continue
        where = source.where(name)
        content = read_file(source.path(name), where)
        if isinstance(content, (list, tuple)):
            if stats is not None:
                raise UserError(
                    f"{where}: is a second pair of statistics beside {stats[1]}; give one"
                )
            stats = karlo.statistics(content, where), where
            continue
        state = state_of(content, where)
        kind = _kind(state, where)
        if kind is None:
            unknown.append(
                f"{where}: {next(iter(state))} is not a tensor of a network that unclip knows"
            )
            continue
        if kind in states:
            raise UserError(f"{where}: is a second {kind} beside {states[kind][1]}; give one")
        states[kind] = (state, where)
    if not states:
        told = unknown[0] if unknown else f"{source.label}: holds no network"
        raise UserError(f"{told}; `unclip import --help` says what it reads")
    for line in unknown:
        say(f"unclip: {line}; left out", error=True)
    return states, stats


def _kind(state: State, where: str) -> str | None:
    if is_openai(state):
        return "clip"
    for name, kind in _KINDS.items():
        bare = name.removeprefix("model.")
        if name in state:
            return glide.kind_of(state, where) if kind == "glide" else kind
        if bare in state:  # without its prefix, which it gets back
            for key in list(state):
                state[f"model.{key}"] = state.pop(key)
            return kind
    return None
