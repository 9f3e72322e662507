"""LAION's prior: its attention by closed forms, and what the network makes of its inputs.

`tests/weights/test_dalle2_prior.py` compares the whole with dalle2-pytorch's.
"""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.common.types import Caption
from unclip.embeddings.config import RAW
from unclip.nn.attention import attend, backend
from unclip.nn.multi_query import (
    DistanceBias,
    MultiQueryAttention,
    StableNorm,
    rotary_frequencies,
    rotate,
)
from unclip.stages.laion_prior.config import LaionPriorConfig
from unclip.stages.laion_prior.network import LaionPrior

D, L, B = 8, 5, 2


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def laion(text: int = D, **changes) -> LaionPrior:
    torch.manual_seed(0)
    config = LaionPriorConfig(context=L, layers=2, heads=2, head_channels=4, **changes)
    return LaionPrior(config, D, clip_text_width=text, timesteps=10).eval()


def some_input(text: int = D) -> dict:
    mask = torch.arange(L)[None] < torch.tensor([[3], [L]])
    caption = Caption(None, normal(B, L, text, seed=1), mask)
    return dict(z_t=F.normalize(normal(B, D, seed=2), dim=1), caption=caption)


def test_the_product_of_rotated_vectors_depends_on_their_distance_alone():
    q, k = normal(64).expand(40, 64), normal(64, seed=1).expand(40, 64)
    turns = rotary_frequencies(64)
    assert len(turns) == 16  # planes of the first 32 channels
    products = rotate(q, turns) @ rotate(k, turns).T
    for distance in range(-5, 6):
        same = products.diagonal(distance)
        torch.testing.assert_close(same, same[:1].expand(len(same)), atol=2e-4, rtol=0)
    torch.testing.assert_close(rotate(q, turns).norm(dim=1), q.norm(dim=1))
    assert torch.equal(rotate(q, turns)[:, 32:], q[:, 32:])


def test_a_plane_turns_by_its_frequency():
    """(1, 0) at position p is (cos p·ω, sin p·ω)."""
    turns = torch.tensor([1.0, 0.1])
    found = rotate(torch.tensor([1.0, 0.0, 1.0, 0.0]).expand(4, 4), turns)
    angles = torch.arange(4)[:, None] * turns
    wanted = torch.stack([angles.cos(), angles.sin()], dim=-1).flatten(1)
    torch.testing.assert_close(found, wanted)


def test_distances_share_t5s_buckets():
    bias = DistanceBias(1)
    bias.table.weight.data = torch.arange(32.0)[:, None]
    buckets = bias(200)[0, 0]
    last = buckets[-1].flip(0)  # of query 199: distances -1 (its own key), 0, 1, ...
    assert last[:18].tolist() == [0, *range(17)]
    for distance in range(17, 200):
        exact = 16 + int(math.log(distance / 16) / math.log(8) * 16)
        assert last[distance + 1] == min(exact, 31)
    later = torch.ones(200, 201).triu(2).bool()  # the null key is column 0
    assert torch.equal(buckets == -math.inf, later)


@torch.no_grad()
def test_attention_is_the_softmax_of_sixteen_cosines_with_a_null_key():
    torch.manual_seed(0)
    layer, x, heads, size = MultiQueryAttention(D, 2, 4), normal(1, 3, D), 2, 4
    normed = F.layer_norm(x[0], (D,))
    q = layer.q(normed).view(3, heads, size)
    k, v = layer.kv(normed).split(size, dim=1)
    k, v = torch.cat([layer.null_kv[:1], k]), torch.cat([layer.null_kv[1:], v])
    bias = torch.zeros(heads, 3, 4).masked_fill(torch.ones(3, 4).triu(2).bool(), -math.inf)
    rows = []
    for i in range(3):
        of_heads = []
        for h in range(heads):
            cosines = torch.stack([F.cosine_similarity(q[i, h], k[j], dim=0) for j in range(i + 2)])
            of_heads.append((16 * cosines).softmax(dim=0) @ v[: i + 2])
        rows.append(torch.cat(of_heads))
    wanted = F.layer_norm(layer.out(torch.stack(rows)), (D,))
    torch.testing.assert_close(layer(x, bias, None)[0], wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["sdpa", "math"])
def test_numbers_of_a_mask_are_added_to_the_scores(name):
    q, k, v = (normal(1, 2, 3, 4, seed=seed) for seed in range(3))
    added = normal(2, 3, 3, seed=3)
    wanted = (q @ k.transpose(2, 3) / 2 + added).softmax(dim=-1) @ v
    seen = torch.ones(3, 3).tril().bool()
    with backend(name):
        torch.testing.assert_close(attend(q, k, v, added), wanted)
        hidden = torch.zeros(3, 3).masked_fill(~seen, -math.inf)
        torch.testing.assert_close(attend(q, k, v, hidden), attend(q, k, v, seen))
        low = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), added)
    torch.testing.assert_close(low.float(), wanted, atol=0.05, rtol=0.05)


def test_the_last_norm_divides_by_the_largest_number_first():
    norm, x = StableNorm(D), normal(3, D) * 1e3
    quotient = x / x.amax(dim=1, keepdim=True)
    var, mean = torch.var_mean(quotient, dim=1, correction=0, keepdim=True)
    torch.testing.assert_close(norm(x), (quotient - mean) / (var + 1e-5).sqrt())


@torch.no_grad()
def test_a_dropped_text_and_a_dropped_embedding_leave_no_trace():
    net, given = laion(), some_input()
    x, t = normal(B, D, seed=5), torch.tensor([3, 7])
    none, every = torch.zeros(B, dtype=torch.bool), torch.ones(B, dtype=torch.bool)
    other = dict(
        z_t=given["z_t"].flip(0),
        caption=given["caption"]._replace(features=normal(B, L, D, seed=9)),
    )
    no_text = net(x, t, **given, keep=none, keep_x_t=every)
    assert torch.equal(no_text, net(x, t, **other, keep=none, keep_x_t=every))
    assert not torch.allclose(no_text, net(-x, t, **given, keep=none, keep_x_t=every))
    neither = net(x, t, **given, keep=none)
    assert torch.equal(neither, net(-x, t, **other, keep=none))
    assert torch.equal(net(x, t, **given), net(x, t, **given, keep=every))
    mixed = net(x, t, **given, keep=torch.tensor([True, False]))
    torch.testing.assert_close(mixed, torch.stack([net(x, t, **given)[0], neither[1]]))


@torch.no_grad()
def test_padding_is_not_read_and_time_is():
    net, given = laion(), some_input()
    x, t = normal(B, D, seed=5), torch.tensor([3, 7])
    features = given["caption"].features.clone()
    features[0, 3:] = 9.0  # behind the end of the first caption
    same = net(x, t, z_t=given["z_t"], caption=given["caption"]._replace(features=features))
    assert torch.equal(same, net(x, t, **given))
    features[0, 2] = 9.0
    other = net(x, t, z_t=given["z_t"], caption=given["caption"]._replace(features=features))
    assert not torch.allclose(other[0], same[0])
    assert not torch.allclose(net(x, t + 1, **given), same)


@torch.no_grad()
def test_text_features_of_another_width_have_a_layer_of_their_own():
    assert "features_in.weight" not in laion().state_dict()
    net = laion(text=12)
    assert net.features_in.weight.shape == (D, 12)
    found = net(normal(B, D), torch.tensor([0, 1]), **some_input(text=12))
    assert found.shape == (B, D)


def test_what_is_diffused_has_unit_variance_and_comes_back():
    net, z = laion(), F.normalize(normal(B, D), dim=1)
    assert net.scale == pytest.approx(math.sqrt(D))
    torch.testing.assert_close(net.to_x0(z).square().mean(dim=1), torch.ones(B))
    torch.testing.assert_close(net.from_x0(net.to_x0(z)), z)
    raw = laion(embeddings=RAW)
    assert torch.equal(raw.from_x0(raw.to_x0(3 * z)), 3 * z)


def test_a_caption_without_features_is_refused():
    caption = Caption(torch.zeros(B, L, dtype=torch.int64), None, torch.ones(B, L).bool())
    with pytest.raises(ValueError, match="token features"):
        laion()(normal(B, D), torch.zeros(B).long(), z_t=normal(B, D), caption=caption)
