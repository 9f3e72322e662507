"""The same images train the same, however they are stored."""

import json
import sys
from pathlib import Path

import pytest

from unclip.config.load import load_experiment
from unclip.runs.train import train

sys.path.append(str(Path(__file__).parents[1] / "data"))
from tiny_data import records, write_coco, write_folder, write_parquet, write_tar

COUNT = 1000
STEPS = 20


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The same 1,000 images in four formats."""
    root, rows = tmp_path_factory.mktemp("stored"), records(COUNT)
    return {
        "folder": write_folder(root / "folder", rows),
        "tar": write_tar(root / "some.tar", rows),
        "parquet": write_parquet(root / "some.parquet", rows, rows_per_group=100),
        "coco": write_coco(root / "coco", rows),
    }


def losses(minute_experiment, source, folder):
    overrides = [f"run.dir={folder}", f"data.source={source}", f"trainer.max_steps={STEPS}"]
    overrides += ["data.batch_size=16", "trainer.log_every=1", "trainer.val_every=0"]
    train(load_experiment(str(minute_experiment("clip")), overrides))
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row["train/loss"] for row in rows if "train/loss" in row]


@pytest.mark.slow
def test_folder_tar_parquet_and_coco_give_the_same_losses(stored, minute_experiment, tmp_path):
    found = {
        name: losses(minute_experiment, source, tmp_path / name) for name, source in stored.items()
    }
    assert len(set(found["folder"])) == STEPS
    assert all(each == found["folder"] for each in found.values())
