"""`unclip degrade`: look at the corruptions that upsamplers are trained with."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from unclip.cli.command_parser import seed
from unclip.cli.image_files import read
from unclip.cli.outputs import check_file, writing
from unclip.common.seeds import seeds_from
from unclip.common.terminal import say

if TYPE_CHECKING:
    from torch import Tensor

    from unclip.common.images import Array

KINDS = ("bsr", "bsr_light", "blur")
EXAMPLES = """\
examples:
  unclip degrade photo.jpg --out sheet.png
  unclip degrade photo.jpg other.png --kind bsr_light --n 6 --out light.png
  unclip degrade photo.jpg --size 128 --scale 2 --seed 20 --out small.png
"""


def add(commands: argparse._SubParsersAction) -> None:
    """Declare the command."""
    p = commands.add_parser(
        "degrade",
        help="show what the corruption does to images",
        description="Draws a sheet: each image reduced cleanly, then as the corruption leaves "
        "it, with what was done to it. Draw k of every image has the seed SEED + k.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("image", nargs="+", type=Path, help="image; its central square is used")
    p.add_argument("--kind", choices=KINDS, default="bsr", help="corruption.kind (default bsr)")
    p.add_argument("--n", type=int, default=20, help="draws of each (default 20; blur has one)")
    p.add_argument("--scale", type=int, default=4, help="how many times smaller (default 4)")
    p.add_argument("--size", type=int, default=256, help="pixels a side before that (default 256)")
    p.add_argument("--seed", type=seed, default=0, help="of the first draw (default 0)")
    p.add_argument("--out", type=Path, required=True, metavar="FILE", help="a .png")
    p.add_argument("--force", action="store_true", help="replace the file if it is there")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> None:
    """Degrade each, draw one sheet."""
    from unclip.common.errors import UserError

    if not 1 <= args.n <= 1000:
        raise UserError(f"--n {args.n}: must be in [1, 1000]")
    if args.size > 4096:
        raise UserError(f"--size {args.size}: must be at most 4096")
    if args.scale < 2 or args.size < 1 or args.size % args.scale:
        raise UserError(f"--size {args.size} must be a multiple of --scale, which is at least 2")
    if args.out.suffix != ".png":
        raise UserError(f"--out {args.out}: must end in .png")
    seeds_from(args.seed, args.n, "--seed")
    check_file(args.out, "--out", force=args.force)
    from unclip.common.images import grid, save, to_uint8

    tiles: list[Array] = []
    captions: list[str] = []
    for path in args.image:
        image = _square(path, args.size)
        for low, caption in [(_clean(image, args.scale), "clean"), *_draws(image, args)]:
            tiles.append(to_uint8(low))
            captions.append(caption)
    low_side = args.size // args.scale
    whole = -(-128 // low_side)  # enlarged by an integer, to at least 128 pixels
    each = len(tiles) // len(args.image)
    sheet = grid(tiles, captions, columns=min(each, 7), side=low_side * whole)
    with writing(args.out):
        save(sheet, args.out)
    say(args.out)


def _square(path: Path, side: int) -> Tensor:
    """The central square of an image ``[1, 3, side, side]`` in [-1, 1]."""
    import torch
    from PIL import Image, ImageOps

    image = Image.fromarray(read(path))
    image = ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(1, side, side, 3).permute(0, 3, 1, 2) / 127.5 - 1


def _clean(image: Tensor, scale: int) -> Tensor:
    """What the upsampler's stage calls clean ``[3, H/scale, W/scale]``: bicubic, antialiased."""
    from unclip.degradations.downsample import resize

    return resize(image, image.shape[-1] // scale)[0]


def _draws(image: Tensor, args: argparse.Namespace) -> list[tuple[Tensor, str]]:
    """Corrupted images ``[3, H/scale, W/scale]``, and what was done."""
    from unclip.common.seeding import SampleNoise
    from unclip.degradations.blur import gaussian_blur
    from unclip.degradations.bsr import bsr
    from unclip.degradations.bsr_parameters import UNIFORMS, VARIANTS, describe, draw_parameters
    from unclip.degradations.config import CorruptionConfig

    if args.kind == "blur":
        blur = CorruptionConfig()
        low = _clean(image, args.scale)[None]
        blurred = gaussian_blur(low, kernel=blur.kernel, sigma=blur.sigma)[0]
        return [(blurred, f"blur {blur.kernel} px, sigma {blur.sigma}")]
    streams = SampleNoise(seeds_from(args.seed, args.n, "--seed"))
    uniforms, variant = streams.uniform((args.n, UNIFORMS)), VARIANTS[args.kind]
    images = image.expand(args.n, -1, -1, -1)
    noise = streams(images.shape)
    drawn = bsr(images, scale=args.scale, variant=variant, uniforms=uniforms, noise=noise)
    parameters = draw_parameters(uniforms, scale=args.scale, variant=variant)
    return [(low, describe(parameters, k)) for k, low in enumerate(drawn)]
