"""`unclip sample --devices`: what it writes, by how many processes, and after being killed."""

from __future__ import annotations

import errno
import itertools
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from options import last_of_each, main
from PIL import Image

import unclip
from unclip.common.errors import UserError
from unclip.common.images import to_uint8
from unclip.data.config import ReadingConfig
from unclip.data.readers.captions import read_captions
from unclip.data.readers.inventory import inventory_of
from unclip.data.sources import open_source
from unclip.evaluation.features.images import open_images
from unclip.pipeline.settings import Settings
from unclip.runs import shards
from unclip.runs.sample_plan import SampleConfig

CAPTIONS = [f"a {size} {colour} circle" for colour in ("red", "blue") for size in range(5)]
SHARD = 4  # of batches of 3 and 1 images
SEED = 7


@pytest.fixture(scope="module")
def captions(tmp_path_factory):
    """Ten captions of COCO's form, with ids."""
    file = tmp_path_factory.mktemp("captions") / "captions.json"
    rows = [{"image_id": 3, "id": 100 + k, "caption": f"{c}.\n"} for k, c in enumerate(CAPTIONS)]
    file.write_text(json.dumps({"images": [], "annotations": rows}))
    return file


@pytest.fixture(scope="module")
def sample(cascade, captions):
    """Words of the command."""

    def words(out, *more):
        given = ["sample", "--captions", captions, "--pipeline", cascade, "--out", out]
        sizes = ["--shard-size", SHARD, "--batch", 3, "--seed", SEED, "--device", "cpu"]
        steps = [] if any("decoder.steps=" in str(word) for word in more) else ["decoder.steps=2"]
        return last_of_each([str(word) for word in (*given, *sizes, *steps, *more)])

    return words


@pytest.fixture(scope="module")
def whole(sample, tmp_path_factory):
    """Folders that one process wrote undisturbed, by format."""
    root = tmp_path_factory.mktemp("whole")
    for form in ("png", "tar"):
        assert main(sample(root / form, "--format", form)) == 0
    return root


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def error(capsys, words, status=2):
    capsys.readouterr()
    assert main([str(word) for word in words]) == status
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1, lines
    return lines[0].removeprefix("unclip: error: ")


def test_a_tar_keeps_the_z_i_of_its_images(sample, whole, cascade, tmp_path):
    """Those that `Pipeline.generate` gives; the images are the same as without."""
    out = tmp_path / "kept"
    assert main(sample(out, "--format", "tar", "--keep-z-i")) == 0
    plain = open_source(str(whole / "tar"), ReadingConfig(), image_size=16, split="all")
    kept = open_source(str(out), ReadingConfig(), image_size=16, split="all")
    pipeline, settings = unclip.Pipeline.load(cascade), Settings(changes={"decoder": {"steps": 2}})
    assert len(kept) == len(CAPTIONS)
    assert not inventory_of(kept).left_out  # not the command's own records either
    for k in range(len(kept)):
        assert plain[k].z_i is None
        assert np.array_equal(kept[k].image, plain[k].image)
        assert (kept[k].key, kept[k].captions) == (plain[k].key, plain[k].captions)
        found = pipeline.generate([f"{CAPTIONS[k]}."], [SEED + k], settings=settings)
        assert np.allclose(kept[k].z_i, found.z_i[0].numpy(), atol=1e-5)


@pytest.mark.parametrize("takes", ["text", "nothing"])
def test_a_decoder_without_z_i_has_none_to_keep(
    sample, cascade, tmp_path, capsys, monkeypatch, takes
):
    found = unclip.Pipeline.load(cascade, "cpu").cascade
    other = unclip.Pipeline(replace(found, prior=None, decoder=replace(found.decoder, takes=takes)))
    monkeypatch.setattr("unclip.cli.sample.open_pipeline", lambda args: other)
    words = sample(tmp_path / "out", "--format", "tar", "--keep-z-i")
    assert error(capsys, words) == "--keep-z-i: this cascade's decoder takes no z_i"


def test_a_folder_goes_on_with_or_without_z_i(sample, whole, tmp_path, capsys):
    for begun, first, then in (("kept", True, False), ("plain", False, True)):
        words = sample(tmp_path / begun, "--format", "tar")
        assert main([*words, *(["--keep-z-i"] * first)]) == 0
        (tmp_path / begun / "manifest.json").unlink()
        said = error(capsys, [*words, *(["--keep-z-i"] * then)])
        assert f"was started with settings.keep_z_i {first}, this is {then}" in said


def test_pngs_keep_no_z_i(sample, tmp_path, capsys):
    assert error(capsys, sample(tmp_path / "out", "--keep-z-i")) == "--keep-z-i: needs --format tar"
    assert not (tmp_path / "out").exists()


def test_each_image_is_that_of_its_caption_and_seed(whole, cascade):
    pipeline = unclip.Pipeline.load(cascade)
    rows = [json.loads(row) for row in (whole / "png/samples.jsonl").read_text().splitlines()]
    assert [row["key"] for row in rows] == [str(100 + k) for k in range(10)]
    assert [row["caption"] for row in rows] == [f"{caption}." for caption in CAPTIONS]
    assert [row["seed"] for row in rows] == [SEED + k for k in range(10)]
    assert {row["file"].split("/")[1] for row in rows} == {"00000", "00001", "00002"}
    settings = Settings({"decoder": {"steps": 2}}, batch=3)
    for first, end in ((0, 3), (3, 4), (4, 7), (7, 8), (8, 10)):
        batch = rows[first:end]
        found = pipeline.generate(
            [row["caption"] for row in batch], [row["seed"] for row in batch], settings=settings
        )
        for row, image in zip(batch, to_uint8(found.image), strict=True):
            assert np.array_equal(np.asarray(Image.open(whole / "png" / row["file"])), image)


def test_a_tar_has_the_same_images_with_captions_and_seeds(whole):
    rows = [json.loads(row) for row in (whole / "png/samples.jsonl").read_text().splitlines()]
    tars = sorted((whole / "tar").glob("*.tar"))
    assert [tar.name for tar in tars] == ["00000.tar", "00001.tar", "00002.tar"]
    found = {}
    for tar in tars:
        with tarfile.open(tar) as archive:
            found |= {m.name: archive.extractfile(m).read() for m in archive.getmembers()}
    assert len(found) == 30
    for row in rows:
        assert found[f"{row['key']}.png"] == (whole / "png" / row["file"]).read_bytes()
        assert found[f"{row['key']}.txt"].decode() == row["caption"]
        assert json.loads(found[f"{row['key']}.json"]) == {"seed": row["seed"]}
    source = open_source(str(whole / "tar"), ReadingConfig(), image_size=32, split="all")
    assert [source[k].captions for k in range(10)] == [[row["caption"]] for row in rows]


def test_evaluation_reads_either_format_and_no_unfinished_folder(whole, tmp_path):
    png, tar = (open_images(str(whole / form), option="images") for form in ("png", "tar"))
    assert len(png) == len(tar) == 10
    for number in range(10):
        assert png(number).digest == tar(number).digest
        assert png(number).caption == tar(number).caption
    (tmp_path / "begun.json").write_text("{}")
    (tmp_path / "00000.tar").write_bytes((whole / "tar/00000.tar").read_bytes())
    with pytest.raises(UserError, match="is not finished; run the same `unclip sample` again"):
        open_images(str(tmp_path), option="images")


def test_unclip_evaluate_images_reads_the_folder(whole, cascade, capsys):
    words = ["evaluate", "images", str(whole / "png"), "--features", f"own:{cascade}", "--json"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["conditions"]["n"] == 10


def test_the_manifest_says_what_decided_the_bytes(whole, cascade, captions):
    manifest = json.loads((whole / "png/manifest.json").read_text())
    assert manifest["images"] == 10
    assert [shard["images"] for shard in manifest["shards"]] == [4, 4, 2]
    assert manifest["cascade"]["source"] == f"{cascade}/clip"
    assert manifest["captions"]["count"] == 10
    settings = manifest["settings"]
    assert settings["decoder"]["steps"] == 2
    assert (settings["precision"], settings["batch"], settings["seed"]) == ("32", 3, SEED)


def test_a_finished_folder_is_left_as_it_is(sample, whole):
    folder = whole / "png"
    before = {name: (folder / name).stat().st_mtime_ns for name in files(folder) if "png" in name}
    content = files(folder)
    assert main(sample(folder, "--devices", "1")) == 0
    assert files(folder) == content
    assert {name: (folder / name).stat().st_mtime_ns for name in before} == before


def forked(words, *, at=None, **env):
    """The command in a process of its own; ``at`` = (n, signal): as its nth file is to appear."""

    def run():
        os.environ.update(env)
        replace, count = os.replace, itertools.count(1)

        def counted(*names):
            if at is not None and next(count) == at[0]:
                os.kill(os.getpid(), at[1])
            replace(*names)

        os.replace = counted
        sys.exit(main(words))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def torchrun(words, *, at=None):
    """Two processes as torchrun starts them; of the first, ``at`` as in `forked`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "x"}
    return [
        forked(words, at=at if rank else None, RANK=str(rank), LOCAL_RANK=str(rank), **common)
        for rank in range(2)
    ]


@pytest.mark.parametrize(
    ("form", "when"), [pytest.param("png", (2, 7), marks=pytest.mark.slow), ("tar", (2, 4))]
)
def test_killed_and_restarted_it_ends_with_the_same_bytes(sample, whole, tmp_path, form, when):
    out = tmp_path / "o"
    for n in when:
        process = forked(sample(out, "--format", form), at=(n, signal.SIGKILL))
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not (out / "manifest.json").exists()
    assert [path.name for path in (out / "shards").iterdir()] == ["0.json"]
    kept = next(out.rglob("100.png" if form == "png" else "00000.tar"))
    before = kept.stat().st_mtime_ns
    assert main(sample(out, "--format", form)) == 0
    assert kept.stat().st_mtime_ns == before
    assert files(out) == files(whole / form)


def test_told_to_stop_it_says_so_in_a_line_and_keeps_what_is_finished(
    sample, whole, tmp_path, capfd
):
    process = forked(sample(tmp_path / "o", "--devices", "1"), at=(7, signal.SIGTERM))
    process.join()
    assert process.exitcode == 75
    said = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert said == [
        "unclip: error: SIGTERM: finished shards are kept; run the same command to make the others"
    ]
    assert not list(tmp_path.rglob("*.part"))
    assert main(sample(tmp_path / "o", "--devices", "1")) == 0
    assert files(tmp_path / "o") == files(whole / "png")


def test_two_processes_write_the_same_bytes_as_one(sample, whole, tmp_path):
    processes = torchrun(sample(tmp_path / "o", "--format", "png"))
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert files(tmp_path / "o") == files(whole / "png")


@pytest.mark.slow
@pytest.mark.parametrize(("form", "devices"), [("png", 1), ("tar", 2)])
def test_killed_ten_times_it_ends_with_the_same_bytes(sample, tmp_path, form, devices):
    def words(out):
        more = ["--n", "6", "--shard-size", "2", "--format", form, "decoder.steps=30"]
        return sample(tmp_path / out, *more)

    def started():
        return [forked(words("o"))] if devices == 1 else torchrun(words("o"))

    def finished():
        return len(list((tmp_path / "o").glob("shards/*.json")))

    assert main(words("whole")) == 0
    dice = random.Random(devices)
    for kill in range(10):
        before, processes = finished(), started()
        while finished() <= before and all(process.is_alive() for process in processes):
            time.sleep(0.002)
        time.sleep(dice.uniform(0, 0.05))
        assert processes[0].is_alive(), f"finished before kill {kill}"
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
    assert not (tmp_path / "o/manifest.json").exists()
    whole = files(tmp_path / "whole")
    for name, data in files(tmp_path / "o").items():
        assert name.endswith(".part") or data == whole[name]
    for process in (processes := started()):
        process.join()
    assert [process.exitcode for process in processes] == [0] * devices
    assert files(tmp_path / "o") == whole


@pytest.mark.slow
def test_two_processes_that_the_first_starts_write_the_same_bytes(sample, whole, tmp_path):
    words = [sys.executable, "-m", "unclip", *sample(tmp_path / "o", "--devices", "2")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path}/o: 10 images in 3 shards\n"
    assert files(tmp_path / "o") == files(whole / "png")


@pytest.mark.parametrize("damage", ["byte", "cut", "gone", "record"])
def test_an_image_that_is_not_as_it_was_written_is_sampled_again(sample, whole, tmp_path, damage):
    out = tmp_path / "o"
    assert main(sample(out, "--devices", "1")) == 0
    file = out / ("shards/1.json" if damage == "record" else "images/00001/105.png")
    data = bytearray(file.read_bytes())
    data[-30] ^= 1
    file.write_bytes(data if damage == "byte" else data[:-5])
    if damage == "gone":
        file.unlink()
    assert main(sample(out, "--devices", "1")) == 0
    assert files(out) == files(whole / "png")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["decoder.steps=3"], "settings.decoder.steps 2, this is 3"),
        (["prior.candidates=5"], "settings.prior.candidates"),
        (["upsampler.steps=3"], "settings.upsamplers"),
        (["--seed", "8"], "settings.seed 7, this is 8"),
        (["--n", "2"], "settings.n 1, this is 2"),
        (["--batch", "4"], "settings.batch 3, this is 4"),
        (["--shard-size", "5"], "settings.shard_size 4, this is 5"),
        (["--format", "tar"], "settings.format png, this is tar"),
        (["--precision", "bf16"], "settings.precision 32, this is bf16"),
        (["--limit", "9"], "captions.fingerprint"),
    ],
)
def test_another_call_s_folder_is_refused_by_what_differs(sample, whole, capsys, more, said):
    before = files(whole / "png")
    line = error(capsys, sample(whole / "png", "--devices", "1", *more))
    assert line.startswith(f"--out {whole / 'png'}: was started with ")
    assert said in line
    assert files(whole / "png") == before


def test_another_cascade_is_refused_but_one_that_moved_is_not(
    sample, whole, cascade, captions, tmp_path
):
    moved, out = shutil.copytree(cascade, tmp_path / "moved"), tmp_path / "o"
    shutil.copytree(whole / "png", out)
    assert main(sample(out, "--devices", "1", "--pipeline", moved)) == 0
    config = SampleConfig(seed=SEED, shard_size=SHARD, device="cpu")
    settings = Settings({"decoder": {"steps": 2}}, batch=3)
    captions = read_captions(captions)
    changes = [
        lambda cascade: next(cascade.prior.net.parameters()).view(-1)[0].add_(1e-3),
        lambda cascade: next(cascade.decoder.net.parameters()).view(-1)[0].add_(1e-3),
        lambda cascade: next(cascade.upsamplers[0].net.parameters()).view(-1)[0].add_(1e-3),
        lambda cascade: setattr(cascade.decoder.diffusion, "schedule", "linear"),
    ]
    for change in changes:

        def opened(device, change=change):
            pipeline = unclip.Pipeline.load(cascade, device)
            change(pipeline.cascade)
            return pipeline

        with pytest.raises(UserError, match=r"was started with cascade\.fingerprint"):
            unclip.sample_captions(opened, captions, out, config, settings=settings)


def test_force_replaces_what_the_command_wrote_and_nothing_else(sample, whole, tmp_path, capsys):
    out = tmp_path / "o"
    assert main(sample(out, "--format", "tar", "--n", "2")) == 0
    (out / "mine.txt").write_text("precious")
    assert main(sample(out, "--format", "png", "--force")) == 0
    (out / "mine.txt").rename(tmp_path / "mine.txt")
    assert files(out) == files(whole / "png")
    (tmp_path / "embedded").mkdir()
    (tmp_path / "embedded/begun.json").write_text('{"format_version": 1, "clip": {}}')
    for place in (tmp_path, tmp_path / "embedded"):
        for force in ((), ("--force",)):
            line = error(capsys, sample(place, "--devices", "1", *force))
            assert line == (
                f"--out {place}: exists and is not a folder of `unclip sample --devices`; name "
                "another"
            )


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENOSPC, "finished shards are kept"), (errno.EROFS, "Read-only")]
)
def test_a_full_or_read_only_disk_is_a_line(sample, whole, tmp_path, capsys, number, said):
    save, count = Image.Image.save, itertools.count()

    def full(self, file, *args, **kwargs):
        if next(count) == 6:
            save(self, file, *args, **kwargs)
            raise OSError(number, os.strerror(number))
        save(self, file, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "save", full)
        line = error(capsys, sample(tmp_path / "o", "--devices", "1"))
    assert line.startswith(f"--out {tmp_path}/o: cannot be written: ")
    assert said in line
    assert not list(tmp_path.rglob("*.part"))
    assert main(sample(tmp_path / "o", "--devices", "1")) == 0
    assert files(tmp_path / "o") == files(whole / "png")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--devices", "999"], "--devices 999: this machine has"),
        (["--devices", "0"], "--devices: is 0, must be at least 1"),
        (["--nodes", "2"], "--nodes: several machines need torchrun or srun"),
        (["--format", "jpg"], "--format jpg: must be one of png, tar"),
        (["--shard-size", "0"], "--shard-size: is 0, must be at least 1"),
        (["--devices", "1", "--seed", str(2**32 - 9)], "--seed: the last of 10 from 4294967287"),
        (["--limit", "11"], "--limit 11: is more than 10 captions"),
        (["--devices", "1", "--batch", "0"], "batch=0: must be at least 1"),
        (["--devices", "1", "decoder.stpes=3"], "decoder.stpes: this decoder has no such setting"),
        (["--devices", "1", "--pipeline", "nowhere"], "pipeline=nowhere: no such folder"),
        (["--devices", "1", "--captions", "no.json"], "--captions no.json: cannot be read"),
    ],
)
def test_wrong_words_are_a_line_before_any_work(sample, tmp_path, capsys, more, said):
    assert said in error(capsys, sample(tmp_path / "o", *more))
    assert not (tmp_path / "o").exists()


def test_images_that_are_no_numbers_are_named(sample, tmp_path, capsys, monkeypatch):
    from unclip.stages.upsampler.sampling import UpsamplerPart

    draw = UpsamplerPart.draw

    def broken(self, *args, **kwargs):
        image = draw(self, *args, **kwargs)
        image[-1, 0, 3, 3] = float("nan")
        return image

    monkeypatch.setattr(UpsamplerPart, "draw", broken)
    line = error(capsys, sample(tmp_path / "o", "--devices", "1"))
    assert line.startswith("image 102 ('a 2 red circle.', seed 9): is not finite")


def test_a_choice_of_captions_is_always_the_same_and_in_order(cascade, tmp_path):
    found = []
    for seed in (0, 5):
        out = tmp_path / str(seed)
        config = SampleConfig(limit=4, seed=seed, n=2, device="cpu")
        changes = Settings({"decoder": {"steps": 2}})
        manifest = unclip.sample_captions(cascade, CAPTIONS, out, config, settings=changes)
        assert manifest["images"] == 8
        rows = [json.loads(row) for row in (out / "samples.jsonl").read_text().splitlines()]
        assert [row["seed"] for row in rows] == list(range(seed, seed + 8))
        found.append([(row["key"], row["caption"]) for row in rows])
    assert found[0] == found[1]
    keys = [key for key, _ in found[0]]
    assert keys == sorted(keys)
    assert all(CAPTIONS[int(key[0])] == caption for key, caption in found[0])
    assert keys[:2] == [f"{keys[0][0]}-0", f"{keys[0][0]}-1"]
    with pytest.raises(UserError, match="captions: each must be a text"):
        unclip.sample_captions(cascade, ["a", " "], tmp_path / "x")


def test_a_cpu_process_computes_on_one_thread_and_leaves_torch_as_it_was(
    sample, tmp_path, monkeypatch
):
    from unclip.pipeline.pipeline import Pipeline

    seen, generate = [], Pipeline.generate

    def watched(self, *args, **kwargs):
        seen.append(torch.get_num_threads())
        return generate(self, *args, **kwargs)

    monkeypatch.setattr(Pipeline, "generate", watched)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert main(sample(tmp_path / "o", "--devices", "1")) == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert set(seen) == {1}


def test_the_bar_counts_images_and_begins_with_those_that_are_there(
    sample, whole, tmp_path, monkeypatch
):
    bars = []

    class Bar(shards.tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            bars.append(self)

    monkeypatch.setattr(shards, "tqdm", Bar)
    out = tmp_path / "o"
    assert main(sample(out, "--devices", "1")) == 0
    (out / "images/00001/105.png").unlink()
    assert main(sample(out, "--devices", "1")) == 0
    assert [(bar.initial, bar.n, bar.total, bar.unit) for bar in bars] == [
        (0, 10, 10, "image"),
        (6, 10, 10, "image"),
    ]
