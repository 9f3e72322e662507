import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from unclip.embeddings.moments import Moments, Reservoir, splitmix64


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def permutation(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def moments_of(z: torch.Tensor, sizes: list[int]) -> Moments:
    moments = Moments(z.shape[1])
    for batch in z.split(sizes):
        moments.update(batch)
    return moments


def reservoir_of(numbers: torch.Tensor, rows: torch.Tensor, batch: int, size: int) -> Reservoir:
    reservoir = Reservoir(size, rows.shape[1])
    for some, of_them in zip(numbers.split(batch), rows.split(batch)):
        reservoir.update(some, of_them)
    return reservoir


def assert_same(found: Moments, expected: Moments) -> None:
    assert found.count == expected.count
    torch.testing.assert_close(found.mean, expected.mean, rtol=0, atol=1e-10)
    torch.testing.assert_close(found.covariance, expected.covariance, rtol=0, atol=1e-10)


def test_moments_are_those_of_the_whole_sample_in_any_order_and_split():
    z = draw(1000, 7) + 3
    for some, sizes in ((z, [1000]), (z[permutation(1000)], [1, 499, 300, 200])):
        found = moments_of(some, sizes)
        assert found.count == 1000
        torch.testing.assert_close(found.mean, z.mean(dim=0), rtol=0, atol=1e-10)
        torch.testing.assert_close(found.covariance, z.T.cov(correction=0), rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_sums_are_float64_whatever_the_embeddings_are(dtype):
    z = draw(4000, 3).to(dtype)
    assert_same(moments_of(z, [100] * 40), moments_of(z.double(), [4000]))


def test_merging_equals_one_pass():
    z = draw(100, 4)
    left, right = moments_of(z[:30], [30]), moments_of(z[30:], [70])
    left.merge(right)
    assert_same(left, moments_of(z, [100]))


def test_moments_refuse_what_they_cannot_sum():
    moments = Moments(3)
    for shape in ((2, 4), (3,), (1, 2, 3)):
        with pytest.raises(ValueError, match=r"expected \[B, 3\]"):
            moments.update(torch.zeros(shape))
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="NaN or inf"):
            moments.update(torch.tensor([[0.0, bad, 0.0]]))
    with pytest.raises(ValueError, match="dimension 4 and 3"):
        moments.merge(Moments(4))
    assert moments.count == 0
    for name in ("mean", "covariance"):
        with pytest.raises(ValueError, match="no samples"):
            getattr(moments, name)


def test_the_hash_is_splitmix64():
    # The generator's first output is the hash of its seed; its state then grows by the constant.
    gamma = 0x9E3779B97F4A7C15 - 2**64
    states = torch.tensor([0, 1234567, 1234567 + gamma])
    expected = [0xE220A8397B1DCDAF, 6457827717110365317, 3203168211198807973]
    assert [x % 2**64 for x in splitmix64(states).tolist()] == expected


def test_reservoir_depends_neither_on_order_nor_on_split():
    numbers, rows = torch.arange(1000), draw(1000, 3).float()
    expected = reservoir_of(numbers, rows, batch=1000, size=64).rows
    assert expected.shape == (64, 3)
    for batch in (1, 7, 400):
        order = permutation(1000, seed=batch)
        found = reservoir_of(numbers[order], rows[order], batch, size=64).rows
        assert torch.equal(found, expected)


def test_merged_reservoirs_equal_one_pass():
    numbers, rows = torch.arange(200), draw(200, 2).float()
    left, right = (reservoir_of(numbers[i::2], rows[i::2], 10, size=50) for i in (0, 1))
    left.merge(right)
    assert torch.equal(left.rows, reservoir_of(numbers, rows, 200, size=50).rows)


def test_a_reservoir_that_is_not_full_holds_every_row_once():
    numbers, rows = torch.arange(20), torch.arange(20.0)[:, None]
    reservoir = reservoir_of(numbers.repeat(3), rows.repeat(3, 1), batch=25, size=64)
    reservoir.merge(reservoir_of(numbers, rows, 20, size=64))
    assert reservoir.rows.flatten().sort().values.tolist() == list(range(20))
    assert reservoir.rows.flatten().tolist() != list(range(20))
    assert Reservoir(4, 2).rows.shape == (0, 2)


def test_reservoir_is_a_uniform_subset():
    # Of 100,000 samples 10,000 are kept; their counts in 20 equal ranges are hypergeometric, so
    # chi-square with 19 degrees of freedom (43.8 at 0.1 %) times the unsampled share, 0.9.
    numbers = torch.arange(100_000)
    kept = reservoir_of(numbers, numbers[:, None].float(), batch=9999, size=10_000).rows
    counts = torch.histc(kept, bins=20, min=0, max=100_000)
    assert counts.sum() == 10_000
    assert ((counts - 500) ** 2 / 500).sum() / 0.9 < 43.8
    even = (kept % 2 == 0).float().mean().item()
    assert even == pytest.approx(0.5, abs=4 * 0.005)


def test_reservoir_refuses_wrong_shapes_and_types():
    reservoir = Reservoir(4, 2)
    for numbers, rows in ((3, (3, 1)), (2, (3, 2)), (3, (3,))):
        with pytest.raises(ValueError, match=r"expected \[B\], \[B, 2\]"):
            reservoir.update(torch.arange(numbers), torch.zeros(rows))
    with pytest.raises(ValueError, match="int64"):
        reservoir.update(torch.arange(3.0), torch.zeros(3, 2))
    for other in (Reservoir(5, 2), Reservoir(4, 3)):
        with pytest.raises(ValueError, match="one size and dimension"):
            reservoir.merge(other)


def _one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2)
    z, numbers = draw(101, 5), torch.arange(101)
    moments = moments_of(z[rank::2], [10] * 5 + ([1] if rank == 0 else []))
    reservoir = reservoir_of(numbers[rank::2], z[rank::2], 10, size=16)
    moments.all_reduce()
    reservoir.gather()
    torch.save((moments, reservoir.rows), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_give_what_one_gives(tmp_path):
    mp.spawn(_one_of_two, (str(tmp_path),), nprocs=2)
    z = draw(101, 5)
    for rank in (0, 1):
        moments, rows = torch.load(tmp_path / f"{rank}.pt", weights_only=False)
        assert_same(moments, moments_of(z, [101]))
        assert torch.equal(rows, reservoir_of(torch.arange(101), z, 101, size=16).rows)


def test_one_process_reduces_to_itself():
    z = draw(10, 2)
    moments, reservoir = moments_of(z, [10]), reservoir_of(torch.arange(10), z, 10, size=4)
    before = reservoir.rows
    moments.all_reduce()
    reservoir.gather()
    assert_same(moments, moments_of(z, [10]))
    assert torch.equal(reservoir.rows, before)
