"""The whole system, from its artifacts: text to image, and what an image's latents are for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from unclip.common.errors import UserError
from unclip.common.seeds import require_seed
from unclip.common.types import Progress
from unclip.pipeline import inpainting, manipulations
from unclip.pipeline.cascade import Cascade, load_cascade, open_folder
from unclip.pipeline.inpainting import Masks
from unclip.pipeline.inputs import Images, caption_of, captions_of, listed, one, seeds_of
from unclip.pipeline.manipulations import Given, Latents
from unclip.pipeline.sampling import Generated, Sampling
from unclip.pipeline.settings import Settings
from unclip.pipeline.typographic import Attacked, typographic


class Pipeline:
    """The whole cascade, without Lightning. Seeds are explicit; nothing else is random.

    Every method works in batches of ``settings.batch`` and tells ``progress`` of the sampling steps
    of all of them. Images go in in any size and form (see `unclip.pipeline.images`), and are
    cut to their middle square as in training; where `Given` is taken, so are `Latents` of them.
    They come out as `Generated`: ``small`` at the decoder's size, which is what an inversion is
    judged by, and ``image`` after the upsamplers, whose noise depends on the seed alone.

    A prior is needed by what starts from a caption, `generate` and `inpaint`, and only if the
    decoder takes image embeddings. The PCA is needed by `pca_reconstructions` alone.
    """

    def __init__(self, cascade: Cascade):
        self.cascade = cascade

    @classmethod
    def load(
        cls,
        folder: Path | str,
        device: torch.device | str = "cpu",
        precision: str = "32",
        offload: str = "none",
        compile: str = "none",
        adapters: Sequence[str] = (),
    ) -> Pipeline:
        """From a cascade's folder (see `unclip.pipeline.cascade.open_folder`)."""
        return cls(open_folder(folder, device, precision, offload, compile, adapters))

    @classmethod
    def from_artifacts(
        cls,
        *,
        clip: Path | str | None,
        decoder: Path | str,
        prior: Path | str | None = None,
        upsamplers: Sequence[Path | str] = (),
        pca: Path | str | None = None,
        device: torch.device | str = "cpu",
        precision: str = "32",
        offload: str = "none",
        compile: str = "none",
        adapters: Sequence[str] = (),
    ) -> Pipeline:
        """From separate artifacts (see `unclip.pipeline.cascade.load_cascade`)."""
        return cls(
            load_cascade(
                clip=clip,
                decoder=decoder,
                prior=prior,
                upsamplers=upsamplers,
                pca=pca,
                device=device,
                precision=precision,
                offload=offload,
                compile=compile,
                adapters=adapters,
            )
        )

    def generate(
        self,
        captions: Sequence[str],
        seeds: Sequence[int],
        *,
        settings: Settings | None = None,
        progress: Progress | None = None,
    ) -> Generated:
        """One image ``[B, ...]`` per (caption, seed); an image depends on its own pair alone.

        Raises:
            UserError: no captions, another number of seeds, or settings that do not fit a stage.
        """
        captions, seeds = captions_of(captions), seeds_of(seeds)
        if len(captions) != len(seeds) or not captions:
            raise UserError(
                f"captions: {len(captions)}, seeds: {len(seeds)}: give one seed per caption, at "
                "least one of each"
            )
        return Sampling(self.cascade, settings, progress).generate(captions, seeds)

    def encode(
        self,
        images: Images,
        *,
        settings: Settings | None = None,
        progress: Progress | None = None,
    ) -> Latents:
        """CLIP's z_i ``[B, D]`` and the x_T ``[B, 3, s, s]`` from which DDIM draws the images.

        The inversion is that of the decoder given z_i and no caption, in as many steps and with
        the same guidance as in `reconstruct`, if the settings are the same.
        """
        return manipulations.encode(Sampling(self.cascade, settings, progress, 0.0), images)

    def reconstruct(
        self,
        latents: Latents,
        *,
        seed: int = 0,
        settings: Settings | None = None,
        progress: Progress | None = None,
    ) -> Generated:
        """The images ``[B, ...]`` of `encode`, by DDIM, η = 0; ``seed`` is the upsamplers'."""
        require_seed(seed, "seed")
        return manipulations.reconstruct(
            Sampling(self.cascade, settings, progress, 0.0), latents, seed
        )

    def vary(
        self,
        images: Given,
        eta: float,
        seeds: Sequence[int],
        *,
        settings: Settings | None = None,
        progress: Progress | None = None,
    ) -> Generated:
        """Variations ``[B, n, ...]`` of each image, one per seed.

        They keep z_i, and of the rest the less the higher ``eta`` in [0, 1] is: with 0 all are the
        reconstruction.
        """
        one("eta", eta, float)
        seeds = seeds_of(seeds)
        return manipulations.vary(Sampling(self.cascade, settings, progress, eta), images, seeds)

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
        """Images ``[B, n, ...]`` from each of ``a`` to its partner in ``b``, ends included.

        z_i goes along the great circle. With ``noise`` "slerp" x_T does as well, so that the ends
        are the reconstructions; with "fixed" it is drawn from ``seed``, which also is the
        upsamplers'.
        """
        one("n", n, int)
        require_seed(seed, "seed")
        sampling = Sampling(self.cascade, settings, progress, 0.0)
        return manipulations.interpolate(sampling, a, b, n, noise, seed)

    def text_diff(
        self,
        images: Given,
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
        """Images ``[B, n, ...]`` edited from the caption ``source`` towards ``target``.

        z_i goes the part θ of the way to an aim, with n values of θ from 0, which is the
        reconstruction, to ``theta_max``. ``source`` is a caption of the image, a dummy such as
        "a photo", or None.

        With ``direction`` "text", the paper's, the aim is norm(z_t - z_t0), without a source z_t
        itself, and ``theta_max`` is 0.4 if not given. With "prior", which goes beyond the paper, it
        is z_i moved by the difference between the prior's mean embeddings for the two captions,
        without a source the mean for ``target``, and ``theta_max`` is 1.
        """
        caption_of(target, "target")
        one("n", n, int)
        require_seed(seed, "seed")
        if source is not None:
            caption_of(source, "source")
        if theta_max is not None:
            one("theta_max", theta_max, float)
        sampling = Sampling(self.cascade, settings, progress, 0.0)
        return manipulations.text_diff(
            sampling, images, source, target, theta_max, n, seed, direction
        )

    def pca_reconstructions(
        self,
        images: Images,
        dims: Sequence[int],
        *,
        seed: int = 0,
        settings: Settings | None = None,
        progress: Progress | None = None,
    ) -> Generated:
        """Images ``[B, len(dims), ...]`` of the first so many principal components of z_i.

        All are decoded with DDIM from the one x_T of ``seed``.
        """
        dims = listed("dims", dims, int)
        require_seed(seed, "seed")
        sampling = Sampling(self.cascade, settings, progress, 0.0)
        return manipulations.pca_reconstructions(sampling, images, dims, seed)

    def typographic(
        self,
        images: Images,
        word: str,
        labels: Sequence[str],
        *,
        eta: float = 1.0,
        seeds: Sequence[int] = (0, 1, 2),
        settings: Settings | None = None,
        progress: Progress | None = None,
    ) -> Attacked:
        """What CLIP takes images for once ``word`` is pasted on them, and their variations."""
        one("word", word, str)
        one("eta", eta, float)
        labels, seeds = listed("labels", labels, str), seeds_of(seeds)
        sampling = Sampling(self.cascade, settings, progress, eta)
        return typographic(sampling, images, word, labels, seeds)

    def inpaint(
        self,
        images: Images,
        masks: Masks,
        captions: Sequence[str],
        seeds: Sequence[int],
        *,
        resample: int | None = None,
        settings: Settings | None = None,
        progress: Progress | None = None,
    ) -> Generated:
        """Images ``[B, ...]`` drawn by caption as in `generate`, but where a mask is True kept.

        ``captions`` say what the whole image is to show: z_i is the prior's. Kept pixels are
        returned as they are, ``small`` and ``image`` each in its size. ``resample`` is how often
        the decoder goes through each noise level (RePaint, arXiv 2201.09865), to fit the new part
        to the old one: five times if None. A decoder with ``model.inpaint`` was trained to do it
        and does without RePaint if None.
        """
        captions, seeds = captions_of(captions), seeds_of(seeds)
        if resample is not None:
            one("resample", resample, int)
        sampling = Sampling(self.cascade, settings, progress)
        return inpainting.inpaint(sampling, images, masks, captions, seeds, resample)
