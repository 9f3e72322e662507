"""Networks whose blocks are compiled: nearly the same images, nothing compiled twice."""

from __future__ import annotations

import copy
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch._inductor.runtime.cache_dir_utils import default_cache_dir

from unclip import Pipeline
from unclip.cli import main
from unclip.common.errors import UserError
from unclip.nn import compilation
from unclip.nn.blocks import blocks_of
from unclip.nn.compilation import SMALL, Compilation
from unclip.nn.offload import Offload
from unclip.pipeline import execution, pipeline
from unclip.pipeline.cascade import open_folder
from unclip.pipeline.settings import Settings

CAPTIONS, SEEDS = ["a red circle", "a blue square", "a star"], [0, 1, 2]
FEW = Settings({"decoder": {"steps": 3, "guidance": 2.0}, "upsampler": {"steps": 3}}, batch=2)


@pytest.fixture
def eagerly(monkeypatch):
    """`torch.compile` that compiles nothing: what it was told, and which of it was called."""
    told: list[dict] = []
    called: list[tuple[int, dict]] = []

    def fake(forward, **how):
        told.append(how)

        def run(x, *args, **kwargs):
            called.append((len(x), how))
            return forward(x, *args, **kwargs)

        return run

    monkeypatch.setattr(torch, "compile", fake)
    return told, called


@pytest.fixture
def loaded(cascade):
    return copy.deepcopy(open_folder(cascade))


def test_every_block_is_compiled_with_fixed_shapes(loaded, eagerly):
    told, called = eagerly
    wanted = pipeline.Pipeline(copy.deepcopy(loaded)).generate(CAPTIONS, SEEDS, settings=FEW)
    own = replace(loaded, compilation=Compilation())
    parts = (own.prior, own.decoder, *own.upsamplers)
    assert told == [{"dynamic": False}] * sum(len(blocks_of(part.net)) for part in parts)
    replace(own, upsamplers=own.upsamplers)  # as other settings do
    assert len(told) == sum(len(blocks_of(part.net)) for part in parts)
    found = pipeline.Pipeline(own).generate(CAPTIONS, SEEDS, settings=FEW)
    assert torch.equal(found.image, wanted.image)
    assert called


def test_small_batches_are_replayed_and_an_evaluation_is_a_step(eagerly, monkeypatch):
    told, called = eagerly
    steps: list[int] = []
    mark = lambda: steps.append(len(called))  # noqa: E731
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", mark)
    monkeypatch.setattr(compilation, "blocks_of", lambda net: list(net))
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    Compilation(graphs=True).add(net)
    for count in (SMALL, SMALL + 1):
        net(torch.zeros(count, 2))
    modes = [how.get("mode") for _, how in called]
    assert modes == ["reduce-overhead"] * 3 + [None] * 3
    assert steps == [0, 3]
    assert all(how["dynamic"] is False for how in told)


@pytest.mark.slow  # compiles
@pytest.mark.parametrize("turns", [None, "stages"])
def test_a_compiled_cascade_draws_nearly_the_same(cascade, loaded, turns, monkeypatch, tmp_path):
    """Nothing is compiled from step to step; another batch is compiled, and is not refused."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    torch._dynamo.reset()
    wanted = pipeline.Pipeline(copy.deepcopy(loaded)).generate(CAPTIONS, SEEDS, settings=FEW).image
    offload = None if turns is None else Offload(torch.device("cpu"))
    own = replace(loaded, compilation=Compilation(), offload=offload)
    kinds, counters = [], torch._dynamo.utils.counters
    counters.clear()

    def count(done, total):
        kinds.append(counters["stats"]["unique_graphs"])

    first = pipeline.Pipeline(own).generate(CAPTIONS, SEEDS, settings=FEW, progress=count).image
    assert kinds[-1] > 0
    again = pipeline.Pipeline(own).generate(CAPTIONS, SEEDS, settings=FEW, progress=count).image
    assert kinds[-1] == kinds[len(kinds) // 2 - 1]
    assert torch.equal(first, again)
    assert len(set(kinds)) <= 2 * 3  # two sizes of batches in three stages, in the first step each
    assert counters["frames"]["ok"] == counters["frames"]["total"]
    assert not counters["graph_break"]
    error = (first - wanted).square().mean().item()
    assert -10 * math.log10(error / 4 + 1e-12) > 60
    pipeline.Pipeline(own).generate(["a"] * 5, range(5), settings=replace(FEW, batch=5))


@pytest.mark.parametrize("named", [None, default_cache_dir(), "elsewhere"])
def test_compiled_code_is_kept_in_the_cache_unless_a_folder_is_named(named, monkeypatch, tmp_path):
    monkeypatch.setenv("UNCLIP_CACHE", str(tmp_path))
    monkeypatch.delenv(execution.CACHE, raising=False)
    if named is not None:
        monkeypatch.setenv(execution.CACHE, named)
    kept = Path("elsewhere") if named == "elsewhere" else tmp_path / "compiled"
    assert execution.compiled_folder() == kept


@pytest.mark.slow  # compiles
def test_the_command_says_how_long_it_took(cascade, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("UNCLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(execution.CACHE, default_cache_dir())  # as torch sets it when imported
    words = ["sample", "a", "--pipeline", str(cascade), "--batch", "1", "--compile", "blocks"]
    words += ["prior.steps=3", "decoder.steps=3", "upsampler.steps=3", "--out", str(tmp_path / "o")]
    assert main(words) == 0
    said = capsys.readouterr().err
    line = rf"unclip: compiled \d+ kinds of blocks in [\d.]+ s; kept in {tmp_path}/cache/compiled\n"
    assert len(re.findall(line, said)) == 1
    assert any((tmp_path / "cache" / "compiled").rglob("*.so"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"compile": "all"}, "compile all: must be one of none, blocks, graphs"),
        ({"compile": "graphs"}, "compile graphs: CUDA graphs need a CUDA GPU; use blocks"),
    ],
)
def test_what_cannot_be_compiled_is_refused(cascade, given, said):
    with pytest.raises(UserError, match=f"^{said}$"):
        Pipeline.load(cascade, **given)


def test_weights_that_move_within_a_step_are_refused():
    from unclip.pipeline.execution import choose_compilation

    for name, offload, use in (
        ("blocks", "blocks", "stages"),
        ("graphs", "blocks", "none"),
        ("graphs", "stages", "none"),
    ):
        with pytest.raises(UserError, match=rf"^--compile {name}: .*; use offload={use}$"):
            choose_compilation(name, "cuda", offload)


def test_no_compiler_is_one_line(cascade, capsys, monkeypatch, tmp_path):
    reason = "No working C++ compiler found"
    monkeypatch.setattr("unclip.pipeline.execution._tried", set())
    monkeypatch.setattr("unclip.pipeline.execution.missing_for_compilation", lambda device: reason)
    words = ["sample", "a", "--pipeline", str(cascade), "--compile", "blocks", "--device", "cpu"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error == (
        f"unclip: error: --compile blocks: nothing can be compiled here: {reason}; use none\n"
    )
    assert not list(tmp_path.iterdir())
