"""What an experiment file says about how a stage is trained. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal

from unclip.common.checks import require, require_choices
from unclip.common.seeds import require_seed

OptimizerName = Literal["adamw", "adamw8bit", "muon"]
LrSchedule = Literal["constant", "cosine"]


@dataclass(kw_only=True)
class OptimConfig:
    """AdamW with decoupled weight decay; steps are optimizer steps."""

    GONE: ClassVar[dict[str, str]] = {"sam_rho": "only the stage clip is trained with SAM"}
    sam_rho: ClassVar[float] = 0.0

    name: OptimizerName = "adamw"  # adamw8bit: moments of 8 bits; muon: for weights
    lr: float = 1.2e-4  # peak learning rate
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup_steps: int = 0  # linear warm-up from 0 (not in the paper)
    schedule: LrSchedule = "constant"  # after the warm-up; cosine: to 0 at trainer.max_steps

    def validate(self) -> None:
        """Refuse values out of range."""
        require_choices(self, "optim")
        require(self.lr > 0, "optim.lr", "must be positive")
        require(
            len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas),
            "optim.betas",
            "must be two numbers in [0, 1)",
        )
        require(self.eps > 0, "optim.eps", "must be positive")
        require(self.weight_decay >= 0, "optim.weight_decay", "must not be negative")
        require(self.warmup_steps >= 0, "optim.warmup_steps", "must not be negative")


@dataclass(kw_only=True)
class SamOptimConfig(OptimConfig):
    """The same with sharpness-aware minimisation (arXiv 2010.01412), as CLIP is trained."""

    GONE: ClassVar[dict[str, str]] = {}

    sam_rho: float = 0.0  # type: ignore[misc]  # radius of SAM's perturbation, 0 = off

    def validate(self) -> None:
        """Refuse values out of range."""
        super().validate()
        require(self.sam_rho >= 0, "optim.sam_rho", "must not be negative")


@dataclass(kw_only=True)
class EmaConfig:
    """Exponential moving average of the weights, in float32, updated per optimizer step."""

    decay: float = 0.9999
    warmup: bool = True  # decay at step n is min(decay, (1 + n) / (10 + n))

    def validate(self) -> None:
        """Refuse values out of range."""
        require(0 <= self.decay < 1, "ema.decay", "must be in [0, 1)")


@dataclass(kw_only=True)
class EvaluationConfig:
    """Samples measured against held-out images while a stage trains, and the best run by that."""

    every: int = 0  # validations between two evaluations, and once at the end; 0 = never
    features: str = "own"  # network, as --features of `unclip evaluate images`; own: the CLIP

    def validate(self) -> None:
        """Refuse values out of range."""
        require(self.every >= 0, "evaluation.every", "must not be negative")
        require(bool(self.features), "evaluation.features", "must name a network")


Precision = Literal["bf16-mixed", "16-mixed", "bf16-true", "32"]
Accelerator = Literal["auto", "cpu", "gpu", "mps"]
Strategy = Literal["auto", "ddp", "fsdp"]
Checkpointing = Literal["none", "selective", "full"]
Compile = Literal["auto", "none", "blocks", "model"]
MemoryFormat = Literal["auto", "contiguous", "channels_last"]
Attention = Literal["auto", "sdpa", "xformers", "math"]
Determinism = Literal["fast", "strict"]


@dataclass(kw_only=True)
class TrainerConfig:
    """Length, precision and rhythm of a run."""

    max_steps: int = 1000  # optimizer steps
    checkpoint_every: int = 1000  # steps; one is always written at the end
    val_every: int = 500  # steps; 0 = only at the end
    sample_every: int = 500  # steps between sample images; 0 = only at the end
    log_every: int = 20  # steps
    seed: int = 0
    precision: Precision = "bf16-mixed"  # of products; bf16-true: of weights too; 32: float32
    loss_scale: float = 65536.0  # 16-mixed: what multiplies the loss at first
    accumulate: int = 1  # micro-batches per optimizer step
    grad_clip: float = 1.0  # norm; 0 = off
    accelerator: Accelerator = "auto"  # auto: a GPU if there is one
    devices: int | str = 1  # processes per machine, a device each; auto: all GPUs, else 1
    nodes: int = 1  # machines; more than one are started by torchrun (docs/cluster.md)
    strategy: Strategy = "auto"  # auto: ddp where there are several processes; fsdp: FSDP2
    cpu_offload: bool = False  # fsdp keeps weights and optimizer states in the machine's memory
    activation_checkpointing: Checkpointing = "none"  # selective: keep the products of each block
    activation_offload: bool = False  # what autograd keeps goes to the machine's memory
    compile: Compile = "auto"  # auto: blocks on a GPU, else none
    memory_format: MemoryFormat = "auto"  # of kernels; auto: channels_last on a GPU
    attention: Attention = "auto"  # auto: sdpa
    keep_checkpoints: int = 2  # newest ones, besides the best
    early_stopping: int = 0  # end after so many validations without a better one; 0 = off
    deterministic: Determinism = "fast"  # strict: the same bits on a machine of the same kind
    threads: int | None = None  # of torch on a CPU; null: as many as it has cores

    @property
    def processes(self) -> int:
        """On all machines."""
        return self.here * self.nodes

    @property
    def here(self) -> int:
        """On this machine; `auto` counts as one until a run has counted the devices."""
        return self.devices if isinstance(self.devices, int) else 1

    def validate(self) -> None:
        """Refuse values out of range."""
        counts = ("max_steps", "checkpoint_every", "log_every", "accumulate", "here", "nodes")
        for name in (*counts, "keep_checkpoints"):
            key = "devices" if name == "here" else name
            require(getattr(self, name) >= 1, f"trainer.{key}", "must be at least 1")
        counted = isinstance(self.devices, int) or self.devices == "auto"
        require(counted, "trainer.devices", "must be a whole number, or auto")
        require_choices(self, "trainer")
        for name in ("val_every", "sample_every", "grad_clip"):
            require(getattr(self, name) >= 0, f"trainer.{name}", "must not be negative")
        require_seed(self.seed, "trainer.seed")
        require(self.early_stopping >= 0, "trainer.early_stopping", "must not be negative")
        require(
            not self.early_stopping or self.val_every > 0,
            "trainer.early_stopping",
            "needs validations to judge by: trainer.val_every must be at least 1",
        )
        require(
            not self.activation_offload or self.compile in ("auto", "none"),
            "trainer.compile",
            "must be none with trainer.activation_offload, which cannot be compiled",
        )
        require(
            not self.activation_offload or self.activation_checkpointing != "selective",
            "trainer.activation_checkpointing",
            "must be none or full with trainer.activation_offload: what selective keeps would stay",
        )
        require(self.loss_scale >= 1, "trainer.loss_scale", "must be at least 1")
        require(
            self.precision == "16-mixed" or self.loss_scale == TrainerConfig.loss_scale,
            "trainer.loss_scale",
            "has no effect without trainer.precision=16-mixed",
        )
        require(
            self.precision != "bf16-true" or self.strategy != "fsdp",
            "trainer.precision",
            "bf16-true does not work with trainer.strategy=fsdp, which shards weights of one type "
            "alone; use bf16-mixed",
        )
        require(
            not self.cpu_offload or self.strategy == "fsdp",
            "trainer.cpu_offload",
            "needs trainer.strategy=fsdp",
        )
        require(
            self.strategy != "fsdp" or self.memory_format != "channels_last",
            "trainer.memory_format",
            "must be auto or contiguous with trainer.strategy=fsdp",
        )
        require(
            self.threads is None or self.threads >= 1,
            "trainer.threads",
            "must be at least 1, or null for as many as there are cores",
        )
        require(
            self.deterministic == "fast" or self.attention != "xformers",
            "trainer.attention",
            "must be sdpa or math with trainer.deterministic=strict",
        )


@dataclass(kw_only=True)
class FitConfig:
    """How a stage without a network to train is fitted: the ``trainer`` section of a PCA."""

    GONE: ClassVar[dict[str, str]] = {
        f.name: "nothing is trained here"
        for f in fields(TrainerConfig)
        if f.name not in ("seed", "accelerator", "deterministic", "threads")
    }
    accumulate: ClassVar[int] = 1
    processes: ClassVar[int] = 1

    seed: int = 0
    accelerator: Accelerator = "auto"  # auto: a GPU if there is one
    deterministic: Determinism = "fast"  # strict: the same bits on a machine of the same kind
    threads: int | None = None  # of torch on a CPU; null: as many as it has cores

    def validate(self) -> None:
        """Refuse values out of range."""
        require_choices(self, "trainer")
        require_seed(self.seed, "trainer.seed")
        require(
            self.threads is None or self.threads >= 1,
            "trainer.threads",
            "must be at least 1, or null for as many as there are cores",
        )


@dataclass(kw_only=True)
class RunConfig:
    """Where a run's files go."""

    root: str = "runs"  # runs are kept in root/<stage>/<name>/<id>
    dir: str | None = None  # this folder instead
