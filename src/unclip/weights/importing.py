"""Weights of other projects as artifacts of ours, which together are a cascade."""

from __future__ import annotations

import dataclasses
import os
import re
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from unclip.common import artifacts, bounded
from unclip.common.errors import UserError
from unclip.common.hashing import file_sha256
from unclip.common.replacing import put_in_place, require_only
from unclip.common.scratch import scratch_folder
from unclip.common.terminal import say, visible
from unclip.embeddings.clip import fingerprint_of
from unclip.stages import registry
from unclip.stages.row import CLIP
from unclip.tracking import provenance
from unclip.weights.diffusers.find import find as find_components
from unclip.weights.diffusers.find import find_clip as find_clip_component
from unclip.weights.exported import half_parts, restore_notes
from unclip.weights.found import Found
from unclip.weights.hub import open_source
from unclip.weights.maps.prior import DEVIATIONS
from unclip.weights.maps.rules import to_ours
from unclip.weights.originals.find import find as find_files
from unclip.weights.originals.find import find_clip as find_clip_file
from unclip.weights.reading.folders import Source, require_utf8
from unclip.weights.reading.tensors import checked
from unclip.weights.together import (
    check_revisions,
    check_same_clip,
    check_those_there,
    check_together,
    choose_embeddings,
    fingerprint_there,
)


def import_weights(
    spec: str | Sequence[str],
    out: Path,
    *,
    clip: str | None = None,
    merges: Path | None = None,
    half: bool = False,
    force: bool = False,
    reached: Callable[[], None] | None = None,
) -> list[Path]:
    """Write the stages found at ``spec`` into the folder ``out``; all of them appear, or none.

    Args:
        spec: A folder, a file, or ``hf://ORG/NAME[@REVISION]``; of several, each stage is the
            first's that has it.
        out: A cascade's folder; stages of it that ``spec`` has not stay.
        clip: Where the CLIP comes from, if ``spec`` has none or only its text half.
        merges: GPT-2's merges, for GLIDE's networks; None takes those beside the weights.
        half: Keep half precision instead of writing float32.
        force: Replace stages that are there.
        reached: Called once every source is there or has told its files, before any is fetched.

    Returns:
        The artifacts' folders, one a stage.

    Raises:
        UserError: one line that names the file, the key and the fix.
    """
    specs = [spec] if isinstance(spec, str) else spec
    _require_writable_name(out)
    for place in specs if out.is_dir() else ():
        if Path(place).is_dir() and out.samefile(place):
            raise UserError(f"--out {out}: is the source itself; name another folder")
    sources = {each: open_source(each) for each in ([*specs, clip] if clip else specs)}
    if reached is not None:
        reached()
    found = _found(sources, specs, clip, merges, half)
    if not found:
        raise UserError(
            f"{' and '.join(specs)}: holds no whole stage, such as a decoder with its text_proj; "
            "give the folder above it"
        )
    if merges is not None and not any(each.files for each, _ in found):
        raise UserError(
            f"--merges {merges}: no network of {' and '.join(specs)} reads captions by GPT-2's "
            "merges"
        )
    for each, _ in found:
        if each.lacks:
            raise UserError(each.lacks)
    check_together([each for each, _ in found])
    targets = {each.stage: out / registry.STAGES[each.stage].kind for each, _ in found}
    _require_free(out, targets.values(), force=force)
    check_revisions(out, found, set(targets.values()))
    choose_embeddings(out, [each for each, _ in found], set(targets.values()))
    fingerprint = fingerprint_there(out, found)
    out.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(out.parent, ".import-") as scratch:
        folder = scratch / "cascade"
        folder.mkdir()
        for each, origin in found:  # the CLIP is first
            fingerprint = _write(
                each, origin, folder / targets[each.stage].name, fingerprint, half, out
            )
        check_those_there(out, found, set(targets.values()), fingerprint)
        _require_free(out, targets.values(), force=force)  # another process may have been faster
        if not out.exists():
            folder.rename(out)  # at once
        else:
            before = scratch / "before"
            before.mkdir()
            put_in_place({each: folder / each.name for each in targets.values()}, before)
    tell_commits({id(source): source for _, source in found}.values())
    reads = any(each.sizes.embed_dim for each, _ in found)
    if reads and CLIP not in targets and not (out / CLIP).is_dir():
        say(
            "unclip: there is no CLIP, which sampling needs; add the one that the stages were "
            f"trained with by `unclip import CLIP --out {shlex.quote(str(out))}`",
            error=True,
        )
    return list(targets.values())


def _require_free(out: Path, targets: Iterable[Path], *, force: bool) -> None:
    """Refuse to replace stages unless ``force`` says so, and whatever no import has written."""
    for target in filter(os.path.lexists, targets):
        if not force:
            raise UserError(f"--out {out}: {target} exists; name another folder, or add --force")
        require_only(target, (*artifacts.FILES, *artifacts.MORE), option="--out ")


def _require_writable_name(out: Path) -> None:
    """Refuse a name that no configuration can hold: each stage's names its CLIP."""
    require_utf8(out)
    try:
        bounded.check_text(str(out))
    except ValueError as error:
        raise UserError(f"--out {out}: {error}; name another folder") from None


def tell_commits(sources: Iterable[Source]) -> None:
    """Say how to have the same files of the hub again, where an address names a branch or none."""
    for source in sources:
        origin, revision = source.origin["source"], source.origin.get("revision")
        pinned = f"{origin}@{revision}"
        if revision and origin.startswith("hf://") and source.label != pinned:
            say(f"unclip: {source.label} is {pinned} now; give that for the same files", error=True)


def _found(
    sources: dict[str, Source],
    specs: Sequence[str],
    clip: str | None,
    merges: Path | None,
    half: bool,
) -> list[tuple[Found, Source]]:
    """The stages of several sources with a CLIP from ``clip`` if given, the CLIP first."""
    found: list[tuple[Found, Source]] = []
    if clip is not None:
        source = sources[clip]
        found += [(each, source) for each in find_clip(source, half=half)]
        if not found:
            raise UserError(f"--clip {clip}: holds no CLIP")
        if found[0][0].lacks:
            raise UserError(f"--clip {clip}: holds the image half of a CLIP; give both halves")
    for spec in specs:
        source, before = sources[spec], {one.stage: one for one, _ in found}
        for each in find(source, half=half, merges=merges):
            same = before.get(each.stage)
            if same and each.stage == CLIP:
                check_same_clip(each, same)
            found += [] if same else [(each, source)]
    return sorted(found, key=lambda pair: pair[0].stage != CLIP)


def find(source: Source, *, half: bool, merges: Path | None = None) -> list[Found]:
    """The stages of a source, the CLIP first."""
    if not _has_components(source):
        return find_files(source, merges=merges)
    found = find_components(source, half=half)
    restore_notes(source, found)
    return found


def find_clip(source: Source, *, half: bool) -> list[Found]:
    """The CLIP of a source, if it has one; whatever else is there is not asked for anything."""
    if _has_components(source):
        return find_clip_component(source, half=half)
    return find_clip_file(source)


def _has_components(source: Source) -> bool:
    """Whether a configuration names a class of diffusers or transformers."""
    return any(
        key in source.json(name)
        for name in source.names
        if name.endswith(("model_index.json", "config.json"))
        for key in ("_class_name", "architectures", "model_type")
    )


def _write(
    found: Found, source: Source, target: Path, fingerprint: str | None, half: bool, out: Path
) -> str | None:
    """Write one artifact; returns the CLIP's fingerprint, as far as it is known."""
    row = registry.STAGES[found.stage]
    if row.parents:
        found.experiment.clip = str(out / CLIP)  # for training it further
    if artifacts.MERGES in found.files:
        found.experiment.model.merges = str(out / row.kind / artifacts.MERGES)
    with torch.device("meta"):
        try:
            net = row.build_network(found.experiment, found.sizes)
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"{found.where}: its configuration makes no network: {str(error).splitlines()[0]}"
            ) from None
    net = net.model if found.stage == CLIP else net
    before = set(source.used)
    state = {k: checked(v, k, found.place(k)) for k, v in found.state().items()}
    for name in DEVIATIONS & state.keys():
        if not (state[name] > 0).all():
            raise UserError(
                f"{found.place(name)}: {name} has a standard deviation that is not above 0; fetch "
                "the file again"
            )
    weights: dict[str, Tensor] = to_ours(
        state, found.rules(net), expected=net.state_dict(), source=found.place
    )
    halves = half_parts(state)
    state.clear()
    for name in weights:
        if not (half and weights[name].dtype in (torch.float16, torch.bfloat16)):
            weights[name] = weights[name].float()
    if found.stage == CLIP:
        fingerprint = fingerprint_of(weights)
    names = sorted((set(source.used) - before) or source.used)
    artifacts.export(
        target,
        stage=found.stage,
        weights=weights,
        config=dataclasses.asdict(found.experiment),
        provenance=provenance.collect(
            experiment=found.stage,
            seed=0,
            processes=1,
            data_fingerprint="",
            parents={} if fingerprint is None or found.stage == CLIP else {CLIP: fingerprint},
        )
        | {
            "imported": {
                **source.origin,
                "licence": source.origin.get("licence") or _licence(source),
                "files": {visible(name): file_sha256(source.used[name]) for name in names}
                | {name: file_sha256(file) for name, file in found.files.items()},
                "settings": found.settings,
                "half": halves,
            }
        },
        embed_dim=found.experiment.model.embed_dim if found.sizes.embed_dim else None,
        clip_fingerprint=fingerprint if row.parents and found.sizes.embed_dim else None,
        files=found.files,
    )
    return fingerprint


def _licence(source: Source) -> str | None:
    """What the README beside the weights says."""
    if "README.md" not in source.names:
        return None
    with source.path("README.md").open(errors="replace") as file:
        found = re.search(r"^licen[sc]e:[ \t]*([\w.+-]+)", file.read(20_000), re.MULTILINE)
    return found[1] if found else None
