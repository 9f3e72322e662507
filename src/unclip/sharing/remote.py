"""Bundles on the Hugging Face hub (hf://) and in W&B artifacts (wandb://)."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from unclip.common.errors import UserError
from unclip.sharing.layout import MANIFEST, MAX_FILES, check_name, limit_of
from unclip.sharing.reading import Refused
from unclip.sharing.writing import Content, fill

_HUB = re.compile(r"hf://([\w.-]+/[\w.-]+)")
_WANDB = re.compile(r"wandb://([\w.-]+)/([\w.-]+)/([\w.-]+?)(?::([\w.-]+))?")
_TYPE = "unclip-bundle"
_HUB_OWN = (".gitattributes",)  # which the hub adds


def is_remote(place: str) -> bool:
    """Whether ``place`` is a URL of this module's."""
    return place.startswith(("hf://", "wandb://"))


def upload(content: Content, to: str, *, force: bool) -> str:
    """Send a bundle to ``to``; returns where it can be fetched.

    Raises:
        UserError: the URL is not of its form, there are no credentials, the repository has a
            bundle (without ``force``), or the server refuses.
    """
    with tempfile.TemporaryDirectory() as scratch, _one_line(f"--to {to}"):
        folder = Path(scratch) / "bundle"
        fill(content, folder, link=True)
        if to.startswith("hf://"):
            return _to_hub(folder, to, force=force)
        return _to_wandb(folder, to)


def download(url: str, into: Path) -> None:
    """Fetch a bundle into the empty folder ``into``, once names and sizes have been checked."""
    with _one_line(url):
        fetch = _from_hub if url.startswith("hf://") else _from_wandb
        fetch(url, into)


def _to_hub(folder: Path, to: str, *, force: bool) -> str:
    repository = _matched(_HUB, to, "hf://USER/REPOSITORY")[1]
    hub = _hub()
    if hub.token is None:
        raise UserError(f"--to {to}: no credentials; run `hf auth login` or set HF_TOKEN")
    if not force and hub.file_exists(repository, MANIFEST):
        raise UserError(f"--to {to}: holds a bundle; name another, or add --force to replace it")
    hub.create_repo(repository, private=True, exist_ok=True)
    hub.upload_folder(
        repo_id=repository,
        folder_path=folder,
        commit_message="unclip share",
        delete_patterns="*" if force else None,
    )
    return to


def _from_hub(url: str, into: Path) -> None:
    repository = _matched(_HUB, url, "hf://USER/REPOSITORY")[1]
    hub = _hub()
    info = hub.model_info(repository, files_metadata=True)
    sizes = {f.rfilename: f.size for f in info.siblings if f.rfilename not in _HUB_OWN}
    _check(url, sizes)
    hub.snapshot_download(repository, revision=info.sha, local_dir=into, allow_patterns=list(sizes))
    shutil.rmtree(into / ".cache", ignore_errors=True)  # the client's notes


def _to_wandb(folder: Path, to: str) -> str:
    entity, project, name, version = _matched(_WANDB, to, "wandb://ENTITY/PROJECT/NAME").groups()
    if version:
        raise UserError(f"--to {to}: W&B numbers versions itself; leave out :{version}")
    wandb = _wandb(f"--to {to}")
    settings = wandb.Settings(disable_git=True, disable_code=True, console="off")
    run = wandb.init(entity=entity, project=project, job_type="share", settings=settings)
    try:
        artifact = wandb.Artifact(name, type=_TYPE)
        artifact.add_dir(str(folder))
        run.log_artifact(artifact).wait()
    finally:
        run.finish()
    return f"{to}:{artifact.version}"


def _from_wandb(url: str, into: Path) -> None:
    entity, project, name, version = _matched(_WANDB, url, "wandb://ENTITY/PROJECT/NAME").groups()
    api = _wandb(url).Api()
    artifact = api.artifact(f"{entity}/{project}/{name}:{version or 'latest'}", type=_TYPE)
    _check(url, {name: entry.size for name, entry in artifact.manifest.entries.items()})
    artifact.download(root=str(into))


def _check(url: str, sizes: dict[str, int | None]) -> None:
    """Names and sizes as the server tells them; what comes is checked once more."""
    if MANIFEST not in sizes:
        raise UserError(f"{url}: is not a bundle: it has no {MANIFEST}")
    if len(sizes) > MAX_FILES:
        raise UserError(f"{url}: holds more than {MAX_FILES} files, which no bundle does")
    for name, size in sizes.items():
        check_name(url, name)
        if (size or 0) > limit_of(name):
            raise Refused(url, name, f"has {size:,} bytes, the most is {limit_of(name):,}")


def _matched(pattern: re.Pattern[str], url: str, form: str) -> re.Match[str]:
    found = pattern.fullmatch(url)
    if found is None:
        raise UserError(f"{url}: must be of the form {form}")
    return found


def _hub() -> Any:
    from huggingface_hub import HfApi, get_token

    return HfApi(token=get_token(), library_name="unclip")


def _wandb(where: str) -> Any:
    import wandb

    if not wandb.login(prompt=False):  # type: ignore[call-arg]
        raise UserError(f"{where}: no credentials; run `wandb login` or set WANDB_API_KEY")
    return wandb


@contextmanager
def _one_line(where: str) -> Iterator[None]:
    """Both clients raise a dozen kinds of errors."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{where}: {first}") from None
