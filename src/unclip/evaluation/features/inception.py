"""The Inception of FID: TensorFlow's graph of 2015-12-05, by torch-fidelity.

2,048 pooled features and 1,008 logits without their bias. It resizes to 299 px as TensorFlow 1 did
(bilinear, no antialiasing, corner at 0); pixels become (x - 128) / 128.
"""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path

import torch
from torch import Tensor

from unclip.common.errors import UserError
from unclip.evaluation.features.network import Encoded, FeatureNetwork, Weights, read_weights

KEY = "--features inception:"


def open_inception(weights: Weights) -> FeatureNetwork:
    """Inception of a local file, or of torch-fidelity's, downloaded once and then cached."""
    try:
        from torch_fidelity import feature_extractor_inceptionv3 as theirs
    except ImportError:
        raise UserError(f"{KEY} needs `pip install 'unclip[evaluation]'`") from None
    file = weights.file or _downloaded(theirs.URL_INCEPTION_V3)
    _, sha256 = read_weights(file, KEY)  # torch-fidelity itself would run code in the file
    try:
        network = theirs.FeatureExtractorInceptionV3(
            "inception",
            ["2048", "logits_unbiased"],
            feature_extractor_weights_path=str(file),
            feature_extractor_internal_dtype=f"float{weights.precision}",
        ).to(weights.device)
    except RuntimeError as error:
        first = " ".join(str(error).split())[:150]
        raise UserError(f"{KEY} {file}: weights of another network: {first}") from None

    def encode(image: Tensor) -> Encoded:
        features, logits = network(image)
        return Encoded(features, logits)

    return FeatureNetwork(
        name="inception",
        title="Inception",
        sha256=sha256,
        dim=2048,
        classes=1008,
        resize="TensorFlow 1 bilinear to 299",
        precision=weights.precision,
        device=weights.device,
        encode=encode,
    )


def _downloaded(url: str) -> Path:
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not file.exists():
        try:
            with redirect_stdout(io.StringIO()):
                torch.hub.load_state_dict_from_url(url, check_hash=True, weights_only=True)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"{KEY} weights cannot be downloaded ({error}); fetch {url} elsewhere and give "
                "--features inception@FILE"
            ) from None
    return file
