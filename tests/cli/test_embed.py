"""`unclip embed`: what it writes, from how many processes, and after having been killed."""

from __future__ import annotations

import fcntl
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import socket
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from options import last_of_each, main
from PIL import Image
from torch.nn.functional import normalize

from unclip.common.errors import UserError
from unclip.data.config import DataConfig, ScenesConfig
from unclip.data.embedding_store.layout import KINDS
from unclip.data.embedding_store.source import EmbeddingSource
from unclip.data.keys import key_hashes
from unclip.data.sources import open_source
from unclip.data.transforms import to_tensor
from unclip.embeddings.tokens import Tokenizer
from unclip.stages.clip.part import load as load_clip

SCENES = 44  # samples, of three captions each
SHARD = 10


@pytest.fixture(scope="module")
def embed(cascade):
    """Words of the command, for the cascade's CLIP."""

    def words(out, *more, source="scenes"):
        settings = ["--shard-size", SHARD, "--batch-size", 4, "--limit", SCENES]
        accelerator = ["--accelerator", "cpu"]
        given = ["embed", source, "--clip", cascade / "clip", "--out", out]
        return last_of_each([str(word) for word in (*given, *settings, *accelerator, *more)])

    return words


@pytest.fixture(scope="module")
def whole(embed, tmp_path_factory):
    """A folder that one process wrote undisturbed."""
    out = tmp_path_factory.mktemp("embedded") / "whole"
    assert main(embed(out)) == 0
    return out


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def error(capsys, *words, status=2):
    assert main([str(word) for word in words]) == status
    lines = [line for line in capsys.readouterr().err.splitlines() if "unclip: error" in line]
    assert len(lines) == 1
    return lines[0].removeprefix("unclip: error: ")


@torch.no_grad()
def test_the_files_are_what_the_clip_says_and_plain_numpy_and_pyarrow_read_them(whole, cascade):
    clip = load_clip(str(cascade / "clip")).model
    config = DataConfig(scenes=ScenesConfig())
    source = open_source("scenes", config, image_size=clip.image_size, split="all")
    samples = [source[n] for n in range(SCENES)]
    captions = [caption for sample in samples for caption in sample.captions]
    keys = [sample.key for sample in samples for _ in sample.captions]
    images = clip.encode_image(to_tensor([s.image for s in samples])).repeat_interleave(3, dim=0)
    texts = clip.encode_text(clip.tokenize(captions)).z_t

    def stored(kind):
        arrays = [np.load(whole / kind / f"{kind}_{n}.npy") for n in range(5)]
        assert [len(array) for array in arrays] == [30, 30, 30, 30, 12]
        return np.concatenate(arrays)

    for kind, expected in (("img_emb", images), ("text_emb", texts)):
        found = stored(kind)
        assert found.dtype == np.float16
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-3, rtol=0)
        np.testing.assert_allclose(np.linalg.norm(found.astype("float64"), axis=1), 1, atol=1e-3)
    assert stored("tokens").dtype == np.uint16
    assert np.array_equal(stored("tokens"), Tokenizer(clip.context)(captions).numpy())
    assert np.array_equal(stored("keys"), key_hashes(keys))
    tables = [pq.read_table(whole / f"metadata/metadata_{n}.parquet") for n in range(5)]
    assert tables[0].column_names == ["image_path", "caption"]
    assert [text for t in tables for text in t["image_path"].to_pylist()] == keys
    assert [text for t in tables for text in t["caption"].to_pylist()] == captions


def test_the_manifest_says_what_is_there_and_how_it_came_about(whole, cascade, capsys):
    manifest = json.loads((whole / "manifest.json").read_text())
    shards = manifest.pop("shards")
    fingerprint = manifest["data"].pop("fingerprint")
    assert manifest == {
        "format_version": 1,
        "clip": {
            "source": str(cascade / "clip"),
            "fingerprint": load_clip(str(cascade / "clip")).fingerprint,
        },
        "data": {"source": "scenes", "samples": SCENES},
        "settings": {"shard_size": SHARD, "batch_size": 4, "captions": "all", "precision": "32"},
        "embed_dim": 16,
        "dtype": "float16",
        "rows": 3 * SCENES,
        "skipped": 0,
    }
    assert len(fingerprint) == 16
    assert [shard["rows"] for shard in shards] == [30, 30, 30, 30, 12]
    listed = {name: entry for shard in shards for name, entry in shard["files"].items()}
    on_disk = {name: len(data) for name, data in files(whole).items() if "/" in name}
    assert {name: entry["bytes"] for name, entry in listed.items()} == {
        name: size for name, size in on_disk.items() if not name.startswith("shards/")
    }
    assert main(["embed", str(whole), "--verify"]) == 0
    said = capsys.readouterr().out
    assert f"{whole}: verified, every file is as it was written; 132 emb" in said
    assert "132 embeddings of 16 numbers, float16, shards: 5; 0 of 44 samples left out" in said


def test_a_finished_folder_is_left_as_it_is(embed, whole):
    before = {name: (whole / name).stat().st_mtime_ns for name in files(whole) if "/" in name}
    content = files(whole)
    assert main(embed(whole)) == 0
    assert files(whole) == content
    assert {name: (whole / name).stat().st_mtime_ns for name in before} == before


def test_settings_that_decide_no_bits_may_change(embed, whole, tmp_path):
    assert main(embed(tmp_path / "e", "--workers", "2")) == 0
    assert files(tmp_path / "e") == files(whole)


def test_float32_is_what_float16_was_rounded_from_and_first_takes_one_caption(
    embed, whole, tmp_path
):
    assert main(embed(tmp_path / "e", "--dtype", "float32", "--captions", "first")) == 0
    half, single = EmbeddingSource(whole), EmbeddingSource(tmp_path / "e")
    assert (len(half), len(single)) == (3 * SCENES, SCENES)
    rows = np.arange(SCENES)
    assert single.captions(single.places(rows)) == half.captions(half.places(3 * rows))
    exact = single.gather(single.z_i, single.places(rows))
    assert exact.dtype == np.float32
    assert np.array_equal(
        half.gather(half.z_i, half.places(3 * rows + 2)), exact.astype(np.float16)
    )


def forked(words, *, at=None, **env):
    """The command in a process of its own, without the seconds of a fresh start.

    ``at`` = (n, signal): it gets the signal when its nth file is about to appear.
    """

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


def test_killed_and_restarted_it_ends_with_the_same_bits(embed, whole, tmp_path):
    out = tmp_path / "e"
    finished = []
    for n in (1, 4, 8, 13, 20):  # a shard is six files; one comes before, the manifest last
        process = forked(embed(out), at=(n, signal.SIGKILL))
        process.join()
        assert process.exitcode == -signal.SIGKILL
        assert not (out / "manifest.json").exists()
        finished.append(len([*out.glob("shards/*.json")]))
    assert finished == [0, 0, 1, 2, 5]
    kept = (out / "img_emb/img_emb_0.npy").stat().st_mtime_ns
    assert len([*out.rglob(".*.part")]) == 1
    assert main(embed(out)) == 0
    assert (out / "img_emb/img_emb_0.npy").stat().st_mtime_ns == kept
    assert files(out) == files(whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_says_so_in_a_line_and_keeps_what_is_finished(
    embed, whole, tmp_path, number, capfd
):
    out = tmp_path / "e"
    process = forked(embed(out, "--workers", "1"), at=(9, number))
    process.join()
    assert process.exitcode == 75
    lines = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert lines == [
        f"unclip: error: {number.name}: finished shards are kept; run the same command to "
        "make the others"
    ]
    assert sorted(p.name for p in out.glob("shards/*")) == ["0.json", "1.json"]
    assert main(embed(out)) == 0
    assert files(out) == files(whole)


def test_two_processes_write_the_same_bits_as_one(embed, whole, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "x"}
    out = tmp_path / "e"
    processes = [
        forked(embed(out, "--devices", "2"), RANK=str(rank), LOCAL_RANK=str(rank), **common)
        for rank in range(2)
    ]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert files(out) == files(whole)


@pytest.mark.slow
def test_two_processes_that_the_first_starts_write_the_same_bits(embed, whole, tmp_path):
    import subprocess

    words = [sys.executable, "-m", "unclip", *embed(tmp_path / "e", "--devices", "2")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == 1
    assert files(tmp_path / "e") == files(whole)


def test_a_shard_that_lost_bytes_is_written_again(embed, whole, tmp_path):
    out = tmp_path / "e"
    assert main(embed(out)) == 0
    for damage in ("cut", "gone", "record"):
        file = out / ("shards/2.json" if damage == "record" else "tokens/tokens_2.npy")
        if damage == "gone":
            file.unlink()
        else:
            file.write_bytes(file.read_bytes()[:-5])
        assert main(embed(out)) == 0
        assert files(out) == files(whole)


def test_verify_finds_what_is_not_as_it_was_written(embed, whole, tmp_path, capsys):
    out = tmp_path / "e"
    assert main(embed(out)) == 0
    for kind in KINDS:
        file = next((out / kind).glob("*_3*"))
        data = bytearray(file.read_bytes())
        data[-9] ^= 1
        file.write_bytes(data)
        message = error(capsys, "embed", out, "--verify")
        assert message.startswith(f"{file}: is not what was written"), message
        file.unlink()
        assert main(embed(out)) == 0
        capsys.readouterr()
    (out / "manifest.json").unlink()
    assert "is not finished" in error(capsys, "embed", out, "--verify")
    (out / "begun.json").unlink()
    assert "has no manifest.json to compare with" in error(capsys, "embed", out, "--verify")


def test_another_run_s_folder_is_refused_unless_it_is_to_be_replaced(
    embed, whole, tmp_path, capsys
):
    out = tmp_path / "e"
    assert main(embed(out)) == 0
    before = files(out)
    for more, said in {
        ("--dtype", "float32"): "was started with dtype float16, this is float32; name another",
        ("--limit", "40"): "was started with data.samples 44, this is 40",
        ("--shard-size", "11"): "settings.shard_size 10, this is 11",
        ("--batch-size", "5"): "settings.batch_size 4, this is 5",
        ("--captions", "first"): "settings.captions all, this is first",
        ("--precision", "bf16"): "settings.precision 32, this is bf16",
        ("data.scenes.seed=1",): "was started with data.fingerprint",
    }.items():
        message = error(capsys, *embed(out), *more)
        assert message.startswith(f"--out {out}: ")
        assert said in message
        assert "--force" in message
    assert files(out) == before
    assert main([*embed(out), "--shard-size", "30", "--force"]) == 0
    assert len(list(out.glob("img_emb/*"))) == 2
    (out / "begun.json").write_text("{")
    assert "begun.json: damaged" in error(capsys, *embed(out))
    assert main([*embed(out), "--force"]) == 0
    assert files(out) == files(whole)


def test_a_folder_of_other_things_is_never_touched(embed, tmp_path, capsys):
    (tmp_path / "mine").write_text("precious")
    for out in (tmp_path, tmp_path / "mine"):
        for more in ((), ("--force",)):
            message = error(capsys, *embed(out, *more))
            assert (
                message
                == f"--out {out}: exists and is not a folder of `unclip embed`; name another"
            )
    assert files(tmp_path) == {"mine": b"precious"}


def test_an_unwritable_folder_is_a_line(embed, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    message = error(capsys, *embed(tmp_path / "file" / "e"))
    assert message == f"--out {tmp_path}/file/e: {tmp_path}/file is not a folder"


def write_damaged(folder, bad):
    """60 images, of which ``bad`` are no images."""
    folder.mkdir()
    lines = []
    for n in range(60):
        file = folder / f"{n:04d}.png"
        Image.new("RGB", (16, 16), (4 * n, 0, 0)).save(file)
        if n in bad:
            file.write_bytes(b"no image")
        lines.append(json.dumps({"file_name": file.name, "caption": f"red {n}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def test_bad_samples_are_left_out_counted_and_named(embed, tmp_path, capsys, caplog):
    source, out = write_damaged(tmp_path / "d", {3, 20, 21, 22, 23}), tmp_path / "e"
    words = [*embed(out, source=source), "--limit", "60"]
    assert main([*words, "data.max_skipped=0.4"]) == 0
    assert "shards: 6; 5 of 60 samples left out" in capsys.readouterr().out
    manifest = json.loads((out / "manifest.json").read_text())
    assert [shard["skipped"] for shard in manifest["shards"]] == [1, 0, 4, 0, 0, 0]
    assert [shard["rows"] for shard in manifest["shards"]] == [9, 10, 6, 10, 10, 10]
    found = EmbeddingSource(out)
    keys = [f"{n:04d}" for n in range(60) if n not in {3, 20, 21, 22, 23}]
    assert [found.key(n) for n in range(55)] == keys
    skipped = [r.getMessage() for r in caplog.records if r.getMessage().startswith("skipped ")]
    assert [line.split("/")[-1].split(".")[0] for line in skipped] == [
        "0003",
        *map("{:04d}".format, range(20, 24)),
    ]
    too_many = error(capsys, *embed(tmp_path / "f", source=source), "--limit", "60")
    assert "4 of 10 samples of a shard cannot be used, more than data.max_skipped=0.1" in too_many
    assert (tmp_path / "f/shards/1.json").is_file()
    message = error(capsys, *embed(tmp_path / "g", "--on-error", "error", source=source))
    assert "0003.png: not an image" in message
    assert "--on-error=skip leaves such samples out" in message


def test_a_source_of_bad_samples_alone_is_refused(embed, tmp_path, capsys):
    source = write_damaged(tmp_path / "d", {*range(60)})
    words = [*embed(tmp_path / "new" / "e", source=source), "data.max_skipped=1"]
    assert error(capsys, *words) == "data.source: holds no sample that can be used"
    assert not (tmp_path / "new").exists()
    (tmp_path / "new" / "e").mkdir(parents=True)
    assert "more than data.max_skipped" in error(capsys, *words[:-1])
    assert [*(tmp_path / "new").rglob("*")] == [tmp_path / "new" / "e"]  # as it was


def test_a_folder_in_which_another_call_writes_is_left_alone(embed, whole, tmp_path, capsys):
    out = tmp_path / "e"
    shutil.copytree(whole, out)
    lock = os.open(out, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    for more in ([], ["--force"]):
        said = error(capsys, *embed(out), *more)
        assert said.startswith(f"--out {out}: another `unclip embed` is writing there; wait")
    assert files(out) == files(whole)
    os.close(lock)
    assert main(embed(out)) == 0


def test_embeddings_that_are_no_numbers_are_named(embed, tmp_path, capsys, monkeypatch):
    from unclip.embeddings.clip import Clip

    encode_image = Clip.encode_image

    def broken(self, image):
        z_i = encode_image(self, image)
        z_i[1, 3] = float("nan")
        return z_i

    monkeypatch.setattr(Clip, "encode_image", broken)
    message = error(capsys, *embed(tmp_path / "e", "--captions", "first"))
    assert "embeddings that are not finite, 1 of 4 in a batch (scene-00000001, ...)" in message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--clip", "nowhere/at-all"], "nowhere/at-all: no such experiment"),
        (["--clip", "open_clip:ViT-Z"], "open_clip has no architecture 'ViT-Z'"),
        (["--dtype", "int8"], "dtype='int8': must be one of float16, float32"),
        (["--precision", "16"], "precision='16': must be one of 32, tf32, bf16, fp16"),
        (["--captions", "last"], "captions='last': must be one of all, first"),
        (["--on-error", "maybe"], "data.on_error='maybe': must be one of skip, error"),
        (["--shard-size", "0"], "shard_size=0: must be at least 1"),
        (["--batch-size", "0"], "data.batch_size=0: must be at least 1"),
        (["--limit", "0"], "data.limit=0: must be at least 1"),
        (["--nodes", "2"], "--nodes: several machines need torchrun or srun"),
        (["data.scenes.cuont=3"], "data.scenes.cuont: unknown key; did you mean 'count'?"),
    ],
)
def test_wrong_words_are_a_line(embed, tmp_path, capsys, words, said):
    assert said in error(capsys, *embed(tmp_path / "e"), *words)
    assert not (tmp_path / "e").exists()


def test_a_source_that_is_not_there_is_a_line(embed, tmp_path, capsys):
    message = error(capsys, *embed(tmp_path / "e", source=tmp_path / "nowhere"))
    assert message.startswith(f"data.source: {tmp_path}/nowhere does not exist")
    assert not (tmp_path / "e").exists()
    assert error(capsys, "embed", "scenes", "--out", tmp_path).startswith("--clip: is needed")
    assert error(capsys, "embed", "scenes", "--clip", tmp_path).startswith("--out: is needed")


def test_stored_embeddings_are_unit_for_whoever_reads_them(whole):
    source = EmbeddingSource(whole)
    z = torch.from_numpy(source.gather(source.z_t, source.places(np.arange(len(source))))).float()
    torch.testing.assert_close(z, normalize(z, dim=1), atol=1e-3, rtol=0)


@pytest.fixture(scope="module")
def raw(cascade, tmp_path_factory):
    """The cascade's CLIP as one of raw embeddings, and what it embeds."""
    clip = shutil.copytree(cascade / "clip/artifact", tmp_path_factory.mktemp("raw") / "clip")
    config = yaml.safe_load((clip / "config.yaml").read_text())
    config["model"]["embeddings"] = "raw"
    (clip / "config.yaml").write_text(yaml.safe_dump(config))
    out = clip.parent / "embedded"
    words = ["embed", "scenes", "--clip", clip, "--out", out, "--limit", 8, "--dtype", "float32"]
    assert main([str(word) for word in (*words, "--accelerator", "cpu")]) == 0
    return clip, out


def test_raw_embeddings_are_clips_projections_and_the_manifest_says_so(raw, embed, tmp_path):
    clip, out = raw
    assert json.loads((out / "manifest.json").read_text())["embeddings"] == "raw"
    assert main(embed(tmp_path / "unit", "--limit", 8, "--dtype", "float32")) == 0
    ours, unit = (np.load(f / "img_emb/img_emb_0.npy") for f in (out, tmp_path / "unit"))
    assert abs(np.linalg.norm(ours, axis=1) - 1).min() > 0.05
    np.testing.assert_allclose(ours / np.linalg.norm(ours, axis=1)[:, None], unit, atol=1e-6)
    EmbeddingSource(out).check_clip(load_clip(clip))


def test_raw_and_unit_embeddings_are_not_mixed(raw, embed, whole, tmp_path, capsys):
    clip, out = raw
    unit = load_clip(clip)
    unit.model.embeddings = "unit"
    with pytest.raises(UserError, match="holds raw embeddings, the experiment takes unit ones"):
        EmbeddingSource(out).check_clip(unit)
    with pytest.raises(UserError, match="holds unit embeddings, the experiment takes raw ones"):
        EmbeddingSource(whole).check_clip(load_clip(clip))
    theirs = shutil.copytree(whole, tmp_path / "theirs")  # as clip-retrieval leaves a folder
    for name in ("manifest.json", "begun.json"):
        (theirs / name).unlink()
    EmbeddingSource(theirs).check_clip(unit)
    with pytest.raises(UserError, match="have length 1, the experiment takes raw"):
        EmbeddingSource(theirs).check_clip(load_clip(clip))
    said = error(capsys, *embed(tmp_path / "x"), "--embeddings", "raw")
    assert "--embeddings raw: takes raw embeddings, but unit ones are made with the CLIP" in said
    said = error(capsys, *embed(tmp_path / "x"), "--embeddings", "long")
    assert "embeddings='long': must be one of unit, raw" in said
    assert not (tmp_path / "x").exists()
    header = json.loads((out / "begun.json").read_text())
    del header["embeddings"]
    (tmp_path / "y").mkdir()
    (tmp_path / "y/begun.json").write_text(json.dumps(header))
    given = ["--clip", clip, "--limit", 8, "--dtype", "float32", "--accelerator", "cpu"]
    said = error(capsys, "embed", "scenes", "--out", tmp_path / "y", *given)
    assert "was started with embeddings unit, this is raw" in said
