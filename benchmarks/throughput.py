"""Steps of training and sampling side by side with peers, and what the product's loop adds.

    python benchmarks/throughput.py                       # all networks, small, one thread
    python benchmarks/throughput.py prior --precision bf16 --compile blocks
    python benchmarks/throughput.py --device cuda --size l --precision bf16 --compile blocks
    python benchmarks/throughput.py --loop decoder        # `unclip train` against a bare loop

Ours and the peer, of one size and with the same inputs, take turns in one process. A ratio is peer
over ours, above 1 where ours is faster: the median over neighbouring runs, of processor time on a
CPU (which other programs hardly disturb), of time on a GPU. A training step is forward, mean
square, backward and fused AdamW; a sampling step one call for 8 samples without gradients.
Operations are those of matrix products, convolutions and attention. Peers are as their package
builds them; --channels-last gives their U-Nets that memory format, which ours have on a GPU. --loop
trains tiny experiments as `unclip train` does, for three times --repeats steps; before and after,
it times the network alone, and the stage's own loss, on one batch.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import re
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from networks import NETWORKS, Calls
from peers import PEERS, Missing, Peer, check_same, compile_peer
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unclip.config.load import load_experiment
from unclip.nn.compilation import compile_blocks
from unclip.planning import trace as planned
from unclip.planning.devices import GPUS
from unclip.runs import train as run_train
from unclip.runs.parents import parents
from unclip.runs.train import assemble
from unclip.tracking.report import Finished
from unclip.training.callbacks import Throughput
from unclip.training.optim import build_optimizer
from unclip.training.random import StepRandom

SAMPLED = 8  # samples of a sampling step
Step = Callable[[], Any]


class Seconds(NamedTuple):
    """A moment, or how long something took."""

    wall: float
    process: float  # processor time, of all threads


def since(then: Seconds = Seconds(0, 0)) -> Seconds:  # noqa: B008
    return Seconds(time.perf_counter() - then.wall, time.process_time() - then.process)


def median(times: list[Seconds], name: str) -> float:
    return statistics.median(getattr(t, name) for t in times)


def clock(step: Step, cuda: bool) -> Seconds:
    """Run ``step`` to its end."""
    if cuda:
        torch.cuda.synchronize()
    began = since()
    step()
    if cuda:
        torch.cuda.synchronize()
    return since(began)


def in_turn(steps: list[Step], repeats: int, cuda: bool) -> list[list[Seconds]]:
    """Times of each of ``steps``, who take turns; who is first changes."""
    for step in steps * 3:
        step()
    times: list[list[Seconds]] = [[] for _ in steps]
    for k in range(repeats):
        for which in range(len(steps))[:: 1 if k % 2 else -1]:
            times[which].append(clock(steps[which], cuda))
    return times


def steps_of(calls: Calls, train: list[Tensor], sample: list[Tensor], args: Any) -> dict[str, Step]:
    """What is timed of a network."""
    parameters = [p for p in calls.net.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, fused=True)
    cast = torch.autocast(args.device, torch.bfloat16, enabled=args.precision == "bf16")
    with torch.no_grad():
        target = torch.randn_like(calls.train(*train))

    def training() -> None:
        calls.net.train()
        with cast:
            loss = F.mse_loss(calls.train(*train).float(), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def sampling() -> None:
        calls.net.eval()
        with torch.no_grad(), cast:
            calls.sample(*sample)

    return {"train": training, "sample": sampling}


def compare(kind: str, make_peer: Callable[..., Peer] | None, args: Any) -> None:
    """Print a line for a training and one for a sampling step."""
    torch.manual_seed(0)
    cuda = args.device == "cuda"
    ours = NETWORKS[kind](args.size)
    peer = make_peer(ours) if make_peer else None
    networks = [ours.calls] if peer is None else [ours.calls, peer.calls]
    if peer is not None and peer.equal:
        check_same(ours, peer)
    for calls in networks:
        calls.net.to(args.device)
        if cuda and (calls is ours.calls or args.channels_last):  # as stages train
            calls.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    inputs = [[x.to(args.device) for x in ours.inputs(n)] for n in (ours.batch, SAMPLED)]
    all_steps = [steps_of(calls, *inputs, args) for calls in networks]
    size = [sum(p.numel() for p in calls.net.parameters()) / 1e6 for calls in networks]
    beside = f" | {peer.name} ({size[1]:.2f}M)" if peer else ", no peer"
    print(f"{kind} ({size[0]:.2f}M), batch {ours.batch}{beside}", flush=True)
    counts = {}
    for what, step in all_steps[0].items():
        with FlopCounterMode(display=False) as counter:
            step()
        counts[what] = counter.get_total_flops()
    compile_blocks(ours.calls.net, args.compile)
    if peer is not None:
        compile_peer(peer, "none" if args.peers_eager else args.compile)
    for what, flops in counts.items():
        times = in_turn([steps[what] for steps in all_steps], args.repeats, cuda)
        print(f"  {what:<7}" + described(times, flops, args), flush=True)


def described(times: list[list[Seconds]], flops: int, args: Any) -> str:
    """Median and least milliseconds of each, ratios, and how much of the device ours uses."""
    clocks = ("wall",) if args.device == "cuda" else ("process", "wall")
    found = []
    for name, which in zip(("ours", "peer"), times):
        least = min(getattr(t, clocks[0]) for t in which)
        found.append(f"{name} {1e3 * median(which, clocks[0]):7.1f} ms (least {1e3 * least:.1f})")
    for name in clocks if len(times) == 2 else ():
        ratio = statistics.median(getattr(b, name) / getattr(a, name) for a, b in zip(*times))
        found.append(f"{'ratio' if name == clocks[0] else name} {ratio:.2f}")
    rate = flops / median(times[0], "wall")
    found.append(f"{flops / 1e9:.1f} GFLOP, {rate / 1e9:.0f} a second")
    card = torch.cuda.get_device_name().lower() if args.device == "cuda" else ""
    words = re.split(r"[\s-]+", card.replace("rtx ", "rtx"))
    for gpu in GPUS:
        if gpu.name in words:
            found.append(f"utilisation {rate / gpu.peak(args.precision):.1%}")
    return "  ".join(found)


class Clocked(Throughput):
    """Notes what each step took, besides."""

    took: ClassVar[list[Seconds]] = []
    last: Seconds | None = None

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        super().on_train_batch_end(*args, **kwargs)
        if self.last is not None:
            self.took.append(since(self.last))
        self.last = since()


def trained(name: str, overrides: list[str]) -> Finished:
    """Train an experiment as the command does."""
    Clocked.took.clear()
    run_train.Throughput = Clocked  # type: ignore[misc]
    with contextlib.redirect_stdout(io.StringIO()):
        return run_train.train(load_experiment(name, overrides))


LOOPS = {
    "prior": ("prior/diffusion_tiny", []),
    "decoder": ("decoder/tiny", ["data.batch_size=16"]),
    "upsampler": ("upsampler/256_tiny", []),
}


def loop(kind: str, args: Any, folder: Path) -> None:
    """Print a line for each part of a step, and for each way to get the data."""
    gpu, bf16 = args.device == "cuda", args.precision == "bf16"
    common = [f"run.root={folder}", "trainer.val_every=0", "trainer.sample_every=0"]
    common += [f"trainer.accelerator={'gpu' if gpu else 'cpu'}", "data.val_samples=4"]
    common += [f"trainer.precision={'bf16-mixed' if bf16 else '32'}"]
    common += [f"trainer.compile={args.compile}"]
    name, overrides = LOOPS[kind]
    overrides = [*common, *overrides, "sampler.steps=2"]
    if kind != "upsampler":
        parent = trained("clip/tiny", [*common, "trainer.max_steps=1"])
        overrides.append(f"clip={parent.artifact}")
    resolved = load_experiment(name, overrides)
    data, stage, _ = assemble(resolved, parents(resolved))
    own: Any = stage.to(args.device).train()
    clip = own.frozen_clip.model.to(args.device) if kind != "upsampler" else None
    own.schedule = own.schedule.to(args.device)
    batch = next(iter(data.train_dataloader()))
    batch = own.transfer_batch_to_device(batch, torch.device(args.device), 0)
    samples = resolved.config.data.batch_size
    with torch.device(args.device):  # where the planned step makes its inputs
        given = planned.given_by(clip, resolved, samples)
    optimizer = build_optimizer(own.net, resolved.config.optim)

    def network() -> Tensor:
        with torch.device(args.device):
            return planned.loss(own.net, resolved, given, planned.Share(samples, 1))

    def whole() -> Tensor:
        first = own.encode(batch) if kind == "prior" else batch
        draws = StepRandom(0, 0, device=args.device)
        return own.loss(own.net, first, draws, training=True)["loss"]

    def step(loss: Callable[[], Tensor]) -> None:
        with torch.autocast(args.device, torch.bfloat16, enabled=bf16):
            value = loss()
        value.backward()
        optimizer.step()
        optimizer.zero_grad()

    print(f"{name}, batch {samples}: medians per step in milliseconds", flush=True)
    bare: list[Step] = [lambda: step(network), lambda: step(whole)]
    before = in_turn(bare, args.repeats, gpu)
    file = str(packed(data, folder / "packed.parquet"))
    for source, workers in (("scenes", 0), ("scenes", 1), ("scenes", 2), (file, 0), (file, 2)):
        given_data = [f"data.source={source}", f"data.num_workers={workers}", "data.held_out=0.1"]
        done = trained(name, [*overrides, *given_data, f"trainer.max_steps={3 * args.repeats}"])
        share = f"waits for data {done.summary['data_wait']:.1%}"
        row(f"unclip train, {Path(source).stem}, {workers} workers", Clocked.took, share)
    alone = [a + b for a, b in zip(before, in_turn(bare, args.repeats, gpu))]
    row("the network, mean square, AdamW", alone[0])
    row("with frozen CLIP, noise and losses", alone[1])


def row(title: str, times: list[Seconds], more: str = "") -> None:
    wall, process = (1e3 * median(times, name) for name in Seconds._fields)
    print(f"  {title:<36} wall {wall:7.1f}  processor {process:7.1f}  {more}", flush=True)


def packed(data: Any, path: Path, count: int = 1024) -> Path:
    """Training samples as PNGs in a parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    images, captions = [], []
    for k in range(count):
        sample, file = data.splits.train[k], io.BytesIO()
        Image.fromarray(sample.image).save(file, "png")
        images.append({"bytes": file.getvalue(), "path": f"{sample.key}.png"})
        captions.append(sample.captions)
    pq.write_table(pa.table({"image": images, "caption": captions}), path, row_group_size=256)
    return path


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    p.add_argument("networks", nargs="*", metavar="NETWORK", help=", ".join(NETWORKS))
    p.add_argument("--loop", action="store_true", help="measure the training loop instead")
    p.add_argument("--size", choices=["tiny", "m", "l"], default="tiny", help="m, l: for GPUs")
    p.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    p.add_argument("--precision", choices=["32", "bf16"], default="32", help="bf16: autocast")
    p.add_argument("--compile", choices=["none", "blocks", "model"], default="none")
    p.add_argument("--peers-eager", action="store_true", help="compile ours alone")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--repeats", type=int, default=15, help="pairs of steps")
    p.add_argument("--channels-last", action="store_true", help="the peer's U-Nets too")
    args = p.parse_args()
    unknown = set(args.networks) - set(LOOPS if args.loop else NETWORKS)
    if unknown:
        p.error(f"no network {', '.join(sorted(unknown))}")
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    torch._dynamo.config.recompile_limit = 256  # all blocks of a class share one function
    print(f"torch {torch.__version__}, {args.device}, {args.precision}, compile {args.compile}")
    if args.loop:
        for kind in args.networks or LOOPS:
            with tempfile.TemporaryDirectory() as folder:
                loop(kind, args, Path(folder))
    for kind in () if args.loop else args.networks or NETWORKS:
        for make_peer in PEERS[kind] or [None]:
            try:
                compare(kind, make_peer, args)
            except Missing as missing:
                print(f"{kind} | {missing}")
            gc.collect()


if __name__ == "__main__":
    main()
