"""Ways between embeddings: along the sphere, and from one caption to another."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip.common.devices import widened, widest

_ANTIPARALLEL = 1e-8  # |û + v̂| under which no shortest way can be told


def slerp(a: Tensor, b: Tensor, t: Tensor | float) -> Tensor:
    """The point at ``t`` of the way along the great circle from ``a`` to ``b``, ``[..., D]``.

    The angle is that of the whole vectors, lengths go over evenly, and all is float64 until the
    end: unit vectors stay unit vectors. ``t`` = 0 returns ``a`` and 1 ``b``, bit for bit. Opposite
    directions, between which no way is the shortest, are joined by the half circle through the
    axis to which ``a`` is least inclined.

    Args:
        a: ``[..., D]``, not zero, of any length.
        b: The same.
        t: In [0, 1]; a number, or of a shape that broadcasts with ``[...]``.

    Raises:
        ValueError: a vector is zero or not finite.
    """
    u, v = _direction(a), _direction(b)
    t = torch.as_tensor(t, dtype=widest(a.device), device=a.device)[..., None]
    # The angle from half the sum and difference: acos of the dot product is blind near 0 and π.
    angle = 2 * torch.atan2(_norm(u - v), _norm(u + v))
    same = angle.sin() == 0
    safe = torch.where(same, 1.0, angle)
    of_a = torch.where(same, 1 - t, (safe * (1 - t)).sin() / safe.sin())
    of_b = torch.where(same, t, (safe * t).sin() / safe.sin())
    around = (torch.pi * t).cos() * u + (torch.pi * t).sin() * _perpendicular(u)
    found = torch.where(_norm(u + v) < _ANTIPARALLEL, around, of_a * u + of_b * v)

    found = found * (_norm(widened(a)) * (1 - t) + _norm(widened(b)) * t)
    found = torch.where(t == 0, widened(a), torch.where(t == 1, widened(b), found))
    return found.to(torch.promote_types(a.dtype, b.dtype))


def text_direction(z_t: Tensor, z_t0: Tensor | None = None) -> Tensor:
    """z_d = norm(z_t - z_t0) ``[..., D]``: from the caption of z_t0 to that of z_t, unit norm.

    unCLIP (arXiv 2204.06125), section 3.3. Without z_t0 the direction is z_t itself.

    Raises:
        ValueError: the two are the same.
    """
    return _direction(z_t if z_t0 is None else widened(z_t) - widened(z_t0)).to(z_t.dtype)


def _direction(x: Tensor) -> Tensor:
    """``x`` at unit length, float64."""
    x = widened(x)
    length = _norm(x)
    if not ((length > 0) & length.isfinite()).all():
        raise ValueError("a vector is zero or not finite, so it has no direction")
    return x / length


def _norm(x: Tensor) -> Tensor:
    return x.norm(dim=-1, keepdim=True)


def _perpendicular(u: Tensor) -> Tensor:
    """A unit vector at right angles to the unit vectors ``u``: from its smallest coordinate."""
    axis = F.one_hot(u.abs().argmin(dim=-1), u.shape[-1]).to(u)
    rest = axis - (axis * u).sum(dim=-1, keepdim=True) * u
    return rest / _norm(rest)
