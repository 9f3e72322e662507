"""The stages in a folder of files, or in one file.

What a file is, its tensors' names tell. Sizes are those of the tensors; what no shape tells (heads,
pixels, groups) is in a ``config.json`` beside the files, or is as published.
"""

from __future__ import annotations

from unclip.common.errors import UserError
from unclip.common.terminal import say
from unclip.weights.clips import from_openai, is_openai
from unclip.weights.found import Found
from unclip.weights.originals import karlo
from unclip.weights.originals.unet import State
from unclip.weights.reading.folders import Source
from unclip.weights.reading.tensors import ENDINGS, read_file, state_of
from unclip.weights.settings import Settings

_KINDS = {  # a tensor that only this file has
    "model.prd_emb": "prior",
    "model.cf_param": "decoder",
    "model_first_steps.input_blocks.0.0.weight": "improved_sr",
    "transformer_proj.weight": "glide",
    "net.causal_transformer.layers.0.0.to_q.weight": "dalle2",
}


def find(source: Source) -> list[Found]:
    """The stages in a folder of files, or in one file."""
    states: dict[str, tuple[State, str]] = {}
    stats, unknown = None, []
    for name in source.inside(""):
        if not name.endswith(ENDINGS):
            continue
        where = source.where(name)
        content = read_file(source.path(name), where)
        if isinstance(content, (list, tuple)):
            stats = karlo.statistics(content, where)
            continue
        state = state_of(content, where)
        kind = _kind(state)
        if kind is None:
            unknown.append(
                f"{where}: {next(iter(state))} is no tensor of a network that unclip knows"
            )
            continue
        if kind in states:
            raise UserError(f"{where}: is a second {kind} beside {states[kind][1]}; give one")
        states[kind] = (state, where)
    if not states and unknown:
        raise UserError(f"{unknown[0]}; `unclip import --help` says what it reads")
    for line in unknown:
        say(f"unclip: {line}; left out", error=True)
    if not states:
        raise UserError(f"{source.label}: holds no weights; give a folder or file of weights")
    config = source.json("config.json") if "config.json" in source.names else {}
    published = {k: config.get(k, {}) for k in ("prior", "decoder", "improved_sr")}
    groups = Settings(config, source.where("config.json")).get("norm_groups", int, 32)
    found = []
    if "clip" in states:
        found.append(from_openai(*states["clip"]))
    if "prior" in states:
        found.append(
            karlo.prior(*states["prior"], stats, karlo.values_of(published["prior"], source))
        )
    size = 64
    if "decoder" in states:
        h = karlo.values_of(published["decoder"], source)
        size = h.get("image_size", int, 64)
        found.append(karlo.decoder(*states["decoder"], h, size, groups))
    if "improved_sr" in states:
        found.append(karlo.upsampler(*states["improved_sr"], size, groups))
    for kind in ("glide", "dalle2"):
        if kind in states:
            found += _other(kind, *states[kind])
    return found


def _kind(state: State) -> str | None:
    if is_openai(state):
        return "clip"
    for name, kind in _KINDS.items():
        bare = name.removeprefix("model.")
        if name in state:
            return kind
        if bare in state:  # without its prefix, which it gets back
            for key in list(state):
                state[f"model.{key}"] = state.pop(key)
            return kind
    return None


def _other(kind: str, state: State, where: str) -> list[Found]:
    what = {"glide": "GLIDE's", "dalle2": "dalle2-pytorch's"}[kind]
    raise UserError(f"{where}: is {what} network, which this command cannot import yet")
