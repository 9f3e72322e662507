"""Names of Karlo's super-resolution networks, of which the second is for the last step.

The two are one network of ours with ``model.last_step``.
"""

from __future__ import annotations

from unclip.stages.upsampler.network import Upsampler
from unclip.weights.maps import unet
from unclip.weights.maps.rules import Rule, prefixed


def karlo(net: Upsampler) -> list[Rule]:
    """Rules of ``state_dict`` in ``improved-sr-ckpt-step=1.2M.ckpt``."""
    first = prefixed(unet.original(net.unet), theirs="model_first_steps.", ours="unet.")
    return first + prefixed(unet.original(net.last), theirs="model_last_step.", ours="last.")


def diffusers(net: Upsampler) -> list[Rule]:
    """Rules of the components' weights, each name with its component's and a dot before it."""
    rules = prefixed(unet.diffusers(net.unet), theirs="super_res_first.", ours="unet.")
    if net.config.last_step:
        rules += prefixed(unet.diffusers(net.last), theirs="super_res_last.", ours="last.")
    return rules
