import dataclasses

import pytest
import torch
from safetensors.torch import load, save
from torch.nn.functional import cosine_similarity, normalize

from unclip.embeddings.codec import Codec, fit_codec
from unclip.embeddings.moments import Moments

N, DIM = 4000, 12


def embeddings(n: int, seed: int) -> torch.Tensor:
    """Unit vectors around a mean, whose variance halves from one axis to the next."""
    noise = torch.randn(n, DIM, generator=torch.Generator().manual_seed(seed))
    return normalize(1 + noise * 0.5 ** torch.arange(DIM), dim=1)


Z, Z_T = embeddings(N, seed=0), embeddings(N, seed=1)
DOTS = (Z * Z_T).sum(dim=1)


def fitted(components: int | None = 5, **changed) -> Codec:
    moments = Moments(DIM)
    moments.update(Z)
    arguments = {"components": components, "buckets": 256, "edges": "quantile", **changed}
    return fit_codec(moments, Z, DOTS, **arguments)


def test_sizes():
    codec = fitted()
    assert (codec.k, codec.dim, codec.buckets) == (5, DIM, 256)
    assert codec.dot_quantiles.shape == (1001,)
    codes = codec.encode(Z[:7])
    assert codes.shape == (7, 5)
    assert codes.dtype == torch.int64
    assert codec.encode_dot(DOTS[:7]).shape == (7,)


def test_k_follows_from_the_error():
    codec = fitted(components=None, max_error=0.01)
    assert codec.pca.lost_variance()[codec.k] < 0.01 <= codec.pca.lost_variance()[codec.k - 1]
    assert codec.summary(Z).explained_variance > 0.99


@pytest.mark.parametrize("edges", ["uniform", "quantile"])
def test_decoded_embeddings_are_unit_vectors_near_the_encoded(edges):
    codec = fitted(components=DIM, buckets=1024, edges=edges)
    decoded = codec.decode(codec.encode(Z))
    assert decoded.dtype == torch.float32
    torch.testing.assert_close(decoded.norm(dim=1), torch.ones(N))
    assert cosine_similarity(decoded, Z).mean() > 0.9999


def test_double_and_half_inputs_are_coded_in_float32():
    codec = fitted()
    assert torch.equal(codec.encode(Z.double()), codec.encode(Z))
    half = Z.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(codec.encode(half), codec.encode(half.float()))
        assert codec.decode(codec.encode(half)).dtype == torch.float32


def test_summary_measures_the_reconstructions():
    codec = fitted()
    summary = codec.summary(Z)
    projected = codec.pca.reconstruct(codec.pca.project(Z))
    decoded = codec.decode(codec.encode(Z))
    cosine = (normalize(projected, dim=1) * Z).sum(dim=1).mean()
    assert summary.cosine_pca == pytest.approx(cosine.item())
    assert summary.cosine_codes == pytest.approx((decoded * Z).sum(dim=1).mean().item())
    assert summary.mse_codes == pytest.approx((decoded - Z).square().mean().item())
    lost = (projected - Z).square().sum() / (Z - Z.mean(dim=0)).square().sum()
    assert summary.explained_variance == pytest.approx(1 - lost.item(), abs=1e-4)
    # Of unit vectors the squared distance is 2 - 2 cos, here averaged over the dimensions.
    assert summary.mse_codes == pytest.approx((2 - 2 * summary.cosine_codes) / DIM, rel=1e-3)


def test_more_components_and_more_buckets_keep_more():
    by_k = [fitted(components=k, buckets=1024).summary(Z) for k in (1, 3, 6, DIM)]
    by_buckets = [fitted(components=DIM, buckets=n).summary(Z) for n in (4, 32, 256)]
    for series in (by_k, by_buckets):
        kept = [x.cosine_codes for x in series]
        assert kept == sorted(kept)
        errors = [x.mse_codes for x in series]
        assert errors == sorted(errors, reverse=True)
    assert by_k[-1].explained_variance == 1
    assert by_k[-1].cosine_pca == pytest.approx(1, abs=1e-6)


def test_dot_products_are_coded_evenly_and_in_order():
    codec = fitted(buckets=16)
    assert (codec.encode_dot(DOTS).bincount(minlength=16) - N // 16).abs().max() <= 1
    assert (codec.encode_dot(DOTS.sort().values).diff() >= 0).all()


def test_drawn_dot_products_follow_the_training_distribution():
    codec = fitted()
    u = torch.arange(10_000) / 10_000
    assert codec.dot_at(u[:1], 0) == DOTS.min()
    for percentile in (0, 50, 95):
        dots = codec.dot_at(u, percentile)
        assert (dots.diff() >= 0).all()
        threshold = DOTS.quantile(percentile / 100)
        assert (dots >= threshold - 1e-6).all()
        assert (dots <= DOTS.max()).all()
        above = DOTS[threshold <= DOTS]
        levels = torch.tensor([0.1, 0.5, 0.9])
        torch.testing.assert_close(
            dots.quantile(levels), above.quantile(levels), rtol=0, atol=0.002
        )


def test_at_percentile_50_every_draw_is_above_the_median():
    codec = fitted()
    draws = codec.dot_at(torch.rand(10_000, generator=torch.Generator().manual_seed(3)), 50)
    assert (draws >= codec.dot_quantiles[500]).all()
    torch.testing.assert_close(codec.dot_quantiles[500], DOTS.quantile(0.5))


@pytest.mark.parametrize("percentile", [0, 30, 33.3, 70, 99.9])
def test_the_end_of_the_unit_interval_stays_in_the_table(percentile):
    last = 1 - torch.tensor([2.0**-53, 2.0**-25], dtype=torch.float64)
    found = fitted().dot_at(last, percentile)
    torch.testing.assert_close(found, DOTS.max().expand(2), rtol=0, atol=1e-4)


def test_impossible_draws_are_refused():
    codec = fitted()
    for percentile in (-1, 100, float("nan")):
        with pytest.raises(ValueError, match="percentile is"):
            codec.dot_at(torch.tensor([0.5]), percentile)


def test_dot_products_are_drawn_without_reading_from_their_device():
    codec = fitted().to("meta")
    assert codec.dot_at(torch.empty(3, device="meta"), 50).shape == (3,)


def test_stored_and_loaded_it_is_the_same_codec():
    codec = fitted()
    loaded = Codec.from_tensors(load(save(codec.tensors())))
    for name, tensor in codec.tensors().items():
        assert loaded.tensors()[name].dtype == tensor.dtype
        assert torch.equal(loaded.tensors()[name], tensor)
    assert torch.equal(loaded.to("cpu").encode(Z), codec.encode(Z))


def test_incomplete_or_inconsistent_tensors_are_refused():
    tensors = fitted().tensors()
    assert len(tensors) == 8
    for name, tensor in tensors.items():
        rest = {other: t for other, t in tensors.items() if other != name}
        with pytest.raises(ValueError, match=f"without the tensor '{name}'"):
            Codec.from_tensors(rest)
        for wrong in (tensor[..., :-1], tensor[:0], tensor[None], torch.tensor(1.0)):
            with pytest.raises(ValueError, match="has shape"):
                Codec.from_tensors({**rest, name: wrong})


def test_edges_of_another_k_are_refused_by_name():
    tensors = fitted().tensors()
    with pytest.raises(ValueError, match=r"edges has shape \(4, 255\), not \(5, 255\)"):
        Codec.from_tensors({**tensors, "edges": tensors["edges"][:4]})


def test_nothing_is_fitted_to_nan():
    moments = Moments(DIM)
    moments.update(Z)
    choice = {"components": 3, "buckets": 8, "edges": "uniform"}
    with pytest.raises(ValueError, match="NaN"):
        fit_codec(moments, Z * float("nan"), DOTS, **choice)
    with pytest.raises(ValueError, match="NaN"):
        fit_codec(moments, Z, DOTS * float("nan"), **choice)
    with pytest.raises(ValueError, match="no samples"):
        fit_codec(Moments(DIM), Z, DOTS, **choice)


def test_it_cannot_be_changed():
    codec = fitted()
    with pytest.raises(dataclasses.FrozenInstanceError):
        codec.pca = codec.pca
