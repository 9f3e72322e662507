"""The model card of a bundle: what it is, what it was trained on, how well, and what for."""

from __future__ import annotations

import re
from typing import Any, NamedTuple
from urllib.parse import quote

from unclip.common import tables
from unclip.common.errors import UserError
from unclip.common.markdown import one_line, plain_markdown
from unclip.sharing.compare import TIMED
from unclip.stages import registry
from unclip.stages.row import Row

LIMITS = """\
- It knows only what is in its training data, and repeats what these show and omit.
- Metrics are those of its own held-out samples, of this one run; other data were not tried.
- It was made for research. Nobody has checked it for biased, harmful or memorised output, nor
  whether its data allow a use other than research.
"""


def check_licence(licence: str) -> str:
    """``licence``, if it looks like an identifier that the hub knows."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.+-]{0,60}", licence):
        raise UserError(
            f"--license {licence}: must be an identifier in small letters, as apache-2.0, "
            "cc-by-4.0, other"
        )
    return licence


class DescribedStage(NamedTuple):
    """What a card says of a run."""

    folder: str  # of a cascade's stage; empty of a run alone
    experiment: dict[str, Any]  # every field
    provenance: dict[str, Any]  # of the artifact, with its metrics
    parents: dict[str, str]  # clip or pca -> what is said of it
    samples: list[str]  # members that are images


def card(*, name: str, stages: list[DescribedStage], weights: bool, licence: str) -> str:
    """Markdown with the head that the hub reads. What the run's files say stays plain text.

    Args:
        name: Of the experiment, ``kind/name``, or of the cascade.
        stages: The run, or the stages of the cascade.
        weights: Whether they are inside.
        licence: Its identifier.
    """
    from huggingface_hub import ModelCard, ModelCardData

    alone = registry.STAGES[stages[0].experiment["stage"]] if not stages[0].folder else None
    tags = ["unclip", "dall-e-2", alone.name.replace("_", "-") if alone else "text-to-image"]
    head = ModelCardData(license=licence, library_name="unclip", tags=tags)
    if alone:
        own = plain_markdown(str(stages[0].experiment.get("about", "")))
        about = f"{own or alone.about}\n\n{alone.use}"
    else:
        about = "Trained stages of unCLIP that are used together: from a caption to an image."
    sections = [f"---\n{head.to_yaml()}\n---\n", f"# {plain_markdown(name)}\n\n{about}\n"]
    for stage in stages:
        sections += _stage(stage)
    sections += [
        f"## Use\n\n{_use(alone, weights) if alone else _use_cascade(weights)}",
        f"## Limits\n\n{LIMITS}",
    ]
    return str(ModelCard("\n".join(sections)))


def _stage(stage: DescribedStage) -> list[str]:
    """The sections of a run; of a cascade's stage they are one level down."""
    level = "###" if stage.folder else "##"
    experiment, provenance = stage.experiment, stage.provenance
    return [
        *([f"## {stage.folder}\n"] if stage.folder else []),
        *(f"![held-out samples, drawn at the end]({quote(file)})\n" for file in stage.samples[-1:]),
        f"{level} Data\n\n{_data(experiment['data'], provenance)}\n",
        f"{level} Metrics\n\n{_metrics(provenance['metrics'])}",
        f"{level} Training\n\n{_training(experiment, provenance, stage.parents)}",
    ]


def _code(text: str) -> str:
    """``text`` as code, or plain where backticks could not hold it."""
    return plain_markdown(text) if re.search(r"[`<>]|^$", text) else f"`{one_line(text)}`"


def _data(data: dict[str, Any], provenance: dict[str, Any]) -> str:
    source = data.get("embeddings") or data["source"]
    if source == "scenes":
        what = f"the procedural scenes of unclip, {data['scenes']['count']:,} of them"
    elif source == "mixture":
        what = "a mixture of " + ", ".join(_code(p["source"]) for p in data["mixture"].values())
    else:
        what = f"{_code(source)}, which is not part of this bundle"
    return f"Trained on {what}; fingerprint {_code(provenance['data_fingerprint'])}."


def _metrics(metrics: dict[str, float]) -> str:
    lines = [[n, f"{v:.6g}"] for n, v in metrics.items() if n not in TIMED]
    return tables.markdown([["metric", "value"], *lines])


def _training(
    experiment: dict[str, Any], provenance: dict[str, Any], parents: dict[str, str]
) -> str:
    trainer, versions = experiment["trainer"], provenance.get("packages", {})
    facts = [
        ["seed", str(trainer["seed"])],
        ["machine", str(provenance.get("machine"))],
        ["software", ", ".join(f"{n} {v}" for n, v in versions.items())],
        ["code", _revision(provenance)],
        *([key, what] for key, what in parents.items()),
    ]
    if registry.STAGES[experiment["stage"]].trains:
        facts[:0] = [
            ["optimizer steps", f"{trainer['max_steps']:,}"],
            ["samples per step", str(experiment["data"]["batch_size"])],
            ["precision", trainer["precision"]],
        ]
    return tables.markdown([["", ""], *([key, what] for key, what in facts)])


def _revision(provenance: dict[str, Any]) -> str:
    revision = provenance.get("git_revision")
    if revision is None:
        return "an installed package"
    changed = provenance.get("git_dirty")
    return f"revision {revision}" + ", with changes that are not in this bundle" * bool(changed)


def _use(stage: Row, weights: bool) -> str:
    load = "The weights are not in this bundle: run it again to have them.\n"
    if weights:
        load = (
            "In Python, `unclip.common.artifacts.describe(FOLDER)` describes what is in the "
            "unpacked bundle, and its `weights()` are the tensors."
        )
        if stage.trains:
            load += f" `unclip sample --{stage.kind} FOLDER` samples with it.\n"
        else:
            load += " `pca=FOLDER` trains an autoregressive prior with it.\n"
    return (
        "`unclip reproduce BUNDLE` trains it again with the same seed and says whether the result "
        f"is bit-identical, within tolerance or different. {load}"
    )


def _use_cascade(weights: bool) -> str:
    again = (
        "`unclip reproduce BUNDLE` trains every stage again with the same seeds and says whether "
        "the results are bit-identical, within tolerance or different."
    )
    if not weights:
        return f"{again} The weights are not in this bundle.\n"
    sample = '`unclip sample "a caption" --pipeline BUNDLE.zip` draws images.'
    return f"{sample} Unpacked, the bundle is a cascade's folder as any other. {again}\n"
