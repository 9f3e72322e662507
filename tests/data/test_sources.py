import sys
from dataclasses import replace

import numpy as np
import pytest
from tiny_data import (
    FakeSource,
    is_held_out,
    records,
    write_coco,
    write_folder,
    write_parquet,
    write_sidecars,
    write_tar,
)

from unclip.common.errors import UserError
from unclip.data.config import SOURCES, DataConfig, MixtureConfig, ScenesConfig
from unclip.data.decode import BadSample
from unclip.data.readers.source import Concat, Subset, hashes, raw_of
from unclip.data.readers.tar import TarSource
from unclip.data.readers.wrapped import NamedSource
from unclip.data.sources import open_source, open_splits


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
        ("photos.zip", "is not a source that unclip reads"),
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


def mixture(**parts):
    return {
        name: MixtureConfig(source=str(source), weight=weight)
        for name, (source, weight) in parts.items()
    }


@pytest.fixture
def mixed(tmp_path):
    a = write_tar(tmp_path / "a.tar", records(60))
    b = write_folder(tmp_path / "b", records(30))
    parts = mixture(first=(a, 3.0), second=(b, 1.0))
    return DataConfig(source="mixture", mixture=parts, held_out=0.3)


def test_a_mixture_is_its_parts_in_a_row_each_split_as_by_itself(mixed):
    splits = open_splits(mixed, image_size=8)
    alone = [
        open_splits(replace(mixed, source=part.source), image_size=8)
        for part in mixed.mixture.values()
    ]
    assert splits.weights == (3.0, 1.0)
    assert splits.lengths == tuple(len(part.train) for part in alone)
    expected = [f"first/{k}" for k in keys(alone[0].train)]
    expected += [f"second/{k}" for k in keys(alone[1].train)]
    assert keys(splits.train) == expected
    assert [splits.train[n].key for n in (0, len(expected) - 1)] == [expected[0], expected[-1]]
    assert splits.train.raw(0).key == expected[0]
    assert np.array_equal(hashes(splits.train), np.concatenate([hashes(p.train) for p in alone]))
    everything = open_source("mixture", mixed, image_size=8, split="all")
    assert set(keys(everything)) == set(keys(splits.train)) | set(keys(splits.held_out))
    assert len(everything) == len(set(keys(everything))) == 90
    plain = open_splits(replace(mixed, source=mixed.mixture["first"].source), image_size=8)
    assert (plain.weights, plain.lengths) == (None, ())


def test_any_first_few_held_out_samples_are_of_all_parts_by_their_sizes(mixed):
    held_out = open_splits(mixed, image_size=8).held_out
    parts = [key.split("/")[0] for key in keys(held_out)]
    share = parts.count("first") / len(parts)
    for first in range(1, len(parts) + 1):
        assert abs(parts[:first].count("first") - share * first) <= 1
    for name in ("first", "second"):
        own = [key for key in keys(held_out) if key.startswith(name)]
        assert own == sorted(own)
    assert held_out.shards() is None


def test_scenes_and_limits_in_a_mixture(mixed):
    config = replace(
        mixed,
        mixture=mixed.mixture | mixture(drawn=("scenes", 1.0)),
        scenes=ScenesConfig(count=9),
        val_samples=4,
        limit=5,
    )
    splits = open_splits(config, image_size=8)
    assert splits.lengths == (5, 5, 5)
    assert splits.train.shards().tolist() == [5, 5, 5]
    assert [key for key in keys(splits.held_out) if key.startswith("drawn/")] == [
        f"drawn/scene-{n:08d}" for n in range(9, 13)
    ]


def test_a_part_that_cannot_be_used_is_named_by_its_key(tmp_path, mixed):
    broken = replace(mixed, mixture=mixed.mixture | mixture(third=("nowhere", 1.0)))
    with pytest.raises(UserError, match=r"^data\.mixture\.third\.source: nowhere does not exist"):
        open_splits(broken, image_size=8)
    with pytest.raises(UserError, match=r"^data\.mixture\.third\.source: nowhere does not exist"):
        open_source("mixture", broken, image_size=8, split="all")
    key = next(n for n in range(100) if is_held_out(f"{n:04d}", 0.5))
    one = write_tar(tmp_path / "one.tar", records(100)[key : key + 1])
    alone = replace(mixed, mixture=mixture(one=(one, 1.0)), held_out=0.5)
    with pytest.raises(
        UserError, match=r"^data\.mixture\.one\.source: .* no training samples; lower data.held_out"
    ):
        open_splits(alone, image_size=8)


@pytest.mark.parametrize("share", [0.0, 1e-19, 1e-4, 0.3, 0.5, 1 - 2**-53])
def test_splitting_by_arrays_is_splitting_by_keys(tmp_path, share):
    source = open_all(write_tar(tmp_path / "a.tar", records(40)))
    splits = open_splits(DataConfig(source=str(tmp_path / "a.tar"), held_out=share), image_size=8)
    assert keys(splits.held_out) == [key for key in keys(source) if is_held_out(key, share)]


def test_limits_of_the_config_reach_every_kind_of_file(tmp_path):
    folder = write_folder(tmp_path / "d", records(3))
    for path in (
        folder,
        write_tar(tmp_path / "a.tar", records(3)),
        write_parquet(tmp_path / "a.parquet", records(3)),
        write_coco(tmp_path / "c", records(3)),
    ):
        for fields, reason in (
            ({"max_pixels": 191}, "max_pixels=191"),
            ({"max_aspect": 1.3}, "max_aspect=1.3"),
        ):
            source = open_source(str(path), DataConfig(**fields), image_size=8, split="all")
            with pytest.raises(BadSample, match=f"16x12 pixels .*{reason}"):
                source[0]


def test_specs_choose_their_reader(tmp_path, monkeypatch):
    write_tar(tmp_path / "0.tar", records(10)[:5])
    write_tar(tmp_path / "1.tar", records(10)[5:])
    path = write_coco(tmp_path / "c", records(10))
    (tmp_path / "moved").mkdir()
    for image in (tmp_path / "c" / "train2017").iterdir():
        image.rename(tmp_path / "moved" / image.name)
    write_sidecars(tmp_path / "s", records(10))
    for spec in (
        "{0,1}.tar",
        "?.tar",
        "*.tar",
        "",
        f"c/annotations/{path.name}?images={tmp_path}/moved",
        "s",
    ):
        assert keys(open_all(tmp_path / spec)) == [f"{n:04d}" for n in range(10)]
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match=r"needs a package: pip install 'unclip\[datasets\]'"):
        open_source("hf:a/b", DataConfig(), image_size=8)
    (tmp_path / "x.zip").touch()
    with pytest.raises(
        UserError, match=r"x\.zip is not a \.tar or \.parquet; expected scenes, mixture"
    ):
        open_all(tmp_path / "{0.tar,x.zip}")


def test_many_shards_share_the_memory_for_row_groups(tmp_path):
    for n in range(4):
        write_parquet(
            tmp_path / f"{n}.parquet", records(40)[10 * n : 10 * n + 10], rows_per_group=5
        )
    source = open_all(tmp_path)
    assert keys(source) == [f"{n:04d}" for n in range(40)]
    assert source.shards().tolist() == [5] * 8
    assert {part._cache_bytes for part in source._source._sources} == {2**30 // 4}


def test_only_what_is_a_file_has_stored_bytes(tmp_path):
    files = FakeSource(2)  # made on the spot, as scenes are
    tar = TarSource(write_tar(tmp_path / "a.tar", records(3)))
    both = Concat([NamedSource("drawn", files), NamedSource("stored", tar)])
    some = Subset(both, np.array([1, 4]))
    assert raw_of(some, 0) is None
    raw = raw_of(some, 1)
    assert (raw.key, raw.image) == ("stored/0002", records(3)[2][1])
