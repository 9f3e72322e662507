"""`--fast`: a quarter of the evaluations or a few, by the sampler that is nearest after so few."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from unclip.common.local_rank import local_rank
from unclip.common.terminal import say
from unclip.diffusion.config import LOG_SNR, SamplerConfig
from unclip.diffusion.samplers import ANALYTIC
from unclip.pipeline.cascade import Cascade
from unclip.pipeline.settings import Settings
from unclip.stages.row import DECODER, PRIOR, UPSAMPLER

# Priors predict x_0, whose error is large beside the noise that is left at the end: v, which ab2
# takes, then is wrong. Upsamplers take so few that ddim is nearest. docs/benchmarks.md.
SAMPLER = {PRIOR: "dpmpp_2m", DECODER: "ab2", UPSAMPLER: "ddim"}
EVEN_BY, EVEN_FROM = "dpmpp_2m", 15  # nearest on timesteps even in log-SNR, and everywhere from 15
SHARE = 4  # of the evaluations of a stage's own settings, one of so many is left
LEAST = {PRIOR: 8, DECODER: 8, UPSAMPLER: 4}  # steps, if it has as many; fewer draw other shapes


def fast_changes(
    samplers: Mapping[str, Sequence[Any]], given: Settings, *, keep_sampler: Collection[str] = ()
) -> dict[str, dict[str, Any]]:
    """What `--fast` changes of each stage's own ``samplers``; what is ``given`` wins.

    All parts of a stage get the same steps, so that the changes can be written as settings. A stage
    that is not sampled in steps is left as it is.

    Args:
        samplers: By stage, the sampler section of each of its parts.
        given: The user's own changes.
        keep_sampler: Stages whose sampler the command decides.
    """
    changes = {}
    for stage, parts in samplers.items():
        own = [sampler for sampler in parts if isinstance(sampler, SamplerConfig)]
        if not own:
            continue
        wanted = given.changes.get(stage, {})
        preset: dict[str, Any] = {} if stage in keep_sampler else {"sampler": SAMPLER[stage]}
        name = (preset | wanted).get("sampler", own[0].sampler)
        whole = sum(sampler.evaluations for sampler in own) // len(own)
        evaluations = min(whole, max(LEAST[stage], whole // SHARE))
        preset["steps"] = max(2, (evaluations + 1) // 2 if name == "heun" else evaluations)
        even = str(wanted.get("steps", "")).startswith(LOG_SNR)
        many = "steps" not in wanted and evaluations >= EVEN_FROM
        if "sampler" in preset and wanted.get("sampler", EVEN_BY) == EVEN_BY and (even or many):
            preset = {"sampler": EVEN_BY, "steps": f"{LOG_SNR}{evaluations}"}
        if wanted.get("sampler") in ANALYTIC:
            del preset["steps"]  # their errors are fitted for the steps that they have
        changes[stage] = {key: value for key, value in preset.items() if key not in wanted}
    return changes


def samplers_of(cascade: Cascade) -> dict[str, list[Any]]:
    """The sampler section of each part, by stage."""
    prior = [cascade.prior.sampler] if cascade.prior else []
    upsamplers = [part.sampler for part in cascade.upsamplers]
    return {PRIOR: prior, DECODER: [cascade.decoder.sampler], UPSAMPLER: upsamplers}


def words_of(changes: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Changes as they are given on the command line: ``decoder.steps=6``."""
    return [f"{stage}.{k}={value}" for stage, of in changes.items() for k, value in of.items()]


def with_changes(settings: Settings, changes: Mapping[str, Mapping[str, Any]]) -> Settings:
    """``settings`` with more ``changes``, whose keys are others."""
    both = {stage: {**more, **settings.changes.get(stage, {})} for stage, more in changes.items()}
    return replace(settings, changes={**settings.changes, **both})


def say_fast(changes: Mapping[str, Mapping[str, Any]], of: str = "") -> None:
    """Say which settings `--fast` stands for, in one process of several."""
    if local_rank() == 0:
        words = " ".join(words_of(changes)) or "nothing to change"
        say(f"unclip: --fast{of and f' of {of}'}: {words}", error=True)
