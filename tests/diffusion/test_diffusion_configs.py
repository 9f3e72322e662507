import subprocess
import sys

import pytest

from unclip.common.errors import UserError
from unclip.common.fields import as_dataclass
from unclip.diffusion.config import (
    DiffusionConfig,
    GuidedSamplerConfig,
    ImageDiffusionConfig,
    SamplerConfig,
    section_counts,
)


def test_configs_load_without_torch():
    code = "import sys, unclip.diffusion.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_defaults_are_valid():
    DiffusionConfig().validate()
    SamplerConfig().validate()


@pytest.mark.parametrize(
    ("config", "key"),
    [
        (DiffusionConfig(steps=1), "diffusion.steps"),
        (DiffusionConfig(steps=20, schedule="linear"), "diffusion.steps"),
        (DiffusionConfig(schedule="sigmoid"), "diffusion.schedule"),
        (DiffusionConfig(prediction="noise"), "diffusion.prediction"),
        (DiffusionConfig(variance="learned"), "diffusion.variance"),
        (ImageDiffusionConfig(vb_weight=-1), "diffusion.vb_weight"),
        (DiffusionConfig(timesteps="cosine"), "diffusion.timesteps"),
        (DiffusionConfig(logit_std=0), "diffusion.logit_std"),
        (SamplerConfig(sampler="plms"), "sampler.sampler"),
        (SamplerConfig(steps="many"), "sampler.steps"),
        (SamplerConfig(eta=1.5), "sampler.eta"),
        (GuidedSamplerConfig(guidance=-1), "sampler.guidance"),
        (SamplerConfig(clip="hard"), "sampler.clip"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_key(config, key):
    with pytest.raises(UserError, match=f"^{key}(=.*)?: "):
        config.validate()


@pytest.mark.parametrize("steps", ["", "1", 1, 0, "-5", "10,", "10,0,3", "10,10,1", "6.5"])
def test_steps_that_make_no_chain_are_refused(steps):
    with pytest.raises(UserError, match=r"sampler\.steps"):
        section_counts(steps)


@pytest.mark.parametrize("steps", [27, "27", "10,10,3,2,2", "fast27"])
def test_steps_come_from_files_as_a_number_or_as_sections(steps):
    loaded = as_dataclass(SamplerConfig, {"steps": steps})
    assert sum(section_counts(loaded.steps)) == 27
