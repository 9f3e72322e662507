"""What guided sampling saves: text read once for all steps, and guidance in an interval alone.

    python benchmarks/guided_sampling.py                  # prior and decoder, small, one thread
    python benchmarks/guided_sampling.py decoder --size m

Random networks of `throughput.py`'s sizes, 77 caption tokens. Four ways take turns in one process:
as the product samples (guidance 3), the same with the conditions computed in every step, guided
only at noise levels in [0.3, 3], and without guidance. A ratio is a way's processor time over the
first's: the median over the turns, with the least and the greatest. The first two must agree.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from networks import TOKENS, caption_inputs, experiment
from torch import Tensor

from unclip.common.seeding import SampleNoise
from unclip.common.types import Caption, Denoiser
from unclip.diffusion.config import GuidedSamplerConfig
from unclip.diffusion.predictor import build_guided_predictor
from unclip.diffusion.samplers import sample
from unclip.stages.decoder.network import Decoder
from unclip.stages.decoder.sampling import decoder_denoiser
from unclip.stages.decoder.words import Words
from unclip.stages.diffusion_prior.config import PriorSamplerConfig
from unclip.stages.diffusion_prior.network import DiffusionPrior
from unclip.stages.diffusion_prior.sampling import sample_prior

SAMPLES, GUIDANCE, INTERVAL = 4, 3.0, [0.3, 3.0]
Way = Callable[[], Tensor]


def noise() -> SampleNoise:
    return SampleNoise(range(SAMPLES))


def prior_ways(size: str, steps: int) -> dict[str, Way]:
    found = experiment("prior", size)
    model = found.model
    model.caption, model.context = "clip", TOKENS
    net = DiffusionPrior(model, model.width, model.width).eval()
    _, _, z_t, features, mask = caption_inputs(model.width)(SAMPLES)

    def draw(*, once: bool = True, **more: object) -> Tensor:
        given = {"guidance": GUIDANCE, "steps": steps, "candidates": 1} | more
        return sample_prior(
            net,
            z_t=z_t,
            caption=Caption(None, features, mask),
            diffusion=found.diffusion,
            sampler=PriorSamplerConfig(**given),
            noise=noise(),
            read_once=once,
        )

    return ways(draw)


def decoder_ways(size: str, steps: int) -> dict[str, Way]:
    found = experiment("decoder", size)
    found.model.text.context = TOKENS
    net, side = Decoder(found.model, embed_dim=64).eval(), found.model.image_size
    tokens = torch.randint(1, 1000, (SAMPLES, TOKENS))
    words = Words(tokens, torch.ones_like(tokens, dtype=torch.bool))
    given = {"z_i": torch.randn(SAMPLES, 64), "words": words}

    def draw(*, once: bool = True, **more: object) -> Tensor:
        sampler = GuidedSamplerConfig(**({"guidance": GUIDANCE, "steps": steps} | more))

        def anew(scale: float) -> Denoiser:
            return lambda x, t: decoder_denoiser(net, scale, **given)(x, t)

        predictor = build_guided_predictor(
            partial(decoder_denoiser, net, **given) if once else anew,
            diffusion=found.diffusion,
            sampler=sampler,
            device="cpu",
        )
        x_T = noise()((SAMPLES, 3, side, side), torch.device("cpu"))
        return sample(predictor, x_T, sampler, noise=noise())

    return ways(draw)


def ways(draw: Callable[..., Tensor]) -> dict[str, Way]:
    once, anew = draw(), draw(once=False)
    torch.testing.assert_close(anew, once, rtol=0, atol=1e-3 * once.abs().max().item())
    return {
        "as sampled": draw,
        "conditions in every step": partial(draw, once=False),
        f"guided in {INTERVAL}": partial(draw, guidance_interval=INTERVAL),
        "not guided": partial(draw, guidance=1.0),
    }


def clock(way: Way) -> float:
    began = time.process_time()
    way()
    return time.process_time() - began


@torch.inference_mode()
def main() -> None:
    """Print the ratios."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("stages", nargs="*", help="prior, decoder (default: both)")
    p.add_argument("--size", default="tiny")
    p.add_argument("--steps", type=int, default=12)
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--threads", type=int, default=1)
    args = p.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    stages = {"prior": prior_ways, "decoder": decoder_ways}
    for stage in args.stages or stages:
        found = stages[stage](args.size, args.steps)
        times = [[clock(way) for way in found.values()] for _ in range(args.repeats)]
        for name, column in zip(found, zip(*times)):
            ratios = [own / first[0] for own, first in zip(column, times)]
            spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
            print(f"{stage}, {name}: {statistics.median(ratios):.2f} ({spread})", flush=True)


if __name__ == "__main__":
    main()
