"""`unclip evaluate images` and `compare`, with random weights of the real networks."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from prdc import compute_prdc
from safetensors.torch import save_file

from unclip.cli import main
from unclip.evaluation.features.efficientnet import EfficientNetLite0
from unclip.evaluation.protocols import images


def save_images(folder, n, *, side=16, seed=0, start=0, ending="png"):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(seed)
    for k in range(n):
        pixels = rng.integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR)
        image.save(folder / f"{start + k:04}.{ending}")
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    save_images(root / "real", 40)
    save_images(root / "made", 36, seed=1)
    return root


@pytest.fixture
def own(cascade):
    return f"own:{cascade}"


def run(capsys, *words):
    status = main(["evaluate", "images", *map(str, words)])
    out, err = capsys.readouterr()
    return status, out, err


def evaluated(capsys, *words):
    status, out, err = run(capsys, *words, "--json")
    assert status == 0, err
    return json.loads(out)


def error(capsys, *words):
    status, _, err = run(capsys, *words)
    (line,) = [line for line in err.splitlines() if line.startswith("unclip: error: ")]
    assert status == 2
    return line


def test_a_set_against_another_and_against_itself(sets, own, capsys):
    words = ["--reference", sets / "real", "--features", own, "--neighbours", "1"]
    found = evaluated(capsys, sets / "made", *words, "--guidance", "1.5")
    assert set(found["figures"]) >= {
        "FD-own-CLIP", "KID", "CMMD", "precision", "recall", "density", "coverage", "Vendi",
    }  # fmt: skip
    conditions = found["conditions"]
    assert (conditions["n"], conditions["reference_n"], conditions["size"]) == (36, 40, 16)
    assert (conditions["guidance"], conditions["steps"], conditions["bits"]) == ("1.5", None, 8)
    same = evaluated(capsys, sets / "real", *words)
    assert same["figures"]["FD-own-CLIP"]["value"] == pytest.approx(0, abs=1e-9)
    assert same["figures"]["precision"]["value"] == same["figures"]["recall"]["value"] == 1
    assert same["figures"]["CMMD"]["value"] == pytest.approx(0, abs=1e-9)
    assert same["figures"]["FD-own-CLIP"]["value"] < found["figures"]["FD-own-CLIP"]["value"]


def test_figures_are_those_of_the_networks_features(sets, cascade, own, capsys):
    from unclip.stages.clip.part import load

    words = ["--reference", sets / "real", "--features", own, "--neighbours", "2"]
    found = evaluated(capsys, sets / "made", *words)["figures"]
    model = load(cascade / "clip").model

    def features(folder):
        paths = sorted(folder.iterdir())
        pixels = np.stack([np.asarray(Image.open(path)) for path in paths])
        with torch.no_grad():
            x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1
            return model.encode_image(x)

    theirs = compute_prdc(features(sets / "real").numpy(), features(sets / "made").numpy(), 2)
    for name, value in theirs.items():
        assert found[name]["value"] == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("form", ["tar", "parquet"])
def test_tars_and_parquets_are_read_as_folders_are(form, sets, own, tmp_path, capsys):
    labelled = tmp_path / "labelled"
    labelled.mkdir()
    for path in sorted((sets / "made").iterdir()):
        (labelled / path.name).write_bytes(path.read_bytes())
        (labelled / f"{path.stem}.txt").write_text("noise")
    packed = tmp_path / "packed"
    assert main(["data", "pack", str(labelled), "--out", str(packed), "--format", form]) == 0
    capsys.readouterr()
    words = ["--features", own, "--size", "16"]
    want = evaluated(capsys, sets / "made", "--reference", sets / "real", *words)["figures"]
    for source in (labelled, packed):
        found = evaluated(capsys, source, "--reference", sets / "real", *words)
        for name, figure in want.items():
            assert found["figures"][name]["value"] == pytest.approx(figure["value"], rel=1e-9)
        assert found["conditions"]["captions"] is not None
        assert 0 <= found["figures"]["CLIP score"]["value"] <= 100


def test_statistics_are_written_and_read_as_pytorch_fid_does(sets, own, tmp_path, capsys):
    file = tmp_path / "real.npz"
    status, out, _ = run(
        capsys, sets / "real", "--features", own, "--save-statistics", file, "--precision", "64"
    )
    assert status == 0
    assert "Vendi" in out
    with np.load(file) as stored:
        assert stored["sigma"].shape == (16, 16)
        assert stored["mu"].dtype == np.float64
    words = ["--features", own, "--precision", "64", "--reference"]
    whole = evaluated(capsys, sets / "made", *words, sets / "real")
    short = evaluated(capsys, sets / "made", *words, file)
    name = "FD-own-CLIP"
    want = whole["figures"][name]["value"]
    assert short["figures"][name]["value"] == pytest.approx(want, rel=1e-9)
    assert short["conditions"] == whole["conditions"]
    assert "KID" not in short["figures"]
    line = error(capsys, sets / "made", "--features", own, "--reference", file)
    assert "another network: precision 64 there, 32 here" in line
    bare = tmp_path / "bare.npz"
    np.savez(bare, mu=np.zeros(16), sigma=np.eye(16))
    assert "does not name its network" in error(
        capsys, sets / "made", "--features", own, "--reference", bare
    )
    np.savez(bare, mu=np.zeros(2048), sigma=np.eye(2048))
    assert "another network" in error(capsys, sets / "made", "--features", own, "--reference", bare)
    np.savez(bare, mu=np.full(16, np.nan), sigma=np.eye(16))
    assert "not a mean" in error(capsys, sets / "made", "--features", own, "--reference", bare)
    lopsided = np.eye(16)
    lopsided[0, 5] = 1
    for sigma in (-np.eye(16), lopsided):
        np.savez(bare, mu=np.zeros(16), sigma=sigma)
        assert "not a mean" in error(capsys, sets / "made", "--features", own, "--reference", bare)
    for record in ("[1]", "5", "no json", '{"n": -5}', '{"n": "many"}', '{"size": 1.5}'):
        np.savez(bare, mu=np.zeros(16), sigma=np.eye(16), unclip=np.array(record))
        line = error(capsys, sets / "made", "--features", own, "--reference", bare)
        assert "bare.npz: is not a file of statistics, or damaged" in line
    np.savez(bare, mu=np.zeros(16) + 1j, sigma=np.eye(16))
    assert "is not a file of" in error(
        capsys, sets / "made", "--features", own, "--reference", bare
    )
    bare.write_bytes(b"no zip")
    assert str(bare) in error(capsys, sets / "made", "--features", own, "--reference", bare)


@pytest.mark.slow
def test_two_processes_find_what_one_does(sets, own, tmp_path, capsys):
    """40 and 36 images are two batches of 32 and less: each process has one of either set."""
    words = [sets / "made", "--reference", sets / "real", "--features", own, "--device", "cpu"]
    one = evaluated(capsys, *words)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2",
               "--master-port", "0", "--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0",
               "-m", "unclip", "evaluate", "images", *map(str, words), "--json"]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr[-2000:]
    two = json.loads(done.stdout)
    assert two["conditions"] == one["conditions"]
    for name, figure in one["figures"].items():
        assert two["figures"][name]["value"] == pytest.approx(figure["value"], rel=1e-9, abs=1e-12)


def test_bad_input_is_refused_in_a_line(sets, own, tmp_path, capsys, monkeypatch):
    words = ["--reference", sets / "real", "--features", own]
    single = save_images(tmp_path / "single", 1)
    assert "1 image; a distribution needs 2" in error(capsys, single, *words)
    mixed = save_images(save_images(tmp_path / "mixed", 3), 2, side=24, start=3)
    assert "0003.png has 24" in error(capsys, mixed, *words)
    assert run(capsys, mixed, *words, "--size", "16")[0] == 0
    large = save_images(tmp_path / "large", 5, side=32)
    line = error(capsys, large, *words)
    assert "32 pixels a side" in line
    assert "--size 32" in line
    Image.new("RGB", (20, 16)).save(tmp_path / "single" / "wide.png")
    pair = [single, *words, "--neighbours", "1"]
    assert "wide.png is 20x16, not square" in error(capsys, *pair)
    (tmp_path / "single" / "wide.png").write_bytes(b"\x89PNG damaged")
    assert "wide.png" in error(capsys, *pair)
    assert "does not exist" in error(capsys, tmp_path / "nothing", *words)
    (tmp_path / "empty").mkdir()
    assert "images" in error(capsys, tmp_path / "empty", *words)
    assert "no such network" in error(capsys, sets / "made", "--features", "inceptoin")
    assert "did you mean 'inception'" in error(capsys, sets / "made", "--features", "inceptoin")
    assert "dinov2@FILE" in error(capsys, sets / "made", "--features", "dinov2")
    few = save_images(tmp_path / "few", 3)
    assert "--neighbours 3: needs 4" in error(capsys, few, *words)
    assert ".npz" in error(capsys, few, *words, "--save-statistics", tmp_path / "x.pt")
    assert "20 or more" in error(capsys, few, *words, "--infinity")


def test_a_set_that_is_not_there_is_refused_before_the_other_is_measured(
    sets, own, tmp_path, capsys, monkeypatch
):
    def never(*_, **__):
        raise AssertionError("measured")

    monkeypatch.setattr(images, "measure", never)
    (tmp_path / "bad.npz").write_bytes(b"damaged")
    for first, second in (("nothing", "real"), ("made", "nothing"), ("made", "bad.npz")):
        pair = [
            sets / name if (sets / name).exists() else tmp_path / name for name in (first, second)
        ]
        line = error(capsys, pair[0], "--reference", pair[1], "--features", own)
        assert ("nothing" in line) or ("bad.npz: is not a file of statistics" in line)


def test_what_cannot_be_compared_is_refused_before_anything_is_measured(
    sets, own, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    status, _, _ = run(capsys, sets / "made", "--features", own, "--save-statistics", "S.npz")
    assert status == 0

    def never(*_, **__):
        raise AssertionError("measured")

    monkeypatch.setattr(images, "measure", never)
    few = save_images(tmp_path / "few", 3)
    large = save_images(tmp_path / "large", 5, side=32)
    made, real = sets / "made", ["--reference", sets / "real"]
    for words, said in (
        ([made, *real, "--neighbours", "36"], "--neighbours 36: needs 37 images or more a side"),
        ([few, *real], "here are 3 and 40"),
        ([made, *real, "--neighbours", "50000"], "needs at most 49,999"),
        ([few, *real, "--infinity", "--neighbours", "1"], "few has 3 images, 20 or more"),
        ([large, *real], "bring both to one size with --size 32"),
        ([large, "--reference", "S.npz"], "bring both to one size with --size 32"),
        ([made, "--infinity"], "--infinity: is a distance to real images; add --reference"),
        (["S.npz"], "S.npz: statistics alone have no figures; add --reference"),
        (["S.npz", *real, "--infinity"], "--infinity: needs images; S.npz has statistics alone"),
    ):
        assert said in error(capsys, *words, "--features", own)


def test_what_one_process_refuses_ends_all_of_them(sets, own, monkeypatch):
    """None waits for sums that will not come, and the first alone says why."""
    from unclip.common.errors import UserError
    from unclip.evaluation.features import statistics
    from unclip.evaluation.features.images import open_images
    from unclip.evaluation.features.network import open_network

    network = open_network(own, device=torch.device("cpu"))
    found = open_images(str(sets / "made"), option="images")

    class Two(statistics.World):
        def gather(self, value):
            assert self.rank in (0, 1)
            return [value, "images made: 0035.png is damaged"]

    for rank, raised in ((0, UserError), (1, SystemExit)):
        monkeypatch.setattr(Two, "here", classmethod(lambda cls, rank=rank: cls(rank, 2)))
        monkeypatch.setattr(statistics, "World", Two)
        with pytest.raises(raised, match=r"0035\.png is damaged" if rank == 0 else "2"):
            statistics.measure(found, network)


def test_features_that_are_not_finite_are_refused_with_the_images_name(sets, tmp_path, capsys):
    torch.manual_seed(0)
    weights = EfficientNetLite0().state_dict()
    weights["_bn1.running_var"].fill_(-1)  # its root is NaN
    save_file(weights, tmp_path / "nan.safetensors")
    features = f"efficientnet_lite0@{tmp_path / 'nan.safetensors'}"
    line = error(capsys, sets / "made", "--features", features)
    assert "features of 0000.png are NaN" in line
    weights["_fc.bias"][0] = torch.nan
    save_file(weights, tmp_path / "nan.safetensors")
    assert "_fc.bias holds NaN" in error(capsys, sets / "made", "--features", features)
    del weights["_fc.bias"]
    save_file(weights, tmp_path / "nan.safetensors")
    assert "_fc.bias is missing" in error(capsys, sets / "made", "--features", features)


def test_too_few_samples_are_warned_of_with_the_figure_it_takes(sets, own, tmp_path, capsys):
    few = save_images(tmp_path / "few", 10)
    status, out, _ = run(capsys, few, "--reference", sets / "real", "--features", own, "--json")
    assert status == 0
    (note,) = json.loads(out)["notes"]
    assert "10 images cannot determine a covariance of 16 features, which takes 17" in note
    assert "give 160" in note


def test_losses_of_jpeg_are_named(sets, own, tmp_path, capsys):
    lossy = save_images(tmp_path / "lossy", 20, ending="jpg")
    found = evaluated(capsys, lossy, "--reference", sets / "real", "--features", own)
    assert any("20 JPEG images, whose losses" in note for note in found["notes"])


def test_a_folder_of_samples_is_read_without_its_grid(sets, own, tmp_path, capsys):
    folder = save_images(tmp_path / "samples", 20)
    Image.new("RGB", (640, 480)).save(folder / "grid.png")
    rows = [{"file": f"{k:04}.png", "caption": f"ä\u2028{k}", "seed": k} for k in range(20)]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)  # as `sample` does
    (folder / "samples.jsonl").write_text(lines, encoding="utf-8")
    found = evaluated(capsys, folder, "--reference", sets / "real", "--features", own)
    assert found["conditions"]["n"] == 20
    assert "CLIP score" in found["figures"]


def test_the_table_goes_into_a_file_and_nothing_is_replaced(sets, own, tmp_path, capsys):
    out = tmp_path / "t.md"
    words = [sets / "made", "--features", own, "--out", out]
    assert run(capsys, *words)[0] == 0
    assert "| Vendi |" in out.read_text()
    assert "exists" in error(capsys, *words)
    assert run(capsys, *words, "--force")[0] == 0


def compare(capsys, *words):
    status = main(["evaluate", "compare", *map(str, words)])
    out, err = capsys.readouterr()
    return status, out, err


def test_only_figures_of_one_measurement_stand_side_by_side(sets, own, tmp_path, capsys):
    words = ["--reference", sets / "real", "--features", own, "--json"]
    files = {}
    for name, more in {"a": [], "b": ["--guidance", "2"], "c": ["--precision", "64"]}.items():
        status, out, _ = run(capsys, sets / "made", *words, *more)
        assert status == 0
        files[name] = tmp_path / f"{name}.json"
        files[name].write_text(out)
    assert compare(capsys, files["a"], files["a"])[0] == 0
    status, _, err = compare(capsys, files["a"], files["b"])
    assert status == 2
    assert "differ in guidance: not known, 2;" in err
    assert "--allow-different guidance" in err
    status, out, _ = compare(capsys, files["a"], files["b"], "--allow-different", "guidance")
    assert status == 0
    assert "guidance" in out
    status, _, err = compare(capsys, *files.values(), "--allow-different", "guidance")
    assert "differ in precision: 32, 32, 64" in err
    status, _, err = compare(capsys, files["a"], files["b"], "--allow-different", "guidence")
    assert "did you mean 'guidance'" in err
    for text in ("{}", '{"evaluations": 5}', '{"evaluations": null}', '{"evaluations": [3]}'):
        (tmp_path / "other.json").write_text(text)
        status, _, err = compare(capsys, files["a"], tmp_path / "other.json")
        assert "is not the output of" in err
    status, _, err = compare(capsys, tmp_path / "none.json")
    assert status == 2
