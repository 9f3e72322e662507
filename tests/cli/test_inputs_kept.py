"""No command removes or replaces a folder that it, or its run, reads from."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from unclip.cli import main, parser
from unclip.common import artifacts
from unclip.common.errors import UserError
from unclip.common.inputs import require_apart

SWEEP = """
method: grid
metric: {{name: val/loss}}
parameters: {{clip: {{values: [{0}/sweep/clip]}}}}
command: [unclip, train, {1}, "${{args_no_hyphens}}"]
"""

# Command and words; D is a folder with a run in D/run, and other things that are read.
REFUSED = {
    "import: its source": "import D/run --out D/run --force",
    "export: its cascade": "export D/run --to diffusers --out D/run --force",
    "export: into a stage": "export D/run --to diffusers --out D/run/clip --force",
    "merge: its adapter": "merge D/adapter --out D/adapter",
    "merge: the base": "merge D/adapter --out D/base/artifact/new",
    "fit-probe: its CLIP": "fit-probe aesthetics D/t.csv --clip D/run --out D/run/artifact --force",
    "train: its parent": "train {prior} clip=D/run run.dir=D/run --force",
    "train: its parent's artifact": "train {prior} clip=D/run/artifact run.dir=D/run --force",
    "train: through a link": "train {prior} clip=D/link run.dir=D/run --force",
    "train: its second parent": "train {ar_prior} clip={clip} pca=D/run run.dir=D/run --force",
    "embeddings": "train {prior} clip={clip} data.embeddings=D/run/emb run.dir=D/run --force",
    "train: data": "train {clip_file} data.source=D/run/photos run.dir=D/run --force",
    "train: a pattern": "train {clip_file} data.source=D/run/*.tar run.dir=D/run --force",
    "train: a mixture": "train {mixture} run.dir=D/run --force",
    "train: its file": "train D/run/experiment.yaml run.dir=D/run --force",
    "train: --continue": "train {prior} clip=D/dead/run run.dir=D/dead --continue",
    "fit-pca": "fit-pca {pca} clip=D/run run.dir=D/run --force",
    "sweep: a parent": "sweep D/sweep.yaml --dir D/sweep --force",
    "embed: the CLIP": "embed scenes --clip D/emb/clip --out D/emb --force",
    "embed: the data": "embed D/emb/photos --clip {clip} --out D/emb --force",
    "embed: data around it": "embed D --clip {clip} --out D/emb --force",
    "pack: beside its shards": "data pack D/packed/*.tar --out D/packed --force",
    "pack: data within": "data pack D/packed/photos --out D/packed",
    "inspect: into the data": "data inspect D/photos --out D/photos --force",
    "share: over the run": "share D/shared/run --to D/shared --force",
    "reproduce: over the bundle": "reproduce D/again/bundle --dir D/again",
    "finetune: the images": "finetune D/run/photos --from {cascade} --out D/run",
    "finetune: the cascade": "finetune D/photos --from {cascade} --out {cascade}",
    "study: its images": "study new --a D/run --b D/photos --out D/photos --force",
    "study: images around it": "study new --a D --b D/run --out D/photos --force",
    "recipe: data in a stage": "recipe D/recipe.yaml --dir D/r data.source=D/r/clip/photos",
}
ONLY_FILES = {  # that are numbered, or replaced one by one; images that are read are kept
    *("sample", "vary", "interpolate", "edit", "inpaint", "probe", "figures", "evaluate"),
    *("degrade", "runs", "experiments", "check-machine", "reproduce-paper"),
}


def adapter_of(base: Path, folder: Path) -> None:
    """An adapter that changes nothing."""
    found = artifacts.describe(base)
    artifacts.export(
        folder,
        stage=found.stage,
        weights={},
        config={**found.config, "adapter": {"kind": "lora"}},
        provenance={"parents": {"init": found.sha256}, "init": {"source": str(base)}},
    )


@pytest.fixture
def files(tmp_path, monkeypatch, cascade, minute_experiment):
    """The folder D, and the words that stand for what lies elsewhere."""
    monkeypatch.chdir(tmp_path)
    d = tmp_path / "D"
    for place in ("run", "dead/run", "sweep/clip", "emb/clip", "shared/run"):
        shutil.copytree(cascade / "clip", d / place)
    for place in (
        "run/emb",
        "run/photos",
        "emb/photos",
        "packed/photos",
        "photos",
        "r/clip/photos",
    ):
        (d / place).mkdir(parents=True)
        (d / place / "a.txt").write_text("a red circle")
    for place in ("dead/experiment.yaml", "sweep/results.json", "emb/embed.json"):
        (d / place).write_text("{}")
    for place in ("run/0.tar", "packed/00000.tar", "shared/manifest.json", "photos/report.json"):
        (d / place).write_text("{}")
    shutil.copytree(cascade / "upsampler", d / "base")
    adapter_of(d / "base", d / "adapter")
    (d / "link").symlink_to(d / "run")
    (d / "sweep.yaml").write_text(SWEEP.format(d, minute_experiment("prior")))
    (d / "recipe.yaml").write_text("clip: clip/tiny\nupsamplers: []\n")
    (d / "t.csv").write_text("image,rating\n" + "".join(f"{k}.png,{k}\n" for k in range(20)))
    mixture = tmp_path / "mixture.yaml"
    mixture.write_text(
        f"extends: {minute_experiment('clip')}\n"
        f"data: {{source: mixture, mixture: {{a: {{source: {d}/run/photos}}}}}}\n"
    )
    words = {kind: minute_experiment(kind) for kind in ("prior", "ar_prior", "pca")}
    return words | {
        "clip_file": minute_experiment("clip"),
        "clip": cascade / "clip",
        "cascade": cascade,
        "mixture": mixture,
    }


def tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file and folder below ``folder``, with what is in it."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("case", REFUSED)
def test_a_folder_that_is_read_is_never_replaced(case, files, capsys, tmp_path):
    words = REFUSED[case].format(**files).split()
    if case.startswith("reproduce"):
        bundle = tmp_path / "D" / "again"
        assert main(["share", "D/shared/run", "--to", str(bundle / "bundle"), "--weights"]) == 0
    before = tree(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err.strip()
    assert "an input" in error.splitlines()[-1], error
    assert tree(tmp_path) == before


def test_every_command_that_replaces_is_tried():
    commands = parser()._subparsers._group_actions[0].choices
    replaces = set()
    for name, command in commands.items():
        verbs = command._subparsers and command._subparsers._group_actions[0].choices.values()
        for each in verbs or [command]:
            if {"--force", "--out", "--to", "--dir"} & set(each._option_string_actions):
                replaces.add(name)
    tried = {case.split()[0] for case in REFUSED.values()}
    assert replaces - ONLY_FILES - {"demo"} == tried


@pytest.mark.parametrize(
    ("folder", "given"),
    [
        ("a", "a"),
        ("a", "a/b"),
        ("a/b", "a"),
        ("a", "a/b/*.tar"),
        ("a", "a/b/{00..02}.tar"),
        ("a", "hf:a/b"),
        ("a", "local://a/b"),
        ("a", "file.json?images=a/b"),
        ("a", "simplecache::local://a/b"),
        ("link", "a/b"),
        ("a", "link/b"),
        ("a", "a/out"),
        (".", "elsewhere"),
        ("..", "elsewhere"),
    ],
)
def test_apart_means_that_no_path_leads_from_one_into_the_other(
    folder, given, tmp_path, monkeypatch
):
    (tmp_path / "here/a/b").mkdir(parents=True)
    (tmp_path / "here/elsewhere").mkdir()
    (tmp_path / "here/link").symlink_to("a")
    (tmp_path / "here/a/out").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UserError, match=r"^--out "):
        require_apart(Path(folder), [given], option="--out ")


def test_what_lies_beside_or_does_not_exist_is_no_obstacle(tmp_path, monkeypatch):
    for name in ("a", "ab", "c"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    given = ["ab", "c", "a/none", "open_clip:ViT-L-14/openai", "https://a/b.tar", "clip/tiny", ""]
    require_apart(Path("a"), given, option="--out ")
    require_apart(Path(os.path.join("a", "new")), ["c"], option="--out ")
