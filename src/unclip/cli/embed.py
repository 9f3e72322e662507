"""`unclip embed`: a CLIP's embeddings of a dataset, for priors and decoders to train from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from unclip.cli.outputs import check_folder
from unclip.common.counted import counted
from unclip.common.terminal import say

EXAMPLES = """\
examples:
  unclip embed photos/ --clip open_clip:ViT-L-14/openai --out photos-embedded
  unclip embed scenes --clip clip/tiny --out embedded --limit 5000
  unclip embed shards/ --clip runs/clip/mine --out embedded --devices 8 --precision bf16 --workers 8
  unclip embed embedded --verify
  unclip train prior/diffusion_tiny data.embeddings=embedded

To resume a run that was stopped, give the same command again.
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "embed",
        help="embed a dataset with a CLIP, for priors and decoders to train from",
        description="Writes image and text embeddings, captions and tokens in the layout of "
        "clip-retrieval, with a manifest. Names of samples that cannot be read go to standard "
        "error.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
    )
    # Names with a dot, and those below that `EmbedConfig` has, are fields of it.
    p.add_argument("data.source", metavar="SOURCE", help="as data.source; with --verify the folder")
    p.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="data.key=value",
        help="further fields, as data.max_skipped",
    )
    p.add_argument("--clip", help="artifact, run, clip/EXPERIMENT or open_clip:ARCH/TAG")
    p.add_argument("--out", type=Path, metavar="DIR", help="the folder to write")
    p.add_argument("--limit", dest="data.limit", type=int, metavar="N", help="the first N samples")
    p.add_argument("--dtype", help="float16 (default) or float32, on disk")
    p.add_argument("--embeddings", help="unit (length 1) or raw; default: as the CLIP's artifact")
    p.add_argument("--captions", help="all (default): a row for each caption; or first")
    p.add_argument("--precision", help="32 (default), tf32, bf16 or fp16, of the CLIP")
    p.add_argument("--batch-size", dest="data.batch_size", type=int, help="images (default 64)")
    p.add_argument("--shard-size", type=int, help="samples per file (default 100000)")
    p.add_argument(
        "--workers", dest="data.num_workers", type=int, help="processes that load (default 0)"
    )
    p.add_argument("--on-error", dest="data.on_error", help="skip (default) or error")
    p.add_argument("--devices", type=int, help="processes per machine (default 1)")
    p.add_argument("--nodes", type=int, help="machines (default 1)")
    p.add_argument("--accelerator", help="auto (default), cpu or gpu")
    p.add_argument("--force", action="store_true", default=False, help="replace what is in DIR")
    p.add_argument("--verify", action="store_true", default=False, help="only compare checksums")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Embed or verify, and say what there is."""
    from dataclasses import asdict, fields

    from unclip.common.errors import UserError
    from unclip.common.fields import leaves
    from unclip.common.inputs import require_apart
    from unclip.config.load import build_config
    from unclip.data.config import BUILT_IN, EmbedConfig

    given = vars(args)
    own = {field.name for field in fields(EmbedConfig)}
    values = {name: value for name, value in given.items() if "." in name or name in own}
    settings = build_config(EmbedConfig, values, args.overrides)
    if args.verify:
        from unclip.data.embedding_store.writer import verify

        out = Path(settings.data.source)
        manifest: dict[str, Any] | None = verify(out)
    else:
        for name in ("clip", "out"):
            if name not in given:
                raise UserError(f"--{name}: is needed (see `unclip embed --help`)")
        check_folder(args.out.parent if args.out.is_file() else args.out)
        from unclip.runs.embed import embed
        from unclip.runs.folders import trained

        out, clip = args.out, args.clip
        if not clip.startswith("open_clip:"):
            clip = str(trained(clip))
        if args.force:
            sources = dict(leaves(asdict(settings.data), "data."))
            read = [sources[key] for key in sources if key.endswith("source")]
            read = [source for source in read if source not in BUILT_IN]
            require_apart(out, [*read, clip], option="--out ")
        manifest = embed(settings, clip, out, force=args.force)
    if manifest is not None:
        done = "verified, every file is as it was written; " if args.verify else ""
        say(
            f"{out}: {done}{counted(manifest['rows'], 'embedding')} of {manifest['embed_dim']} "
            f"numbers, {manifest['dtype']}, shards: {len(manifest['shards'])}; "
            f"{manifest['skipped']:,} of {counted(manifest['data']['samples'], 'sample')} left out"
        )
