"""A shared bundle of the minute prior, as members that tests may spoil."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from unclip.sharing.gather import gather

RUN = {"run": "", "clip": "parents/clip/", "pca": "parents/pca/"}


def seal_cascade(members: dict[str, bytes]) -> dict[str, bytes]:
    """`seal` for the bundle of a cascade."""
    stages = sorted({name.rpartition("/experiment.yaml")[0] for name in members} - {""})
    manifest = json.loads(members["manifest.json"])
    manifest["weights"] = {s: manifest["weights"].get(s, "0" * 64) for s in stages}
    members = {**members, "manifest.json": json.dumps(manifest).encode()}
    return seal(members, {stage: f"{stage}/" for stage in stages})


def seal(members: dict[str, bytes], parts: Mapping[str, str] = RUN) -> dict[str, bytes]:
    """Give the manifest and the artifacts the names, sizes and checksums that the members have."""
    members, manifest = dict(members), json.loads(members["manifest.json"])
    for part, begin in parts.items():
        weights, header = (f"{begin}artifact/{n}" for n in ("weights.safetensors", "artifact.json"))
        if weights in members:
            before, now = manifest["weights"][part], hashlib.sha256(members[weights]).hexdigest()
            members[header] = members[header].replace(before.encode(), now.encode())
            manifest["weights"][part] = now
    listed = {n: b for n, b in members.items() if n not in ("manifest.json", "README.md")}
    manifest["files"] = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        for name, data in sorted(listed.items())
    }
    return {**members, "manifest.json": json.dumps(manifest).encode()}


def zipped(members: Mapping[str, bytes], path: Path, compression: int = zipfile.ZIP_STORED) -> Path:
    """A zip of ``members``."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo("new")
            info.filename, info.compress_type = name, compression  # as it is, whatever it holds
            archive.writestr(info, data)
    return path


@pytest.fixture(scope="session")
def packed(cascade) -> Callable[..., dict[str, bytes]]:
    """Members of the bundle of a run of the cascade: `packed("prior", weights=False)`."""
    made: dict[tuple[str, bool], dict[str, bytes]] = {}

    def members(kind: str = "prior", *, weights: bool = True) -> dict[str, bytes]:
        if (kind, weights) not in made:
            content = gather(str(cascade / kind), weights=weights)
            made[kind, weights] = {
                name: what if isinstance(what, bytes) else what.read_bytes()
                for name, what in content.items()
            }
        return dict(made[kind, weights])

    return members
