"""A prior alone goes to diffusers as Kandinsky's pipeline; any other part as its components."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers_pipeline import CAPTIONS
from imports import GOLDENS, clip_folder, configure
from own_cascade import write_own
from safetensors.torch import load_file

from unclip.cli import main
from unclip.common import artifacts
from unclip.pipeline.cascade import load_part
from unclip.stages import registry
from unclip.weights.exporting import export_diffusers
from unclip.weights.importing import import_weights

KANDINSKY = {
    "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    "image_processor": ["transformers", "CLIPImageProcessor"],
    "prior": ["diffusers", "PriorTransformer"],
    "scheduler": ["diffusers", "UnCLIPScheduler"],
    "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
}


def kandinsky_folder(root: Path, name: str = "KandinskyPriorPipeline") -> Path:
    """The tiny Karlo's prior as Kandinsky publishes one."""
    clip_folder(root)
    shutil.copytree(GOLDENS / "karlo-diffusers/prior", root / "prior")
    shutil.copytree(GOLDENS / "karlo-diffusers/prior_scheduler", root / "scheduler")
    (root / "model_index.json").write_text(json.dumps({"_class_name": name, **KANDINSKY}))
    return root


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    return write_own(tmp_path_factory.mktemp("own") / "cascade")


def export(capsys, cascade: Path, out: Path) -> str:
    """What the command says beside the folders."""
    capsys.readouterr()
    assert main(["export", str(cascade), "--to", "diffusers", "--out", str(out)]) == 0
    return capsys.readouterr().err


def same_stages(before: Path, after: Path, kinds: set[str]) -> None:
    assert {path.parent.name for path in after.glob("*/artifact.json")} == kinds
    for kind in kinds:
        one, two = (artifacts.describe(root / kind) for root in (before, after))
        old, new = one.weights(), two.weights()
        assert all(torch.equal(new[name], old[name]) for name in old)
        if "low_size" in one.config["model"]:
            assert two.config["model"]["low_size"] == one.config["model"]["low_size"]


def test_a_prior_alone_there_and_back_is_bit_identical(capsys, tmp_path):
    name = "KandinskyV22PriorPipeline"
    source, out = kandinsky_folder(tmp_path / "source", name), tmp_path / "out"
    import_weights(str(source), tmp_path / "cascade")
    assert "no pipeline" not in export(capsys, tmp_path / "cascade", out)
    assert json.loads((out / "model_index.json").read_text()) == {"_class_name": name, **KANDINSKY}
    seen = 0
    for file in sorted(source.glob("*/*")):
        back = out / file.relative_to(source)
        if file.suffix == ".safetensors":
            before, after = load_file(file), load_file(back)
            assert before.keys() == after.keys()
            assert all(before[k].dtype == after[k].dtype for k in before)
            assert all(torch.equal(before[k], after[k]) for k in before)
        else:
            values, written = json.loads(file.read_text()), json.loads(back.read_text())
            assert {key: written.get(key, "absent") for key in values} == values, file
        seen += 1
    assert seen == 7
    import_weights(str(out), tmp_path / "again")
    for kind in ("clip", "prior"):
        one, two = (artifacts.describe(tmp_path / root / kind) for root in ("cascade", "again"))
        assert one.sha256 == two.sha256
        assert one.config == {**two.config, "clip": one.config.get("clip")} or kind == "clip"


@pytest.mark.parametrize(
    ("whose", "name"),
    [
        ("imported", "KandinskyPriorPipeline"),
        pytest.param("own", "KandinskyV22PriorPipeline", marks=pytest.mark.slow),
    ],
)
def test_diffusers_draws_our_embeddings_from_a_prior_alone(own, tmp_path, name, whose):
    import diffusers

    cascade = tmp_path / "cascade"
    if whose == "imported":
        import_weights(str(kandinsky_folder(tmp_path / "source")), cascade)
    else:
        for kind in ("clip", "prior"):
            shutil.copytree(own / kind, cascade / kind)
    export_diffusers(cascade, tmp_path / "out")
    pipeline = getattr(diffusers, name).from_pretrained(tmp_path / "out", dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    found = pipeline(CAPTIONS, num_inference_steps=6, guidance_scale=3.0, generator=generator)
    generator = torch.Generator().manual_seed(0)
    clip = registry.STAGES["clip"].load(cascade / "clip")
    prior = load_part("prior", cascade / "prior", clip)
    how = dict(sampler="ddpm", steps=6, guidance=3.0, candidates=1)
    ours = prior.draw(
        clip.model,
        CAPTIONS,
        lambda shape, device: torch.randn(tuple(shape), generator=generator),
        sampler=type(prior.sampler)(**{**vars(prior.sampler), **how}),
    )
    assert ours.std() > 0.05
    torch.testing.assert_close(ours, found.image_embeds, rtol=1e-4, atol=1e-5)
    grey = clip.model.encode_image(_mean_colour(clip.model.image_size))
    theirs = found.negative_image_embeds
    torch.testing.assert_close(grey.expand_as(theirs), theirs, rtol=1e-3, atol=1e-4)


def _mean_colour(side: int) -> torch.Tensor:
    """An image whose normalised pixels are all 0."""
    from open_clip.constants import OPENAI_DATASET_MEAN

    return 2 * torch.tensor(OPENAI_DATASET_MEAN).view(1, 3, 1, 1).expand(1, 3, side, side) - 1


@pytest.mark.parametrize(
    "kinds",
    [
        {"upsampler"},
        *(
            pytest.param(set(kinds), marks=pytest.mark.slow)
            for kinds in (
                *(["clip"], ["prior"], ["decoder"], ["prior", "decoder"], ["clip", "decoder"]),
                *(["decoder", "upsampler"], ["clip", "prior", "upsampler"]),
            )
        ),
    ],
    ids="-".join,
)
def test_parts_that_make_no_pipeline_are_written_as_components(capsys, own, tmp_path, kinds):
    for kind in kinds:
        shutil.copytree(own / kind, tmp_path / "cascade" / kind)
    out = tmp_path / "out"
    assert f"no pipeline of diffusers has just {', '.join(k for k in ORDER if k in kinds)}: " in (
        export(capsys, tmp_path / "cascade", out)
    )
    assert not (out / "model_index.json").exists()
    import_weights(str(out), tmp_path / "again")
    same_stages(own, tmp_path / "again", kinds)
    assert (
        main(["export", str(own / "decoder"), "--to", "diffusers", "--out", str(out), "--force"])
        == 0
    )
    assert not (out / "text_encoder").exists()


ORDER = ("clip", "prior", "decoder", "upsampler")


@pytest.mark.slow
def test_each_component_of_a_part_is_loaded_by_its_class(own, tmp_path):
    from diffusers import PriorTransformer, UnCLIPScheduler, UNet2DConditionModel, UNet2DModel
    from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel

    classes = {"prior": PriorTransformer, "decoder": UNet2DConditionModel}
    classes |= {"text_proj": UnCLIPTextProjModel}
    classes |= dict.fromkeys(("super_res_first", "super_res_last"), UNet2DModel)
    for kind in ("prior", "decoder", "upsampler"):
        for path in export_diffusers(own / kind, tmp_path / kind):
            cls = classes.get(path.name, UnCLIPScheduler)
            assert cls.from_pretrained(path, output_loading_info=False) is not None


@pytest.mark.parametrize(
    "kind", ["prior", *(pytest.param(k, marks=pytest.mark.slow) for k in ORDER if k != "prior")]
)
def test_a_stage_or_its_run_is_exported_by_its_own_folder(capsys, own, tmp_path, kind):
    run = tmp_path / "run"
    shutil.copytree(own / kind, run / "artifact")
    export(capsys, own / kind, tmp_path / "one")
    export(capsys, run, tmp_path / "two")
    for root in ("one", "two"):
        import_weights(str(tmp_path / root), tmp_path / f"{root}-again")
        same_stages(own, tmp_path / f"{root}-again", {kind})


def test_without_a_clip_stages_of_two_clips_are_refused(capsys, own, tmp_path):
    for kind in ("prior", "decoder"):
        shutil.copytree(own / kind, tmp_path / "cascade" / kind)
    configure(tmp_path / "cascade/decoder/artifact.json", clip_fingerprint="f" * 64)
    words = ["export", str(tmp_path / "cascade"), "--to", "diffusers", "--out", str(tmp_path / "x")]
    assert main(words) == 2
    line = capsys.readouterr().err
    assert f"{tmp_path}/cascade/decoder: was trained on the embeddings of another CLIP" in line
    assert not (tmp_path / "x").exists()
