"""A stage is a folder, a row and a data module: with these alone it does all that stages do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

import data_modules
import unclip.stages
from unclip.cli import main
from unclip.stages import registry
from unclip.stages.row import CLIP, OFFERS, PRIOR, Row

TOY = Path(__file__).parent / "toy"
ROW = Row(
    name="toy_prior",
    kind=PRIOR,
    about="caption to image embedding, by a linear map",
    use="Shows what a stage is made of.",
    parents=(CLIP,),
)
EXPERIMENT = """\
stage: toy_prior
about: the smallest prior
clip: {clip}
data: {{source: scenes, batch_size: 8, val_samples: 8, scenes: {{count: 64}}}}
trainer: {{max_steps: 4, val_every: 0, sample_every: 0, log_every: 1, precision: "32",
          accelerator: cpu}}
"""


@pytest.fixture
def toy(cascade, tmp_path, monkeypatch):
    """The command line with one stage more, in a folder with an experiment of it."""
    for package, inside in ((unclip.stages, "stages"), (data_modules, "data_modules")):
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(TOY / inside)])
    monkeypatch.setitem(registry.STAGES, ROW.name, ROW)
    folder = tmp_path / "experiments" / PRIOR
    folder.mkdir(parents=True)
    (folder / "toy.yaml").write_text(EXPERIMENT.format(clip=cascade / "clip" / "artifact"))
    monkeypatch.chdir(tmp_path)

    def run(*words) -> None:
        assert main([str(word) for word in words]) == 0

    return run


def test_it_is_listed_shown_and_validated(toy, capsys):
    toy("experiments", "list", "toy")
    assert "the smallest prior" in capsys.readouterr().out
    toy("experiments", "show", "prior/toy")
    assert "noise: 0.1" in capsys.readouterr().out
    toy("experiments", "validate", "prior/toy")
    assert "272 parameters" in capsys.readouterr().out  # 16 x 16 and 16


def test_it_is_planned(toy, capsys):
    toy("plan", "prior/toy", "--gpus", "2", "--device", "h100", "--json")
    assert json.loads(capsys.readouterr().out)["parameters"] == 272


def test_it_trains_resumes_is_evaluated_shared_and_reproduced(toy, capsys):
    toy("train", "prior/toy", "run.dir=run")
    toy("train", "prior/toy", "run.dir=run", "trainer.max_steps=6", "--resume")
    toy("runs", "show", "run")
    capsys.readouterr()
    toy("evaluate", "run", "prior.noise=0", "--n", "4", "--json")
    assert json.loads(capsys.readouterr().out)[0]["kind"] == ROW.name
    toy("share", "run", "--to", "toy.zip", "--weights")
    capsys.readouterr()
    toy("reproduce", "toy.zip", "--check-only")
    capsys.readouterr()
    toy("overfit", "prior/toy", "optim.lr=0.03")


def test_a_cascade_samples_with_it(toy, cascade):
    toy("train", "prior/toy", "run.dir=run")
    toy("sample", "a red circle", "--pipeline", cascade, "--prior", "run", "prior.noise=0.5")
    with Image.open("samples/a-red-circle_seed0.png") as image:
        assert image.size == (32, 32)


def test_its_own_files_are_all_that_knows_it():
    own = {path.name for path in (TOY / "stages" / ROW.name).glob("*.py")}
    assert own == {"__init__.py", *(f"{name}.py" for name in OFFERS)}
