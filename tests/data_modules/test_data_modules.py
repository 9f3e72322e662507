from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from tiny_data import (
    records,
    tokenize,
    write_coco,
    write_csv,
    write_folder,
    write_parquet,
    write_sidecars,
    write_tar,
)

from data_modules.clip import ClipData
from data_modules.decoder import DecoderData
from data_modules.prior import PriorData
from data_modules.upsampler import UpsamplerData
from unclip.common.errors import UserError
from unclip.data.config import DataConfig, UpsamplerDataConfig


@pytest.fixture
def tar(tmp_path):
    return str(write_tar(tmp_path / "d.tar", records()))


def clip_data(source, *, seed=1, accumulate=1, **fields):
    config = DataConfig(
        source=str(source), **{"batch_size": 8, "held_out": 0.2, "val_samples": 5, **fields}
    )
    return ClipData(config, image_size=12, tokenize=tokenize, seed=seed, accumulate=accumulate)


def assert_same(a, b):
    for name, left, right in zip(a._fields, a, b, strict=True):
        same = torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right
        assert same, name


def test_the_same_images_give_the_same_batches_in_every_format(tmp_path, tar):
    sources = [
        tar,
        write_folder(tmp_path / "folder", records()),
        write_parquet(tmp_path / "d.parquet", records()),
        write_coco(tmp_path / "coco", records()),
        write_csv(tmp_path / "csv", records()),
        write_sidecars(tmp_path / "texts", records()),
    ]
    modules = [clip_data(source, crop="random", flip=True) for source in sources]
    for loaders in (
        [module.train_dataloader() for module in modules],
        [module.val_dataloader() for module in modules],
    ):
        first, *others = [list(loader) for loader in loaders]
        assert len(first) > 0
        for other in others:
            assert len(other) == len(first)
            for a, b in zip(first, other, strict=True):
                assert_same(a, b)


def test_a_clip_batch_is_what_its_type_says(tar):
    batch = next(iter(clip_data(tar).train_dataloader()))
    assert batch.image.shape == (8, 3, 12, 12)
    assert batch.image.dtype == torch.float32
    assert -1 <= batch.image.min() < batch.image.max() <= 1
    assert torch.equal(batch.tokens, tokenize(batch.captions))
    assert batch.captions == [f"image number {int(key)}" for key in batch.keys]


def test_prior_and_decoder_batches_show_the_same_samples(tar):
    config = DataConfig(source=tar, batch_size=8)
    prior = PriorData(
        config, clip_image_size=12, clip_tokenize=tokenize, tokenize=lambda c: -tokenize(c), seed=1
    )
    decoder = DecoderData(
        config,
        image_size=6,
        clip_image_size=12,
        clip_tokenize=tokenize,
        tokenize=lambda c: -tokenize(c),
        seed=1,
    )
    clip = next(iter(clip_data(tar, held_out=0.02).train_dataloader()))
    p = next(iter(prior.train_dataloader()))
    d = next(iter(decoder.train_dataloader()))
    assert clip.keys == p.keys == d.keys
    assert torch.equal(p.clip_image, clip.image)
    assert torch.equal(d.clip_image, clip.image)
    assert d.image.shape == (8, 3, 6, 6)
    for batch in (p, d):
        assert torch.equal(batch.clip_tokens, clip.tokens)
        assert torch.equal(batch.tokens, -clip.tokens)


def test_upsampler_batches_are_patches_that_workers_do_not_change(tar):
    def batches(workers):
        config = UpsamplerDataConfig(
            source=tar, batch_size=8, crop_fraction=0.5, held_out=0.2, num_workers=workers
        )
        module = UpsamplerData(config, image_size=12, seed=1)
        return [*module.train_dataloader(), *module.val_dataloader()]

    plain = batches(0)
    assert plain[0].image.shape == (8, 3, 6, 6)
    for a, b in zip(plain, batches(2), strict=True):
        assert_same(a, b)


def test_scenes_are_drawn_at_the_size_that_is_needed():
    config = DataConfig(batch_size=2)
    module = DecoderData(
        config, image_size=16, clip_image_size=24, clip_tokenize=tokenize, tokenize=tokenize, seed=1
    )
    assert module.splits.train[0].image.shape == (24, 24, 3)
    batch = next(iter(module.train_dataloader()))
    assert batch.image.shape == (2, 3, 16, 16)
    assert batch.clip_image.shape == (2, 3, 24, 24)


def test_validation_is_the_first_held_out_samples_tail_included_whatever_the_seed(tar):
    module = clip_data(tar, seed=1, batch_size=4)
    batches = list(module.val_dataloader())
    assert [len(batch.keys) for batch in batches] == [4, 1]
    held_out = [module.splits.held_out.key(n) for n in range(5)]
    assert [key for batch in batches for key in batch.keys] == held_out
    again = list(clip_data(tar, seed=2, batch_size=4, crop="random", flip=True).val_dataloader())
    for a, b in zip(batches, again, strict=True):
        assert_same(a, b)


def test_processes_share_a_step_and_all_validate_on_everything(tar):
    def attached(rank):
        module = clip_data(tar, accumulate=2)
        module.trainer = SimpleNamespace(global_rank=rank, world_size=2)
        return module

    ranks = [[batch.keys for batch in attached(r).train_dataloader()] for r in range(2)]
    whole = [batch.keys for batch in clip_data(tar).train_dataloader()]
    for step, keys in enumerate(whole):
        micro = slice(2 * step, 2 * step + 2)
        assert sorted(k for rank in ranks for batch in rank[micro] for k in batch) == sorted(keys)
    validated = [[k for b in attached(r).val_dataloader() for k in b.keys] for r in range(2)]
    assert (
        validated[0] == validated[1] == [k for b in clip_data(tar).val_dataloader() for k in b.keys]
    )


def test_wrong_sources_and_batch_sizes_are_reported_in_one_line(tar):
    with pytest.raises(UserError, match=r"^data\.source: nowhere does not exist"):
        clip_data("nowhere").setup("fit")
    with pytest.raises(UserError, match=r"^data\.batch_size: 64 is more than the 3\d training"):
        clip_data(tar, batch_size=64).train_dataloader()
    with pytest.raises(UserError, match=r"^data\.batch_size: 8 cannot be split over 1 proc"):
        clip_data(tar, accumulate=3).train_dataloader()


class Recorder(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.keys, self.validated = [], []

    def training_step(self, batch):
        self.keys.append(batch.keys)
        return self.weight * batch.image.mean()

    def validation_step(self, batch):
        self.validated += batch.keys

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore")  # Lightning's advice on numbers of workers and logging
@pytest.mark.parametrize("held_out", [0.0, 0.2])
@pytest.mark.parametrize("stop", [2, 4, 5])  # within, at the end of, and after the first epoch
def test_a_training_run_that_is_resumed_sees_the_same_batches(tmp_path, tar, held_out, stop):
    def fit(steps, checkpoint=None):
        model = Recorder()
        trainer = Trainer(
            max_steps=steps,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
        )
        data = clip_data(tar, held_out=held_out, limit=32, batch_size=8 if held_out == 0 else 7)
        trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return model

    whole = fit(10)
    assert bool(whole.validated) == (held_out > 0)
    first = fit(stop)
    second = fit(10, tmp_path / "last.ckpt")
    assert len(whole.keys) == 10
    assert first.keys + second.keys == whole.keys


@pytest.fixture
def tars(tmp_path):
    folder = tmp_path / "tars"
    folder.mkdir()
    rows = records(60)
    for k in range(6):
        write_tar(folder / f"{k}.tar", rows[10 * k : 10 * k + 10])
    return folder


def keys_of(module, epochs=1):
    loader = module.train_dataloader()
    return [key for _ in range(epochs) for batch in loader for key in batch.keys]


def test_more_samples_than_the_window_are_read_shard_by_shard(tars):
    whole, windowed = clip_data(tars), clip_data(tars, shuffle_window=16)
    assert set(keys_of(windowed, epochs=2)) == set(keys_of(whole, epochs=2))
    shards = [{int(key) // 10 for key in keys_of(windowed)[k : k + 16]} for k in range(0, 48, 16)]
    assert max(map(len, shards)) <= 4
    assert sum(map(len, shards)) <= 6 + 3


def test_a_run_is_not_continued_in_another_order(tars):
    state = clip_data(tars, shuffle_window=16).train_dataloader().state_dict()
    clip_data(tars, shuffle_window=16).train_dataloader().load_state_dict(state)
    for other in ({}, {"shuffle_window": 24}):
        with pytest.raises(UserError, match=r"resume with the same .* data\.shuffle_window"):
            clip_data(tars, **other).train_dataloader().load_state_dict(state)
    # What is permuted whole has the state that it always had.
    plain = clip_data(tars)
    assert plain.train_dataloader().state_dict()["data"] == plain.splits.train.fingerprint()


def test_a_mixture_is_drawn_by_weight(tars):
    module = clip_data(tars)
    train = module.splits.train
    module._splits = module.splits._replace(weights=(3.0, 1.0), lengths=(40, len(train) - 40))
    rare = {train.key(number) for number in range(40, len(train))}
    keys = keys_of(module, epochs=30)
    assert sum(key in rare for key in keys) / len(keys) == pytest.approx(0.25, abs=0.05)


def test_bad_training_samples_are_counted(tmp_path):
    rows = [(key, image if int(key) % 25 else b"", text) for key, image, text in records()]
    module = clip_data(write_tar(tmp_path / "d.tar", rows), held_out=0, num_workers=1)
    keys = keys_of(module)
    assert len(keys) == 40
    assert not {"0000", "0025"} & set(keys)
    assert module.skipped == 2
    list(module.one_pass())
    assert module.skipped == 2  # of training alone


def test_there_are_never_more_workers_than_cores(tar, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 5}, raising=False)
    assert clip_data(tar, num_workers=12).train_dataloader().num_workers == 2
    assert clip_data(tar, num_workers=1).train_dataloader().num_workers == 1
    four = SimpleNamespace(
        num_devices=2, world_size=4, global_rank=0
    )  # two on each of two machines
    for env, expected in (({}, 1), ({"SLURM_CPUS_PER_TASK": "2"}, 2)):  # srun has shared them out
        with monkeypatch.context() as patched:
            for name, value in env.items():
                patched.setenv(name, value)
            data = clip_data(tar, num_workers=12)
            data.trainer = four
            assert data.train_dataloader().num_workers == expected


def test_a_clip_is_not_validated_with_a_single_sample(tmp_path, caplog):
    source = write_sidecars(tmp_path / "d", records(30))
    held = len(clip_data(source).splits.held_out)
    assert held > 2
    assert len(clip_data(source, val_samples=2).val_dataloader()) == 1
    assert clip_data(source, val_samples=1).val_dataloader() == []
    assert "one held-out sample has no other to be told from" in caplog.text


def test_files_that_are_not_read_are_logged_once_before_training(tmp_path, caplog):
    source = write_sidecars(tmp_path / "d", records(30))
    (source / "a.heic").touch()
    (source / ".DS_Store").touch()
    data = clip_data(source)
    for _ in range(2):
        data.setup()
    (record,) = caplog.records
    assert record.getMessage() == (
        "data.source: 2 of 62 files left out: "
        "1 x hidden or of the operating system (.DS_Store); "
        "1 x an image of a kind that is not read (.heic); convert it to JPEG or PNG (a.heic)"
    )
