"""What is typed for a probe, checked before a stage is loaded."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from unclip.cli import image_files
from unclip.cli.sampling_options import named_pipeline
from unclip.common.blank import is_blank
from unclip.common.checks import require
from unclip.common.errors import UserError

if TYPE_CHECKING:
    from unclip.pipeline.settings import Settings


def check_typed(args: argparse.Namespace, settings: Settings) -> None:
    """Refuse what was typed wrong before a stage is loaded, and read the images.

    Raises:
        UserError: it names the option.
    """
    require(not any(map(is_blank, getattr(args, "caption", ()))), "caption", "is empty; give words")
    if args.probe == "guidance":
        from unclip.evaluation.probes.guidance import check_scales

        check_scales(args.decoder_scales, args.prior_scales, settings)
    if args.probe == "pca":
        args.image = [image_files.read(path) for path in args.image]
        most = _components(args)
        if not all(1 <= k <= (most or k) for k in args.dims):
            given = f"numbers in [1, {most}]" if most else "positive numbers"
            raise UserError(f"dims={args.dims}: give {given}, the PCA's components")
    if args.probe == "typographic":
        from unclip.pipeline.typographic import check_word

        for word in args.word:
            check_word(word)
        require(not any(map(is_blank, args.label)), "--label", "is empty; give words")
        if args.image:
            require(bool(args.word), "--word", "give at least one to write on the image")
            args.image = image_files.read(args.image)
        if args.label or args.image is not None:
            require(len(args.label) > 1, "labels", "give at least two, to choose between")


def _components(args: argparse.Namespace) -> int | None:
    """How many the cascade's PCA has; None where only loading the cascade tells.

    Raises:
        UserError: it has none.
    """
    from unclip.common import artifacts

    named = named_pipeline(args)
    folder = Path(named or "")
    if not named or not (folder / "clip").is_dir():
        return None
    if not (folder / "pca").is_dir():
        raise UserError(
            f"pca: {folder} has none; make one with `unclip fit-pca` and put its artifact there as "
            "pca"
        )
    return int(artifacts.describe(folder / "pca", key="pca").config["pca"]["components"])
