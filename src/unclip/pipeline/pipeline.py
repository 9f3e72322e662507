"""The whole system, from its artifacts: text to picture, and what a picture's latents are for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from unclip.common.errors import UserError
from unclip.common.types import Progress
from unclip.embeddings.clip import FrozenClip
from unclip.embeddings.codec import Codec
from unclip.pipeline import inpainting, manipulations
from unclip.pipeline.inpainting import Masks
from unclip.pipeline.inputs import Pictures
from unclip.pipeline.manipulations import Given, Latents
from unclip.pipeline.sampling import Generated, Sampling
from unclip.pipeline.settings import Settings
from unclip.pipeline.typographic import Attacked, typographic
from unclip.stages._part import Part, load_prior
from unclip.stages.clip.part import load_clip
from unclip.stages.decoder.part import load_decoder
from unclip.stages.pca.part import load_codec
from unclip.stages.upsampler.part import load_upsampler


class Pipeline:
    """The whole cascade, without Lightning. Seeds are explicit; nothing else is random.

    Every method works in batches of ``settings.batch`` and tells ``progress`` of the sampling steps
    of all of them. Pictures go in in any size and form (see `unclip.pipeline.pictures`), and are
    cut to their middle square as in training; where `Given` is taken, so are `Latents` of them.
    They come out as `Generated`: ``small`` at the decoder's size, which is what an inversion is
    judged by, and ``image`` after the upsamplers, whose noise depends on the seed alone.

    A prior is needed by what starts from a caption, `generate` and `inpaint`, and only if the
    decoder takes image embeddings; by those who do not, it is refused. ``codec`` is needed by
    `pca_reconstructions` alone.
    """

    def __init__(
        self,
        clip: FrozenClip,
        prior: Part | None,
        decoder: Part,
        upsamplers: Sequence[Part] = (),
        device: torch.device | str = "cpu",
        codec: Codec | None = None,
    ):
        if prior is not None and decoder.embedding != "image":
            raise UserError(
                "prior: the decoder takes no image embeddings, so a prior has no part in it"
            )
        self.clip = clip
        self.prior = prior
        self.decoder = decoder
        self.upsamplers = list(upsamplers)
        self.device = torch.device(device)
        for part in (*([prior] if prior else []), decoder, *upsamplers):
            part.net.to(self.device).eval().requires_grad_(False)
        clip.model.to(self.device)
        self.codec = codec and codec.to(self.device)

    @classmethod
    def load(cls, folder: Path | str, device: torch.device | str = "cpu") -> Pipeline:
        """From a folder with ``clip`` and ``decoder``, any ``upsampler*``, ``prior`` and ``pca``.

        Each is an artifact, or a run's folder with one inside. Upsamplers are applied in the order
        of their sizes.
        """
        root = Path(folder)
        if not root.is_dir():
            raise UserError(f"pipeline={folder}: no such folder; `make quickstart` makes one")
        missing = [name for name in ("clip", "decoder") if not (root / name).is_dir()]
        if missing:
            raise UserError(f"pipeline={folder}: {', '.join(missing)} missing in it")
        given = {name: root / name for name in ("prior", "pca") if (root / name).is_dir()}
        return cls.from_artifacts(
            clip=str(root / "clip"),
            decoder=root / "decoder",
            upsamplers=sorted(p for p in root.glob("upsampler*") if p.is_dir()),
            device=device,
            **given,
        )

    @classmethod
    def from_artifacts(
        cls,
        *,
        clip: str,
        decoder: Path | str,
        prior: Path | str | None = None,
        upsamplers: Sequence[Path | str] = (),
        pca: Path | str | None = None,
        device: torch.device | str = "cpu",
    ) -> Pipeline:
        """From separate artifacts; those of different CLIPs refuse each other.

        ``prior`` is not looked at where the decoder takes no image embeddings.
        """
        frozen = load_clip(clip)
        drawing = load_decoder(decoder, frozen)
        if drawing.embedding != "image":
            prior = None
        return cls(
            frozen,
            None if prior is None else load_prior(prior, frozen),
            drawing,
            sorted((load_upsampler(u) for u in upsamplers), key=lambda p: p.net.config.image_size),
            device,
            None if pca is None else load_codec(pca, frozen),
        )

    def generate(
        self,
        captions: Sequence[str],
        seeds: Sequence[int],
        *,
        settings: Settings | None = None,
        progress: Progress | None = None,
    ) -> Generated:
        """One picture ``[B, ...]`` per (caption, seed); a picture depends on its own pair alone."""
        if len(captions) != len(seeds):
            raise ValueError(f"{len(captions)} captions, {len(seeds)} seeds")
        return Sampling(self, settings, progress).generate(captions, seeds)

    def encode(
        self,
        pictures: Pictures,
        *,
        settings: Settings | None = None,
        progress: Progress | None = None,
    ) -> Latents:
        """CLIP's z_i ``[B, D]`` and the x_T ``[B, 3, s, s]`` from which DDIM draws the pictures.

        The inversion is that of the decoder given z_i and no caption, in as many steps and with
        the same guidance as in `reconstruct`, if the settings are the same.
        """
        return manipulations.encode(Sampling(self, settings, progress, 0.0), pictures)

    def reconstruct(
        self,
        latents: Latents,
        *,
        seed: int = 0,
        settings: Settings | None = None,
        progress: Progress | None = None,
    ) -> Generated:
        """The pictures ``[B, ...]`` of `encode`, by DDIM, η = 0; ``seed`` is the upsamplers'."""
        return manipulations.reconstruct(Sampling(self, settings, progress, 0.0), latents, seed)

    def vary(
        self,
        pictures: Given,
        eta: float,
        seeds: Sequence[int],
        *,
        settings: Settings | None = None,
        progress: Progress | None = None,
    ) -> Generated:
        """Variations ``[B, n, ...]`` of each picture, one per seed.

        They keep z_i, and of the rest the less the higher ``eta`` in [0, 1] is: with 0 all are the
        reconstruction.
        """
        return manipulations.vary(Sampling(self, settings, progress, eta), pictures, seeds)

    def interpolate(
        self,
        a: Given,
        b: Given,
        n: int,
        *,
        noise: str = "slerp",
        seed: int = 0,
        settings: Settings | None = None,
        progress: Progress | None = None,
    ) -> Generated:
        """Pictures ``[B, n, ...]`` from each of ``a`` to its partner in ``b``, ends included.

        z_i goes along the great circle. With ``noise`` "slerp" x_T does as well, so that the ends
        are the reconstructions; with "fixed" it is drawn from ``seed``, which also is the
        upsamplers'.
        """
        sampling = Sampling(self, settings, progress, 0.0)
        return manipulations.interpolate(sampling, a, b, n, noise, seed)

    def text_diff(
        self,
        pictures: Given,
        source: str | None,
        target: str,
        theta_max: float | None = None,
        n: int = 5,
        *,
        direction: str = "text",
        seed: int = 0,
        settings: Settings | None = None,
        progress: Progress | None = None,
    ) -> Generated:
        """Pictures ``[B, n, ...]`` edited from the caption ``source`` towards ``target``.

        z_i goes the part θ of the way to an aim, with n values of θ from 0, which is the
        reconstruction, to ``theta_max``. ``source`` is a caption of the picture, a dummy such as
        "a photo", or None.

        With ``direction`` "text", the paper's, the aim is norm(z_t - z_t0), without a source z_t
        itself, and ``theta_max`` is 0.4 if not given. With "prior", which goes beyond the paper, it
        is z_i moved by the difference between the prior's mean embeddings for the two captions,
        without a source the mean for ``target``, and ``theta_max`` is 1.
        """
        sampling = Sampling(self, settings, progress, 0.0)
        return manipulations.text_diff(
            sampling, pictures, source, target, theta_max, n, seed, direction
        )

    def pca_reconstructions(
        self,
        pictures: Pictures,
        dims: Sequence[int],
        *,
        seed: int = 0,
        settings: Settings | None = None,
        progress: Progress | None = None,
    ) -> Generated:
        """Pictures ``[B, len(dims), ...]`` of the first so many principal components of z_i.

        All are decoded with DDIM from the one x_T of ``seed``.
        """
        sampling = Sampling(self, settings, progress, 0.0)
        return manipulations.pca_reconstructions(sampling, pictures, dims, seed)

    def typographic(
        self,
        pictures: Pictures,
        word: str,
        labels: Sequence[str],
        *,
        eta: float = 1.0,
        seeds: Sequence[int] = (0, 1, 2),
        settings: Settings | None = None,
        progress: Progress | None = None,
    ) -> Attacked:
        """What CLIP takes pictures for once ``word`` is pasted on them, and their variations."""
        sampling = Sampling(self, settings, progress, eta)
        return typographic(sampling, pictures, word, labels, seeds)

    def inpaint(
        self,
        pictures: Pictures,
        masks: Masks,
        captions: Sequence[str],
        seeds: Sequence[int],
        *,
        resample: int = 5,
        settings: Settings | None = None,
        progress: Progress | None = None,
    ) -> Generated:
        """Pictures ``[B, ...]`` drawn by caption as in `generate`, but where a mask is True kept.

        ``captions`` say what the whole picture is to show: z_i is the prior's. Kept pixels are
        returned as they are, ``small`` and ``image`` each in its size. ``resample`` is how often
        the decoder goes through each noise level (RePaint, arXiv 2201.09865), to fit the new part
        to the old one.
        """
        sampling = Sampling(self, settings, progress)
        return inpainting.inpaint(sampling, pictures, masks, captions, seeds, resample)

    @torch.no_grad()
    def embed_captions(self, captions: Sequence[str]) -> Tensor:
        """z_t ``[B, D]``, unit norm."""
        clip = self.clip.model
        return clip.encode_text(clip.tokenize(list(captions)).to(self.device)).z_t
