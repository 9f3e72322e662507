"""The shape of each network, as the experiment files give it. Imports no torch.

Defaults are the paper's (arXiv 2204.06125, table 3 and appendix C) unless a comment says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from unclip.diffusion.configs import SamplerConfig
from unclip.types import UserError


def require(condition: bool, key: str, message: str) -> None:
    """Raise a `UserError` that names ``key`` unless ``condition`` holds."""
    if not condition:
        raise UserError(f"{key}: {message}")


@dataclass(kw_only=True)
class ClipConfig:
    """A CLIP of our own, built as an open_clip model."""

    embed_dim: int = 1024  # D
    image_size: int = 256  # pixels a side
    vision: str = "vit"  # vit (the paper) | resnet (CLIP's, learns faster from little data)
    patch_size: int = 16  # pixels a side (vit)
    vision_stages: list[int] = field(default_factory=lambda: [3, 4, 6, 3])  # blocks (resnet)
    vision_width: int = 1280
    vision_layers: int = 32
    vision_head_width: int = 80  # channels per attention head
    context: int = 77  # tokens, start and end included
    vocabulary: int = 49408  # open_clip's byte-pair vocabulary
    text_width: int = 1024
    text_layers: int = 24
    text_heads: int = 16

    def validate(self) -> None:
        """Refuse shapes that no network can have."""
        resnet = self.vision == "resnet"
        require(self.vision in ("vit", "resnet"), "model.vision", "must be vit or resnet")
        require(len(self.vision_stages) == 4, "model.vision_stages", "must be four counts")
        require(
            not resnet or self.image_size % 32 == 0,
            "model.image_size",
            f"{self.image_size} is not a multiple of 32, by which a resnet reduces it",
        )
        require(
            resnet or self.image_size % self.patch_size == 0,
            "model.image_size",
            f"{self.image_size} is not a multiple of model.patch_size={self.patch_size}",
        )
        require(
            self.vision_width * (32 if resnet else 1) % self.vision_head_width == 0,
            "model.vision_head_width",
            f"does not divide the width of the attention, {self.vision_width}"
            + (" * 32" if resnet else ""),
        )
        require(
            self.text_width % self.text_heads == 0,
            "model.text_heads",
            f"does not divide model.text_width={self.text_width}",
        )
        require(self.vocabulary == 49408, "model.vocabulary", "must be 49408, the tokenizer's size")


@dataclass(kw_only=True)
class DiffusionPriorConfig:
    """The causal transformer that predicts the unnoised image embedding."""

    embed_dim: int | None = None  # D; null takes the CLIP's
    caption: str = "bpe"  # bpe (own token table, the paper) | clip (frozen CLIP token features)
    clip_text_width: int | None = None  # width of CLIP's token features; null takes the CLIP's
    context: int = 256  # caption tokens; with caption=clip at most the CLIP's own
    vocabulary: int = 49408
    width: int = 2048
    layers: int = 24
    heads: int = 32
    dropout: float = 0.0
    standardise: bool = False  # x0 of unit variance by fitted buffers, instead of a common scale

    def validate(self) -> None:
        """Refuse shapes that no network can have."""
        require(self.caption in ("bpe", "clip"), "model.caption", "must be bpe or clip")
        require(self.width % self.heads == 0, "model.heads", f"does not divide width={self.width}")
        require(0 <= self.dropout < 1, "model.dropout", "must be in [0, 1)")


@dataclass(kw_only=True)
class TextEncoderConfig:
    """The caption transformer of the decoder and the AR prior (GLIDE's: bidirectional)."""

    context: int = 256
    vocabulary: int = 49408
    width: int = 2048
    layers: int = 24
    heads: int = 32

    def validate(self) -> None:
        """Refuse shapes that no network can have."""
        require(
            self.width % self.heads == 0, "model.text.heads", f"does not divide width={self.width}"
        )


@dataclass(kw_only=True)
class ArPriorConfig:
    """The causal transformer over the PCA codes of the image embedding."""

    embed_dim: int | None = None  # D; null takes the PCA's
    caption: str = "bpe"  # bpe (own encoder, the paper) | clip (frozen CLIP token features)
    clip_text_width: int | None = None  # width of CLIP's token features; null takes the CLIP's
    codes: int | None = None  # K, components that are kept; null takes the PCA's
    buckets: int | None = None  # N per component; null takes the PCA's
    context: int = 384  # positions: z_t, the dot product and the codes
    width: int = 1664
    layers: int = 24
    heads: int = 26
    dropout: float = 0.0
    text: TextEncoderConfig = field(default_factory=TextEncoderConfig)  # of caption=bpe

    def validate(self) -> None:
        """Refuse shapes that no network can have."""
        self.text.validate()
        require(self.caption in ("bpe", "clip"), "model.caption", "must be bpe or clip")
        require(self.width % self.heads == 0, "model.heads", f"does not divide width={self.width}")
        require(0 <= self.dropout < 1, "model.dropout", "must be in [0, 1)")
        require(
            self.codes is None or self.codes + 2 <= self.context,
            "model.context",
            f"{self.context} cannot hold {self.codes} codes, z_t and the dot product",
        )


@dataclass(kw_only=True)
class UNetConfig:
    """An ADM U-Net (arXiv 2105.05233): the body shared by decoder and upsamplers."""

    channels: int = 512
    blocks: int = 3  # residual blocks per resolution
    multiples: list[int] = field(default_factory=lambda: [1, 2, 3, 4])
    attention: list[int] = field(default_factory=lambda: [32, 16, 8])  # sides with attention
    head_channels: int = 64
    dropout: float = 0.1
    norm_groups: int = 32  # of group normalisation; fewer where channels are few

    def validate(self) -> None:
        """Refuse shapes that no network can have."""
        require(len(self.multiples) > 0, "model.unet.multiples", "must not be empty")
        require(
            self.norm_groups > 0 and self.channels % self.norm_groups == 0,
            "model.unet.norm_groups",
            f"does not divide model.unet.channels={self.channels}",
        )
        require(0 <= self.dropout < 1, "model.unet.dropout", "must be in [0, 1)")
        if self.attention:
            require(
                self.channels % self.head_channels == 0,
                "model.unet.head_channels",
                f"does not divide channels={self.channels}",
            )


@dataclass(kw_only=True)
class DecoderConfig:
    """The 64 px diffusion decoder: GLIDE's U-Net with both CLIP paths."""

    image_size: int = 64  # pixels a side
    embed_dim: int | None = None  # D; null takes the CLIP's
    clip_tokens: int = 4  # extra context tokens made from z_i
    use_z_i: bool = True  # false: GLIDE, caption only
    use_caption: bool = True  # false: no caption transformer
    null_z_i: str = "zeros"  # zeros | learned: what stands for a dropped z_i
    unet: UNetConfig = field(default_factory=UNetConfig)
    text: TextEncoderConfig = field(default_factory=TextEncoderConfig)

    def validate(self) -> None:
        """Refuse shapes that no network can have."""
        self.unet.validate()
        self.text.validate()
        require(self.null_z_i in ("zeros", "learned"), "model.null_z_i", "must be zeros or learned")
        require(self.use_z_i or self.use_caption, "model.use_caption", "one condition must remain")
        factor = 2 ** (len(self.unet.multiples) - 1)
        require(
            self.image_size % factor == 0,
            "model.image_size",
            f"{self.image_size} is not a multiple of {factor}, which model.unet.multiples needs",
        )
        sides = [self.image_size >> level for level in range(len(self.unet.multiples))]
        for side in self.unet.attention:
            require(side in sides, "model.unet.attention", f"{side} is none of the sides {sides}")


@dataclass(kw_only=True)
class UpsamplerConfig:
    """A convolutional ADM U-Net conditioned on a low-resolution image."""

    image_size: int = 256  # pixels a side of the result
    low_size: int = 64  # pixels a side of the condition
    noise_levels: int = 0  # noise the condition to a timestep below this and tell it; 0 = never
    unet: UNetConfig = field(default_factory=lambda: UNetConfig(channels=320, attention=[]))

    def validate(self) -> None:
        """Refuse shapes that no network can have."""
        self.unet.validate()
        require(self.noise_levels >= 0, "model.noise_levels", "must not be negative")
        require(not self.unet.attention, "model.unet.attention", "must be [] in an upsampler")
        require(
            self.image_size % self.low_size == 0 and self.image_size > self.low_size,
            "model.low_size",
            f"{self.low_size} must divide model.image_size={self.image_size}",
        )


@dataclass(kw_only=True)
class UpsamplerSamplerConfig(SamplerConfig):
    """How pictures are drawn from an upsampler."""

    noise_level: int = 0  # timestep to which the condition is noised (model.noise_levels)

    def validate(self) -> None:
        """Refuse values out of range."""
        super().validate()
        require(self.guidance == 1, "sampler.guidance", "an upsampler has none, it must be 1")
        require(self.noise_level >= 0, "sampler.noise_level", "must not be negative")


@dataclass(kw_only=True)
class PriorSamplerConfig(SamplerConfig):
    """How embeddings are drawn from a prior."""

    candidates: int = 2  # drawn per caption; the one with the highest z_i . z_t is kept

    def validate(self) -> None:
        """Refuse values out of range."""
        super().validate()
        require(self.candidates >= 1, "sampler.candidates", "must be at least 1")


@dataclass(kw_only=True)
class ArSamplerConfig:
    """How embeddings are drawn from an autoregressive prior."""

    temperature: float = 1.0  # of the logits; 0 takes the likeliest code
    top_k: int = 0  # only among so many likeliest codes; 0 = all
    top_p: float = 1.0  # only among the fewest codes that hold this probability
    guidance: float = 1.0  # classifier-free guidance scale s on the logits; 1 is none
    dot_percentile: float = 50.0  # z_i . z_t is drawn from above it (the paper's best of 50 to 95)
    candidates: int = 1  # drawn per caption; the one with the highest z_i . z_t is kept

    def validate(self) -> None:
        """Refuse values out of range."""
        require(self.temperature >= 0, "sampler.temperature", "must not be negative")
        require(self.top_k >= 0, "sampler.top_k", "must not be negative")
        require(0 < self.top_p <= 1, "sampler.top_p", "must be in (0, 1]")
        require(self.guidance >= 0, "sampler.guidance", "must not be negative")
        require(0 <= self.dot_percentile < 100, "sampler.dot_percentile", "must be in [0, 100)")
        require(self.candidates >= 1, "sampler.candidates", "must be at least 1")


@dataclass(kw_only=True)
class PcaConfig:
    """The principal components of image embeddings and the buckets of their codes."""

    components: int | None = 319  # K (the paper); null chooses it by max_error
    max_error: float | None = None  # share of variance that may be lost, for example 0.01
    buckets: int = 1024  # N per component
    edges: str = "quantile"  # quantile (equally filled) | uniform (equally wide); paper is silent
    samples: int | None = None  # training samples that are used; null = all
    reservoir: int = 65_536  # embeddings kept in memory for the buckets' edges

    def validate(self) -> None:
        """Refuse values out of range."""
        both = (self.components is None) != (self.max_error is None)
        require(both, "pca.components", "give either this or pca.max_error, the other null")
        require(
            self.components is None or self.components >= 1, "pca.components", "must be at least 1"
        )
        require(
            self.max_error is None or 0 < self.max_error < 1, "pca.max_error", "must be in (0, 1)"
        )
        require(self.buckets >= 2, "pca.buckets", "must be at least 2")
        require(self.edges in ("quantile", "uniform"), "pca.edges", "must be quantile or uniform")
        require(self.samples is None or self.samples > 0, "pca.samples", "must be positive")
        require(self.reservoir >= 2, "pca.reservoir", "must be at least 2")
