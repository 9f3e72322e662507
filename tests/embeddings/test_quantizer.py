import pytest
import torch

from unclip.embeddings.quantizer import Quantizer

KINDS = ["uniform", "quantile"]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_uniform_buckets_divide_the_range_equally():
    values = torch.tensor([[-1.0, 0.0], [3.0, 8.0], [0.5, 1.0]], dtype=torch.float64)
    quantizer = Quantizer.fit(values, buckets=4, edges="uniform")
    expected = torch.tensor([[0.0, 1.0, 2.0], [2.0, 4.0, 6.0]], dtype=torch.float64)
    torch.testing.assert_close(quantizer.edges, expected)
    expected = torch.tensor([[-0.5, 0.5, 1.5, 2.5], [1.0, 3.0, 5.0, 7.0]], dtype=torch.float64)
    torch.testing.assert_close(quantizer.centers, expected)


def test_uniform_error_is_at_most_half_a_bucket():
    values = draw(1000, 3)
    quantizer = Quantizer.fit(values, buckets=50, edges="uniform")
    width = (values.amax(dim=0) - values.amin(dim=0)) / 50
    error = (quantizer.decode(quantizer.encode(values)) - values).abs().amax(dim=0)
    assert (error <= width / 2 * (1 + 1e-9)).all()
    assert (error > width / 2 * 0.9).all()


def test_quantile_buckets_are_equally_filled():
    values = draw(6400, 2).exp()
    codes = Quantizer.fit(values, buckets=64, edges="quantile").encode(values)
    for column in codes.T:
        counts = column.bincount(minlength=64)
        assert (counts - 100).abs().max() <= 1


def test_quantile_edges_and_centers_are_quantiles():
    values = draw(777, 2)
    quantizer = Quantizer.fit(values, buckets=10, edges="quantile")
    levels = torch.arange(10, dtype=torch.float64) / 10
    torch.testing.assert_close(quantizer.edges, values.quantile(levels[1:], dim=0).T)
    torch.testing.assert_close(quantizer.centers, values.quantile(levels + 0.05, dim=0).T)


def test_a_code_counts_the_edges_at_or_below():
    edges = torch.tensor([[0.0, 1.0], [10.0, 20.0]])
    quantizer = Quantizer(edges, torch.zeros(2, 3))
    values = torch.tensor([[-1e9, 1e9], [0.0, 20.0], [0.99, 9.99], [1.0, 10.0]])
    assert quantizer.encode(values).tolist() == [[0, 2], [1, 2], [1, 0], [2, 1]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_codes_survive_decoding_and_encoding(kind, dtype):
    values = draw(5000, 4).to(dtype)
    quantizer = Quantizer.fit(values, buckets=1024, edges=kind)
    assert quantizer.edges.dtype == quantizer.centers.dtype == dtype
    codes = torch.arange(1024)[:, None].expand(1024, 4)
    assert torch.equal(quantizer.encode(quantizer.decode(codes)), codes)


@pytest.mark.parametrize("kind", KINDS)
def test_all_codes_are_in_range_and_follow_the_values(kind):
    quantizer = Quantizer.fit(draw(500, 1), buckets=16, edges=kind)
    codes = quantizer.encode(torch.linspace(-100, 100, 5001)[:, None])
    assert codes.dtype == torch.int64
    assert codes.unique().tolist() == list(range(16))
    assert (codes.diff(dim=0) >= 0).all()


def test_any_leading_dimensions_are_kept():
    values = draw(60, 3)
    quantizer = Quantizer.fit(values, buckets=8, edges="quantile")
    codes = quantizer.encode(values)
    assert torch.equal(quantizer.encode(values.reshape(4, 15, 3)), codes.reshape(4, 15, 3))
    assert torch.equal(quantizer.encode(values[0]), codes[0])
    assert quantizer.encode(values[:0]).shape == (0, 3)
    decoded = quantizer.decode(codes)
    assert torch.equal(quantizer.decode(codes.reshape(4, 15, 3)), decoded.reshape(4, 15, 3))
    assert torch.equal(quantizer.decode(codes[0]), decoded[0])
    assert quantizer.decode(codes[:0]).shape == (0, 3)


def test_more_values_than_torch_quantile_takes():
    values = torch.arange(2.0**24 + 1)[:, None]  # 0 ... 2^24, as float32 still exact
    quantizer = Quantizer.fit(values, buckets=4, edges="quantile")
    assert quantizer.edges[0].tolist() == [2.0**22, 2.0**23, 3 * 2.0**22]


@pytest.mark.parametrize(
    ("values", "changed", "message"),
    [
        (torch.zeros(0, 3), {}, "expected some"),
        (torch.zeros(3), {}, r"expected some \[n, k\]"),
        (torch.tensor([[float("nan")]]), {}, "NaN or inf"),
        (torch.zeros(3, 1), {"buckets": 1}, "1 buckets"),
        (torch.zeros(3, 1), {"edges": "kmeans"}, "none of uniform, quantile"),
    ],
)
def test_an_impossible_fit_is_refused(values, changed, message):
    with pytest.raises(ValueError, match=message):
        Quantizer.fit(values, **{"buckets": 4, "edges": "uniform", **changed})


def test_impossible_codes_and_shapes_are_refused():
    quantizer = Quantizer.fit(draw(20, 3), buckets=4, edges="uniform")
    for code in (-1, 4):
        with pytest.raises(ValueError, match=rf"code {code} is outside \[0, 4\)"):
            quantizer.decode(torch.tensor([[0, code, 3]]))
    for method in (quantizer.encode, quantizer.decode):
        for shape in ((2, 1), (3, 2), ()):
            with pytest.raises(ValueError, match=r"expected \[\.\.\., 3\]"):
                method(torch.zeros(shape, dtype=torch.int64))
