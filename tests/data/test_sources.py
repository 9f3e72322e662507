import numpy as np
import pytest
from tiny_data import records, write_folder, write_parquet, write_tar

from data_modules.configs import SOURCES, DataConfig, ScenesConfig
from data_modules.sources import is_held_out, open_source, open_splits
from unclip.types import UserError


def keys(source):
    return [source.key(n) for n in range(len(source))]


def open_all(path):
    return open_source(str(path), DataConfig(), image_size=8, split="all")


def test_shards_in_a_folder_are_one_source(tmp_path):
    rows = records(30)
    folder = tmp_path / "tars"
    folder.mkdir()
    for shard in range(3):
        write_tar(folder / f"{shard}.tar", rows[shard * 10 : shard * 10 + 10])
    write_parquet(folder / "0.parquet", rows)  # as img2dataset leaves one beside each tar
    source = open_all(folder)
    assert keys(source) == [f"{n:04d}" for n in range(30)]
    assert [source[n].captions[0] for n in (0, 9, 10, 29)] == [rows[n][2] for n in (0, 9, 10, 29)]

    folder = tmp_path / "parquets"
    folder.mkdir()
    write_parquet(folder / "b.parquet", rows[20:])
    write_parquet(folder / "a.parquet", rows[:20])
    assert keys(open_all(folder)) == keys(source)


def test_what_is_not_there_is_said_with_what_was_looked_for(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "photos.zip").write_bytes(b"x")
    write_folder(tmp_path / "none", [])
    for name, reason in (
        ("missing", "does not exist"),
        ("empty", "holds no samples"),
        ("photos.zip", "is of no known kind"),
        ("none", "holds no samples"),
    ):
        with pytest.raises(UserError, match=rf"^data\.source: .*{name} {reason}") as caught:
            open_all(tmp_path / name)
        assert str(caught.value).endswith(f"; expected {SOURCES}")
        assert "\n" not in str(caught.value)


def test_the_split_depends_on_keys_alone(tmp_path):
    rows = records(40)
    forward = write_tar(tmp_path / "a.tar", rows)
    backward = write_folder(tmp_path / "b", rows[::-1])
    config = DataConfig(held_out=0.3)
    parts = [
        [
            set(keys(open_source(str(path), config, image_size=8, split=split)))
            for split in ("train", "held_out")
        ]
        for path in (forward, backward)
    ]
    assert parts[0] == parts[1]
    train, held_out = parts[0]
    assert train | held_out == {key for key, *_ in rows}
    assert not train & held_out


def test_the_held_out_share_is_right_and_grows_by_inclusion():
    names = [f"{n:09d}" for n in range(20_000)]
    small, large = ({n for n in names if is_held_out(n, share)} for share in (0.02, 0.1))
    # Binomial: five standard deviations are 0.5 % and 1.1 % of the whole.
    assert abs(len(small) / 20_000 - 0.02) < 0.005
    assert abs(len(large) / 20_000 - 0.1) < 0.011
    assert small < large
    assert not any(is_held_out(name, 0.0) for name in names)


def test_the_limit_takes_from_training_only(tmp_path):
    path = str(write_tar(tmp_path / "a.tar", records(40)))
    whole = open_splits(DataConfig(source=path, held_out=0.3), image_size=8)
    limited = open_splits(DataConfig(source=path, held_out=0.3, limit=5), image_size=8)
    assert keys(limited.train) == keys(whole.train)[:5]
    assert keys(limited.held_out) == keys(whole.held_out)
    assert limited.train.fingerprint() != whole.train.fingerprint()
    assert limited.held_out.fingerprint() == whole.held_out.fingerprint()


def test_held_out_scenes_come_after_the_training_scenes():
    config = DataConfig(scenes=ScenesConfig(count=6), val_samples=3)
    train, held_out, *_ = open_splits(config, image_size=16)
    assert (len(train), len(held_out)) == (6, 3)
    assert train[0].image.shape == (16, 16, 3)
    everything = open_source("scenes", config, image_size=16, split="all")
    assert keys(everything) == keys(train) + keys(held_out)
    assert np.array_equal(everything[7].image, held_out[1].image)
    assert len(open_splits(DataConfig(held_out=0), image_size=16).held_out) == 0
