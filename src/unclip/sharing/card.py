"""The model card of a bundle: what it is, what it was trained on, how well, and what for."""

from __future__ import annotations

import re
from typing import Any
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


def card(
    *,
    name: str,
    experiment: dict[str, Any],
    provenance: dict[str, Any],
    parents: dict[str, str],
    weights: bool,
    samples: list[str],
    licence: str,
) -> str:
    """Markdown with the head that the hub reads. What the run's files say stays plain text.

    Args:
        name: Of the experiment, ``kind/name``.
        experiment: Every field.
        provenance: Of the artifact, with its metrics.
        parents: ``clip`` or ``pca`` -> what is said of it.
        weights: Whether they are inside.
        samples: Members that are images.
        licence: Its identifier.
    """
    from huggingface_hub import ModelCard, ModelCardData

    stage = registry.STAGES[experiment["stage"]]
    tags = ["unclip", "dall-e-2", stage.name.replace("_", "-")]
    head = ModelCardData(license=licence, library_name="unclip", tags=tags)
    about = plain_markdown(str(experiment.get("about", "")))
    sections = [
        f"---\n{head.to_yaml()}\n---\n",
        f"# {plain_markdown(name)}\n\n{about or stage.about}\n\n{stage.use}\n",
        *(f"![held-out samples, drawn at the end]({quote(file)})\n" for file in samples[-1:]),
        f"## Data\n\n{_data(experiment['data'], provenance)}\n",
        f"## Metrics\n\n{_metrics(provenance['metrics'])}",
        f"## Training\n\n{_training(experiment, provenance, parents)}",
        f"## Use\n\n{_use(stage, weights)}",
        f"## Limits\n\n{LIMITS}",
    ]
    return str(ModelCard("\n".join(sections)))


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
