"""GLIDE's networks by their formulas, one function for every option that its classes have.

Written from the layers and names that ``text2im_model.py``, ``unet.py`` and ``xf.py`` of
openai/glide-text2im describe; checked by the goldens of its own classes. Tensors are made where the
state dict lacks them, so that a first call of an option makes its file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

OPTIONS: dict[str, Any] = dict(
    in_channels=3,
    out_channels=6,
    model_channels=8,
    num_res_blocks=1,
    channel_mult=[1, 2],
    attention_resolutions=[2],
    num_heads=1,
    num_head_channels=4,
    use_scale_shift_norm=True,
    resblock_updown=True,
    text_ctx=6,
    xf_width=8,
    xf_layers=1,
    xf_heads=2,
    xf_final_ln=True,
    xf_padding=True,
    xf_ar=0.0,
    n_vocab=264,
    norm_groups=4,
)


@dataclass
class Glide:
    """A network of ``options``; ``state`` gets the tensors that it lacks, all random."""

    options: dict[str, Any]
    state: dict[str, Tensor] = field(default_factory=dict)
    rng: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def get(self, name: str, *shape: int) -> Tensor:
        if name not in self.state:
            made = torch.randn(shape, generator=self.rng) / max(1, math.prod(shape[1:])) ** 0.5
            self.state[name] = made + (1 if "norm" in name or "ln_" in name else 0)
        assert self.state[name].shape == shape, name
        return self.state[name].double()

    def linear(self, x: Tensor, name: str, width: int) -> Tensor:
        weight = self.get(f"{name}.weight", width, x.shape[-1])
        return F.linear(x, weight, self.get(f"{name}.bias", width))

    def layer_norm(self, x: Tensor, name: str) -> Tensor:
        width = x.shape[-1]
        weight, bias = self.get(f"{name}.weight", width), self.get(f"{name}.bias", width)
        return F.layer_norm(x, (width,), weight, bias)

    def group_norm(self, x: Tensor, name: str) -> Tensor:
        width = x.shape[1]
        weight, bias = self.get(f"{name}.weight", width), self.get(f"{name}.bias", width)
        return F.group_norm(x, self.options["norm_groups"], weight, bias)

    def conv(self, x: Tensor, name: str, width: int, side: int = 3, stride: int = 1) -> Tensor:
        weight = self.get(f"{name}.weight", width, x.shape[1], *[side] * (x.ndim - 2))
        bias = self.get(f"{name}.bias", width)
        if x.ndim == 3:
            return F.conv1d(x, weight, bias)
        return F.conv2d(x, weight, bias, padding=side // 2, stride=stride)

    def text(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        o, (batch, length) = self.options, tokens.shape
        width, heads = o["xf_width"], o["xf_heads"]
        x = self.get("token_embedding.weight", o["n_vocab"], width)[tokens]
        x = x + self.get("positional_embedding", o["text_ctx"], width)
        if o["xf_padding"]:
            padding = self.get("padding_embedding", o["text_ctx"], width)
            x = torch.where(mask[..., None], x, padding)
        for layer in range(o["xf_layers"]):
            at = f"transformer.resblocks.{layer}"
            qkv = self.linear(self.layer_norm(x, f"{at}.ln_1"), f"{at}.attn.c_qkv", 3 * width)
            q, k, v = qkv.view(batch, length, heads, -1).transpose(1, 2).chunk(3, dim=-1)
            h = ((q @ k.mT) / q.shape[-1] ** 0.5).softmax(-1) @ v
            x = x + self.linear(h.transpose(1, 2).flatten(2), f"{at}.attn.c_proj", width)
            h = self.linear(self.layer_norm(x, f"{at}.ln_2"), f"{at}.mlp.c_fc", 4 * width)
            x = x + self.linear(F.gelu(h), f"{at}.mlp.c_proj", width)
        if o["xf_final_ln"]:
            x = self.layer_norm(x, "final_ln")
        if o["xf_ar"]:
            self.get("unemb.weight", o["n_vocab"], width)
            self.get("unemb.bias", o["n_vocab"])
        return x, self.linear(x[:, -1], "transformer_proj", 4 * o["model_channels"])

    def block(self, x: Tensor, time: Tensor, name: str, width: int, resample: str = "") -> Tensor:
        h = F.silu(self.group_norm(x, f"{name}.in_layers.0"))
        if resample == "down":
            h, x = F.avg_pool2d(h, 2), F.avg_pool2d(x, 2)
        if resample == "up":
            h, x = (F.interpolate(y, scale_factor=2) for y in (h, x))
        h = self.conv(h, f"{name}.in_layers.2", width)
        shifts = self.options["use_scale_shift_norm"]
        given = self.linear(F.silu(time), f"{name}.emb_layers.1", (1 + shifts) * width)
        given = given[:, :, None, None]
        if shifts:
            scale, shift = given.chunk(2, dim=1)
            h = self.group_norm(h, f"{name}.out_layers.0") * (1 + scale) + shift
        else:
            h = self.group_norm(h + given, f"{name}.out_layers.0")
        h = self.conv(F.silu(h), f"{name}.out_layers.3", width)
        if x.shape[1] != width:
            x = self.conv(x, f"{name}.skip_connection", width, side=1)
        return x + h

    def attention(self, x: Tensor, words: Tensor | None, name: str) -> Tensor:
        o, (batch, width) = self.options, x.shape[:2]
        heads = o["num_heads"] if o["num_head_channels"] == -1 else width // o["num_head_channels"]

        def by_head(y: Tensor, parts: int) -> tuple[Tensor, ...]:
            return y.view(batch, heads, -1, y.shape[-1]).mT.chunk(parts, dim=-1)

        h = self.group_norm(x, f"{name}.norm").flatten(2)
        q, k, v = by_head(self.conv(h, f"{name}.qkv", 3 * width, side=1), 3)
        if words is not None:
            more = self.conv(words.mT, f"{name}.encoder_kv", 2 * width, side=1)
            k, v = (torch.cat(pair, dim=2) for pair in zip(by_head(more, 2), (k, v)))
        h = ((q @ k.mT) / q.shape[-1] ** 0.5).softmax(-1) @ v
        h = self.conv(h.mT.flatten(1, 2), f"{name}.proj_out", width, side=1)
        return x + h.view_as(x)

    def __call__(self, x: Tensor, t: Tensor, tokens: Tensor | None, mask: Tensor | None) -> Tensor:
        """``x`` has all input channels, those beside x_t too."""
        o, channels = self.options, self.options["model_channels"]
        half = channels // 2
        frequencies = (-math.log(10000) * torch.arange(half, dtype=torch.float32) / half).exp()
        angles = t[:, None].float() * frequencies  # in float32, whatever the network's precision
        time = torch.cat([angles.cos(), angles.sin()], dim=-1).double()
        time = F.silu(self.linear(time, "time_embed.0", 4 * channels))
        time = self.linear(time, "time_embed.2", 4 * channels)
        words = None
        if o["xf_width"]:
            words, offset = self.text(tokens, mask)
            time = time + offset
        attended = [
            2**level in o["attention_resolutions"] for level in range(len(o["channel_mult"]))
        ]
        first = width = o["channel_mult"][0] * channels
        x = self.conv(x, "input_blocks.0.0", width)
        skips, index, last = [x], 1, len(o["channel_mult"]) - 1
        for level, multiple in enumerate(o["channel_mult"]):
            width = multiple * channels
            for _ in range(o["num_res_blocks"]):
                x = self.block(x, time, f"input_blocks.{index}.0", width)
                if attended[level]:
                    x = self.attention(x, words, f"input_blocks.{index}.1")
                skips.append(x)
                index += 1
            if level < last:
                at = f"input_blocks.{index}.0"
                if o["resblock_updown"]:
                    x = self.block(x, time, at, width, "down")
                else:
                    x = self.conv(x, f"{at}.op", width, stride=2)
                skips.append(x)
                index += 1
        x = self.block(x, time, "middle_block.0", width)
        x = self.block(self.attention(x, words, "middle_block.1"), time, "middle_block.2", width)
        index = 0
        for level in range(last, -1, -1):
            width = o["channel_mult"][level] * channels
            for k in range(o["num_res_blocks"] + 1):
                x = torch.cat([x, skips.pop()], dim=1)
                x = self.block(x, time, f"output_blocks.{index}.0", width)
                if attended[level]:
                    x = self.attention(x, words, f"output_blocks.{index}.1")
                if level and k == o["num_res_blocks"]:
                    at = f"output_blocks.{index}.{1 + attended[level]}"
                    if o["resblock_updown"]:
                        x = self.block(x, time, at, width, "up")
                    else:
                        x = self.conv(F.interpolate(x, scale_factor=2), f"{at}.conv", width)
                index += 1
        assert not skips
        assert width == first
        return self.conv(F.silu(self.group_norm(x, "out.0")), "out.2", o["out_channels"])
