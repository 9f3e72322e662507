"""What every stage's LightningModule shares: network and EMA, optimizer, rng, summary."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, NamedTuple

import lightning as L
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from unclip.common.adapters import WORD, adapts, learns_word
from unclip.common.errors import UserError
from unclip.common.images import CaptionedImage
from unclip.common.seeding import derive_seed
from unclip.common.terminal import say
from unclip.embeddings import words
from unclip.embeddings.clip import FrozenClip
from unclip.nn.compilation import compile_blocks, missing_for_compilation
from unclip.training import adapters, precision, strategies
from unclip.training.blocks import checkpoint_blocks, offload_blocks
from unclip.training.config import OptimConfig
from unclip.training.encodings import Reads
from unclip.training.means import Mean, Means, combined, mean_of_processes, means_of
from unclip.training.optim import build_optimizer, lr_factor
from unclip.training.random import StepRandom


class Preview(NamedTuple):
    """Samples of a validation batch, and what can be measured on them."""

    images: list[CaptionedImage]
    metrics: dict[str, float]  # logged as val/NAME


class Score(NamedTuple):
    """How well samples match the batch that was memorised; more is better."""

    name: str
    value: float
    bound: float  # what a sound stage reaches


class Monitor(NamedTuple):
    """The figure by which a stage's result is judged."""

    name: str  # as logged, for example val/retrieval
    better: str  # higher | lower


class Stage(L.LightningModule):
    """A network that trains, its average, and the frozen CLIP it may depend on.

    A subclass gives `training_step`, `validation_step`, `preview` and `monitor`.
    """

    monitor: ClassVar[Monitor]
    step_random: ClassVar[type[StepRandom]] = StepRandom  # how a step draws
    fitted: ClassVar[tuple[str, ...]] = ()  # the weights that `prepare` sets
    exported: ClassVar[str] = (
        ""  # the submodule whose weights are exported; "" is the whole network
    )
    net: nn.Module
    ema: nn.Module | None

    def __init__(self, experiment: Any, net: nn.Module, clip: FrozenClip | None = None):
        super().__init__()
        self.experiment = experiment
        self.net = net
        self.ema = None
        if experiment.averages:  # a sharded one gets its values in `configure_model`
            make = strategies.hollow if self._shards else copy.deepcopy
            self.ema = make(net).requires_grad_(False).eval()
        self.clip = clip  # not a submodule: it belongs neither in checkpoints nor in DDP
        self.grad_norm: Tensor | None = None  # of the newest optimizer step, before clipping
        self.completes_step = True  # whether the optimizer steps after this micro-batch
        self._micro_batches: list[Means] = []  # what to log of this step's
        self._validation_batches: list[int] = []  # samples in each
        self._configured = False
        self.waiting_since = 0.0  # when all that follows a micro-batch was done

    def begun(self) -> None:
        """The network has the weights of ``init``, and nothing has trained yet."""

    def adapt(self) -> None:
        """Train an adapter in place of the network's own weights, if the experiment wants one."""
        if not self.is_adapted:
            return
        put: Callable[[nn.Module], None] = partial(adapters.inject, config=self.experiment.adapter)
        if self.learns_word:
            put = self._learn()
        put(self.net)
        if self.ema is not None:
            put(self.ema)
            self.ema.requires_grad_(False).eval()
            self.restart_average()
            if not self._shards:
                adapters.share(self.ema, self.net)

    def _learn(self) -> Callable[[nn.Module], None]:
        """Teach the frozen CLIP the word whose rows train; returns what puts them into a network.

        Raises:
            UserError: the word is not new, its initial words do not fit, or no text is read.
        """
        if not self.reads.text:
            raise UserError(
                "adapter.kind=token: nothing that the CLIP says of captions is read here; train "
                "the prior, or a decoder with model.caption=clip"
            )
        config, clip = self.experiment.adapter, self.frozen_clip.model
        word = words.new_word(clip, config.token, key="adapter.token")
        rows = words.first_rows(clip, config.vectors, config.initial, key="adapter.initial")

        def now() -> Tensor:
            found: Tensor = getattr(self.net if self.training else self.sampling_net, WORD)
            return found

        words.teach_while_training(clip, word, config.vectors, now)
        return lambda net: adapters.inject_word(net, rows.clone())

    @property
    def learns_word(self) -> bool:
        """Whether what trains is a word of the frozen CLIP, and nothing of the network."""
        return learns_word(self.experiment)

    @property
    def is_adapted(self) -> bool:
        """Whether an adapter trains, and is exported alone."""
        return adapts(self.experiment)

    def holds(self, name: str) -> bool:
        """Whether checkpoints have what the state dict calls ``name``; not an adapter's base."""
        of_network = name.startswith(("net.", "ema."))
        return not self.is_adapted or not of_network or adapters.own_name(name) is not None

    @property
    def sampling_net(self) -> Any:
        """The weights that sample and are exported: the average where there is one."""
        return self.net if self.ema is None else self.ema

    def train(self, mode: bool = True) -> Stage:
        """Switch dropout of the trained network only; the average is always in eval mode."""
        super().train(mode)
        if self.ema is not None:
            self.ema.eval()
        return self

    def configure_model(self) -> None:
        """Prepare the network for how it is trained; Lightning calls it before every fit."""
        if self._configured:
            return
        self._configured = True
        trainer, gpu = self.experiment.trainer, self.trainer.strategy.root_device.type == "cuda"
        if trainer.precision == "bf16-true":
            precision.to_bfloat16(self.net)
        checkpoint_blocks(self.net, trainer.activation_checkpointing)
        if trainer.activation_offload:
            offload_blocks(self.net)
        compile_blocks(self.net, self._compilation(gpu=gpu))
        whole = dict([*self.net.named_parameters(), *self.net.named_buffers()])
        for net in (self.net,) if self.ema is None else (self.net, self.ema):
            if self._shards:
                strategies.shard(net, trainer, self.device_mesh)  # type: ignore[arg-type]
            elif self._channels_last(gpu=gpu):  # FSDP2 takes contiguous weights alone
                net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self._shards and self.trainer.world_size > 1:
            device = self.trainer.strategy.root_device
            keep = torch.device("cpu") if trainer.cpu_offload else device
            strategies.spread(self.net, whole, device=device, keep=keep)
        if self._shards and self.ema is not None:
            strategies.fill(self.ema, self.net)

    @property
    def _shards(self) -> bool:
        """Whether processes have a share of the weights each."""
        return bool(self.experiment.trainer.strategy == "fsdp")

    def _channels_last(self, *, gpu: bool) -> bool:
        """What `trainer.memory_format` comes to here."""
        how: str = self.experiment.trainer.memory_format
        return gpu if how == "auto" else how == "channels_last"

    def restart_average(self) -> None:
        """Let the average begin from the network's weights as they are now."""
        if self.ema is not None and not self._shards:
            self.ema.load_state_dict(self.net.state_dict())

    def _compilation(self, *, gpu: bool) -> str:
        """What `trainer.compile` comes to here."""
        how: str = self.experiment.trainer.compile
        if how != "auto":
            return how
        if not gpu or self.experiment.trainer.activation_offload:
            return "none"
        reason = missing_for_compilation(self.trainer.strategy.root_device)
        if reason is None:
            return "blocks"
        if self.trainer.is_global_zero:
            line = f"trainer.compile=auto: nothing is compiled, because it fails here: {reason}"
            say(line, error=True)
        return "none"

    def on_fit_start(self) -> None:
        """Bring the frozen CLIP to the device."""
        if self.clip is not None:
            self.clip.model.to(self.device)
            data: Any = getattr(self.trainer, "datamodule", None)
            if data is not None:
                reads = self.reads
                if self.learns_word:  # what the CLIP says of texts changes with every step
                    reads = Reads(image=reads.image)
                data.keep_encodings(self.clip, reads)

    @property
    def reads(self) -> Reads:
        """What the stage reads of the frozen CLIP, as far as it may come from disk."""
        return Reads()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Dropout draws from torch's global generator, which no checkpoint holds: seed it again."""
        accumulate = self.trainer.accumulate_grad_batches
        micro = batch_idx % accumulate
        if micro == 0:
            self._micro_batches.clear()
        self.completes_step = micro == accumulate - 1
        number = self.global_step * accumulate + micro  # the same after a resume
        seed = self.experiment.trainer.seed
        torch.manual_seed(derive_seed("dropout", seed, number, self.global_rank))

    def on_train_start(self) -> None:
        """Training begins: see `on_train_batch_end`."""
        self.waiting_since = time.perf_counter()

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Note the time; Lightning calls this after the same hook of all callbacks."""
        scaling = getattr(self.trainer, "precision_plugin", None)
        if isinstance(scaling, precision.LossScaling) and self._was_written:
            self.log("train/loss_scale", scaling.scale)
            self.log("train/skipped_steps", float(scaling.skipped))
        self.waiting_since = time.perf_counter()

    def on_validation_epoch_start(self) -> None:
        """Note the sizes of the batches to come: see `validation_rng`."""
        batches = getattr(self.trainer.val_dataloaders, "batch_sampler", None)
        if isinstance(batches, list):
            self._validation_batches = [len(batch) for batch in batches]

    def on_validation_end(self) -> None:
        """Likewise after a validation."""
        self.waiting_since = time.perf_counter()

    def rng(self, batch_idx: int) -> StepRandom:
        """The random draws of this micro-batch, its samples' share of the global batch's."""
        accumulate = self.trainer.accumulate_grad_batches
        micro, before, after = batch_idx % accumulate, 0, 0
        if accumulate > 1:
            each = self.experiment.data.batch_size // accumulate
            before, after = micro * each, (accumulate - 1 - micro) * each
        return self.step_random(
            self.experiment.trainer.seed,
            self.global_step,
            self.global_rank,
            self.trainer.world_size,
            self.device,
            before,
            after,
        )

    def validation_rng(self, batch_idx: int) -> StepRandom:
        """The same draws at every validation, so that the curve shows the model alone.

        And on every process: each validates on all held-out samples, and what one logs the others
        must log as well, or they wait for each other for ever. Where a process loads less than a
        global batch at a time, the draws are still those of whole global batches.
        """
        seed, batches = self.experiment.trainer.seed, self._validation_batches
        if not batches:
            return self.step_random(seed, -1 - batch_idx, device=self.device)
        size, first = self.experiment.data.batch_size, sum(batches[:batch_idx])
        number, before = divmod(first, size)
        whole = min(size, sum(batches) - number * size)
        after = whole - before - batches[batch_idx]
        return self.step_random(
            seed, -1 - number, device=self.device, before=before, after=max(after, 0)
        )

    def configure_optimizers(self) -> Any:
        """The optimizer and its warm-up, stepped per optimizer step."""
        config: OptimConfig = self.experiment.optim
        trainer = self.experiment.trainer
        optimizer = build_optimizer(
            self.net, config, rounding=trainer.seed if trainer.precision == "bf16-true" else None
        )
        max_steps = trainer.max_steps
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: lr_factor(step, config, max_steps)
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by norm, and log the norm (Lightning's own refuses fused optimizers)."""
        limit = float("inf") if gradient_clip_val is None else gradient_clip_val
        norm = nn.utils.clip_grad_norm_(self.net.parameters(), limit)
        self.grad_norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if self._written:
            self.log("train/grad_norm", self.grad_norm)  # type: ignore[arg-type]

    @property
    def _written(self) -> bool:
        """Whether the loggers write down what this step logs."""
        return (self.global_step + 1) % self.experiment.trainer.log_every == 0

    @property
    def _was_written(self) -> bool:
        """Likewise of the step that this micro-batch ended."""
        return self.completes_step and self.global_step % self.experiment.trainer.log_every == 0

    def log_loss(self, split: str, values: dict[str, Any], batch: int) -> None:
        """Log means as ``split/name``; ``loss`` is shown in the progress bar.

        In training they are means over the micro-batches of a step. All but the loss are logged in
        the steps that are written down alone, since logging takes time; there they are means over
        all processes too.
        """
        if split == "train" and not self._written:
            values = {"loss": values["loss"]}
        means = means_of(values)
        if split == "train":
            self._micro_batches.append(means)
            if not self.completes_step:
                return
            means = combined(self._micro_batches)
            self._micro_batches.clear()
            if self.trainer.world_size > 1 and self._written:
                means = mean_of_processes(means)
        for name, mean in means.items():
            samples = batch
            if split != "train":
                if mean.value.isnan():
                    continue
                if isinstance(values[name], Mean):
                    samples = int(mean.count)
            self.log(
                f"{split}/{name}",
                mean.value,
                prog_bar=name == "loss" and split == "train",
                batch_size=samples,
                on_step=split == "train",
                on_epoch=split != "train",
                sync_dist=split != "train",
            )

    def preview(self, batch: Any) -> Preview:
        """Samples drawn with the averaged weights for a validation batch."""
        raise NotImplementedError

    def sampled(self, batch: Any, first: int) -> Tensor:
        """An image ``[B, 3, S, S]`` for each sample's conditions, by the averaged weights.

        ``first`` is the number of the batch's first sample, which the noise depends on.
        """
        raise NotImplementedError

    def overfit_scores(self, batch: Any) -> list[Score]:
        """Samples for the conditions of ``batch``, against it, after training on it alone."""
        raise NotImplementedError

    def weights(self) -> dict[str, Tensor]:
        """What is exported: full tensors, on the first process alone; every process must call it.

        With FSDP all gather a tensor at a time, and the first one keeps it in the machine's memory.
        """
        strategies.reshard(self.sampling_net)
        found = {}
        sampling = self.sampling_net.get_submodule(self.exported)
        for name, tensor in sampling.state_dict().items():
            if self.is_adapted:
                if (own := adapters.own_name(name)) is None:
                    continue
                name = own
            if isinstance(tensor, DTensor):  # offloaded ones meet on the device
                there: Any = tensor.to(self.trainer.strategy.root_device)
                tensor = there.full_tensor()
                if self.global_rank > 0:
                    continue
                tensor = tensor.cpu()
            found[name] = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        return found

    @property
    def frozen_clip(self) -> FrozenClip:
        """The CLIP this stage depends on."""
        if self.clip is None:
            raise RuntimeError(f"{type(self).__name__} was built without a CLIP")
        return self.clip

    @property
    def embed_dim(self) -> int | None:
        """D of the embeddings it was trained on, or makes; None of a stage without."""
        return getattr(self.experiment.model, "embed_dim", None)

    @property
    def uses_embeddings(self) -> bool:
        """Whether the network takes or makes embeddings of the frozen CLIP."""
        return self.clip is not None

    def prepare(self, data: Any, device: torch.device) -> None:
        """Fit what must be known before training starts; most stages have nothing of the kind."""


def own_nearest(found: Tensor, true: Tensor) -> Score:
    """Share of ``found`` ``[B, ...]`` that are nearest to their own of ``true`` ``[B, ...]``."""
    nearest = torch.cdist(found.flatten(1).float(), true.flatten(1).float()).argmin(dim=1)
    own = nearest == torch.arange(len(found), device=found.device)
    return Score("nearest to their own", own.float().mean().item(), 1.0)
