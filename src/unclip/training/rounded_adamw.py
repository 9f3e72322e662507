"""AdamW for weights in bfloat16, rounded stochastically.

bfloat16 has 8 bits: rounded to the nearest, a weight of 0.05 is not changed by a step below 1e-4,
and an average of squares that forgets a thousandth at a time never falls. Rounded up with a
probability of the distance from below, both are right on average (arXiv 2010.06192).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from unclip.common.seeding import generator


def rounded(x: Tensor, rng: torch.Generator) -> Tensor:
    """``x``, float32, in bfloat16: one of its two neighbours, whose expectation is ``x``."""
    noise = torch.randint(1 << 16, x.shape, dtype=torch.int32, device=x.device, generator=rng)
    return ((x.view(torch.int32) + noise) & -(1 << 16)).view(torch.float32).to(torch.bfloat16)


class RoundedAdamW(torch.optim.Optimizer):
    """Decoupled weight decay (arXiv 1711.05101), computed in float32 a tensor at a time.

    Weights and both moments are kept in the weights' own type. Replicas round alike, by the seed
    and the step.
    """

    def __init__(self, groups: Iterable[Any], seed: int, **settings: Any):
        self.seed = seed
        super().__init__(groups, {**settings, "step": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step over all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for number, group in enumerate(self.param_groups):
            group["step"] += 1
            given = [parameter for parameter in group["params"] if parameter.grad is not None]
            if given:
                device = given[0].device
                rng = generator("rounding", self.seed, group["step"], number, device=device)
                for parameter in given:
                    self._update(parameter, group, rng)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any], rng: torch.Generator) -> None:
        assert parameter.grad is not None
        (beta_1, beta_2), t = group["betas"], group["step"]
        state = self.state[parameter]
        if not state:
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        g, w = parameter.grad.float(), parameter.float()
        m = torch.lerp(state["exp_avg"].float(), g, 1 - beta_1)
        v = torch.lerp(state["exp_avg_sq"].float(), g * g, 1 - beta_2)
        scale = (v / (1 - beta_2**t)).sqrt_().add_(group["eps"])
        w = w * (1 - group["lr"] * group["weight_decay"])
        w.addcdiv_(m, scale, value=-group["lr"] / (1 - beta_1**t))
        for kept, value in ((parameter, w), (state["exp_avg"], m), (state["exp_avg_sq"], v)):
            kept.copy_(rounded(value, rng) if kept.dtype == torch.bfloat16 else value)
