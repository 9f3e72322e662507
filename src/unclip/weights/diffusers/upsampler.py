"""UNet2DModel, once or twice: Karlo's super-resolution networks."""

from __future__ import annotations

from typing import Any

from unclip.common.errors import UserError
from unclip.nn.config import ConvUNetConfig
from unclip.weights.diffusers.components import DECODER, UPSAMPLER, Components
from unclip.weights.diffusers.unet import DOWN, UP, shape_of
from unclip.weights.found import Found
from unclip.weights.karlo_experiments import upsampler_experiment
from unclip.weights.maps import upsampler as upsampler_map


def read_upsampler(parts: Components, folders: list[str], half: bool) -> Found:
    """An upsampler; of two folders the second is for the last step."""
    source = parts.source
    first, *last = sorted(folders, key=lambda f: (f.endswith("last"), f))
    chain = parts.chain(UPSAMPLER, first)
    channels = 6 if chain.diffusion.learns_variance else 3
    each = [_upsampler_shape(parts, folder, channels) for folder in folders]
    if each[0] != each[-1]:
        raise UserError(
            f"{source.where(last[0])}: config.json: differs from that of {first}; both "
            "must be of one shape"
        )
    size, shape = each[0]
    decoders = parts.of(DECODER)
    low = parts.settings(decoders[0]).get("sample_size", int) if decoders else size // 4

    def state() -> dict[str, Any]:
        pairs = [("super_res_first", first), *(("super_res_last", name) for name in last)]
        return {f"{n}.{k}": v for n, f in pairs for k, v in source.state(f, half=half).items()}

    return Found(
        source.where(first),
        upsampler_experiment(size, low, bool(last), ConvUNetConfig(**shape), chain),
        upsampler_map.diffusers,
        state,
        settings=parts.settings_of(
            UPSAMPLER, **dict(zip(("super_res_first", "super_res_last"), (first, *last)))
        ),
        places=dict(zip(("super_res_last.",), map(source.where, last))),
    )


def _upsampler_shape(parts: Components, folder: str, channels: int) -> tuple[int, dict[str, Any]]:
    s = parts.settings(folder)
    down, up = ({k: v for k, v in kinds.items() if not v} for kinds in (DOWN, UP))
    shape = shape_of(s, down, up)
    del shape["levels"]
    size = s.get("sample_size", int)
    s.fixed(
        in_channels=6,
        out_channels=channels,
        add_attention=False,
        mid_block_type="UNetMidBlock2D",
        downsample_type="conv",
        upsample_type="conv",
    )
    s.ignored("attention_head_dim", "num_train_timesteps")
    s.finish()
    return size, shape
