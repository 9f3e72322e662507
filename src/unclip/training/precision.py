"""In which numbers a stage trains: mixed precision, its loss scale, and weights in bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.plugins.precision import Precision as Plugin
from torch import nn

from unclip.common.errors import UserError
from unclip.training.config import TrainerConfig
from unclip.training.muon import layers
from unclip.training.world import World

_LEAST_SCALE = 1.0
"""Below it a gradient itself, not its multiple, is more than float16 holds (65504)."""
_BFLOAT16_SINCE = (8, 0)
"""The compute capability, NVIDIA's Ampere; older GPUs emulate bfloat16, slower than float32."""


def build(config: TrainerConfig, device: torch.device) -> Plugin:
    """How Lightning runs forward and backward passes of ``trainer.precision``."""
    if config.precision == "32":
        return Plugin()
    if config.precision == "16-mixed":
        return LossScaling(device, config.loss_scale)
    return MixedPrecision("bf16-mixed", device.type)


class LossScaling(MixedPrecision):
    """Float16 products: the loss is multiplied by a scale, so that small gradients are not lost.

    A step whose gradient overflows is skipped on all processes: weights, moments and average stay
    and the scale is halved; after 2000 steps without an overflow it is doubled (arXiv 1710.03740,
    section 3.2). The step counts, for its data and for the learning rate. Whether it is skipped the
    host must know, so it waits for the device once per step.
    """

    def __init__(self, device: torch.device, scale: float):
        scaler = torch.amp.GradScaler(device.type, init_scale=scale)
        super().__init__("16-mixed", device.type, scaler)
        self.gradients: torch.amp.GradScaler = scaler
        self.skipped = 0  # steps, from the run's start
        self.skips = False  # whether the newest step was skipped

    @property
    def scale(self) -> float:
        """That multiplies the next step's loss."""
        return self.gradients.get_scale()

    def connect(self, model: Any, optimizers: Any, lr_schedulers: Any) -> Any:
        """Have gradients unscaled before they are clipped, which fused optimizers would not."""
        for optimizer in optimizers:
            optimizer._step_supports_amp_scaling = False
        return super().connect(model, optimizers, lr_schedulers)

    def optimizer_step(  # type: ignore[override]  # as of Lightning's own class
        self, optimizer: Any, model: Any, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        """One step, or none when a gradient overflowed.

        Raises:
            UserError: the gradient itself overflows, whatever multiplies the loss.
        """
        before = self.scale
        found = super().optimizer_step(optimizer, model, closure, **kwargs)
        self.skips = self.scale < before
        self.skipped += self.skips
        if self.skips and self.scale < _LEAST_SCALE:
            line = (
                f"step {model.global_step + 1}: trainer.precision=16-mixed: the loss or its "
                f"gradient overflows float16 at every scale, {self.skipped} steps were skipped; "
                "start a new run with a lower optim.lr, or with trainer.precision=bf16-mixed or 32"
            )
            raise World.here().exit_for(UserError(line))
        return found

    def state_dict(self) -> dict[str, Any]:
        """The scale, and since when it has not changed: a resumed run skips the same steps."""
        return {**super().state_dict(), "skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The same, read."""
        self.skipped = state_dict.pop("skipped")
        super().load_state_dict(state_dict)


def require_supported(config: TrainerConfig, device: torch.device) -> None:
    """Refuse a precision that ``device`` does not compute in.

    Raises:
        UserError: it does not; the line says what to use.
    """
    if not config.precision.startswith("bf16") or device.type != "cuda":
        return
    if torch.cuda.get_device_capability(device) < _BFLOAT16_SINCE:
        name = torch.cuda.get_device_name(device)
        raise UserError(
            f"trainer.precision={config.precision}: {name} has no bfloat16; use "
            "trainer.precision=16-mixed"
        )


def to_bfloat16(net: nn.Module) -> None:
    """Keep the weights of linear layers and convolutions in bfloat16.

    Biases, gains, tables and buffers, a few percent, stay float32, as what they begin does: the
    residual stream.
    """
    for weight in layers(net):
        weight.data = weight.data.to(torch.bfloat16)
