"""Any value in the place of one of a configuration: read, or one line with the file and the key.

Nothing of the size that it says is made.
"""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_files import GOLDENS
from hypothesis import given, settings
from hypothesis import strategies as st
from imports import karlo_folder
from test_other_imports import glide_folder, laion_folder

from unclip.common.errors import UserError
from unclip.stages import registry
from unclip.stages.row import CLIP
from unclip.weights.importing import find
from unclip.weights.maps.rules import to_ours
from unclip.weights.reading.folders import local
from unclip.weights.together import check_together

VALUES: list[Any] = [
    *(0, -1, 2**31, 2**63, 1e30, -0.5, 1.5, True, False, None),
    *("", "64", "a\nb", "x" * 5000, [], [64], [[1]], [10**9] * 3, {}),
]
MOST_MEMORY = 256 << 20


def originals(root: Path) -> Path:
    root.mkdir()
    for name in ("prior.ckpt", "stats.th", "decoder.ckpt", "improved_sr.ckpt", "config.json"):
        shutil.copy(GOLDENS / "karlo" / name, root)
    return root


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sources")
    return {
        "karlo": originals(root / "karlo"),
        "diffusers": karlo_folder(root / "diffusers"),
        "glide": glide_folder(root / "glide", "base", "upsample"),
        "laion": laion_folder(root / "laion"),
    }


def read(folder: Path) -> None:
    """What an import does before it writes."""
    found = find(local(folder), half=False)
    assert not any(each.lacks for each in found)
    check_together(found)
    for each in found:
        with torch.device("meta"):
            net = registry.STAGES[each.stage].build_network(each.experiment, each.sizes)
        net = net.model if each.stage == CLIP else net
        to_ours(each.state(), each.rules(net), expected=net.state_dict(), source=each.where)


def keys(content: Any, before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Of every value, also of sections."""
    for name, value in content.items() if isinstance(content, dict) else ():
        yield (*before, name)
        yield from keys(value, (*before, name))


def changed(content: Any, path: tuple[str, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(content))
    inner = copy
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return copy


def of_one_kind(name: str) -> tuple[str, ...]:
    """Keys of which one may be named for another, as they have to fit each other."""
    blocks = ("block_out_channels", "down_block_types", "up_block_types")
    return blocks if name in blocks else ()


def refusal(folder: Path, file: Path, path: tuple[str, ...], value: Any) -> str | None:
    """What is wrong with the answer to a value, if anything is."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    text = file.read_text()
    try:
        file.write_text(json.dumps(changed(json.loads(text), path, value)))
        read(folder)
    except UserError as error:
        said = str(error)
        if "\n" in said or len(said) > 700:
            return f"not one short line: {said}"
        if not any(name in said for name in (*path, *of_one_kind(path[-1]))):
            return f"names no key: {said}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        file.write_text(text)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before
    return f"took {grown:,} bytes" if grown > MOST_MEMORY else None


def files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*.json") if f.name != "model_index.json")


SIZES = [
    ("karlo", "config.json", ("decoder", "model", "hparams", "xf_width")),
    ("karlo", "config.json", ("prior", "diffusion", "steps")),
    ("karlo", "config.json", ("norm_groups",)),
    ("karlo", "config.json", ("improved_sr", "model")),
    ("diffusers", "prior/config.json", ("num_layers",)),
    ("diffusers", "decoder/config.json", ("layers_per_block",)),
    ("diffusers", "text_encoder/config.json", ("hidden_size",)),
    ("diffusers", "decoder_scheduler/scheduler_config.json", ("num_train_timesteps",)),
    ("glide", "config.json", ("base", "xf_heads")),
    ("glide", "config.json", ("upsample",)),
    ("glide", "config.json", ("base", "dropout")),
    ("laion", "prior_config.json", ("prior", "net", "heads")),
    ("laion", "prior_config.json", ("prior", "timesteps")),
]


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(SIZES), st.sampled_from(VALUES))
def test_sizes_of_a_configuration(sources, where, value):
    name, file, path = where
    assert refusal(sources[name], sources[name] / file, path, value) is None


@pytest.mark.parametrize(
    ("name", "file", "path", "value"),
    [
        ("glide", "config.json", ("base", "xf_heads"), 0),
        ("karlo", "config.json", ("prior", "model", "hparams", "xf_heads"), 0),
        ("karlo", "config.json", ("decoder", "model"), 64),
        ("glide", "config.json", ("base",), 64),
        ("laion", "prior_config.json", ("prior", "net", "num_time_embeds"), True),
    ],
)
def test_what_was_read_otherwise_once_is_refused_by_its_own_name(sources, name, file, path, value):
    place = sources[name] / file
    text = place.read_text()
    try:
        place.write_text(json.dumps(changed(json.loads(text), path, value)))
        with pytest.raises(UserError, match=rf"{file}: .*{path[-1]}={value}"):
            read(sources[name])
    finally:
        place.write_text(text)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["karlo", "diffusers", "glide", "laion"])
def test_every_value_of_every_configuration(sources, name):
    wrong = [
        (file.relative_to(sources[name]).as_posix(), ".".join(path), value, said)
        for file in files(sources[name])
        for path in keys(json.loads(file.read_text()))
        if path[-1] not in ("architectures", "_class_name")  # which say what it is
        for value in VALUES
        if (said := refusal(sources[name], file, path, value))
    ]
    assert not wrong
