"""What an experiment file says about how a stage is trained. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from unclip.models.configs import require


@dataclass(kw_only=True)
class OptimConfig:
    """AdamW with decoupled weight decay; steps are optimizer steps."""

    name: str = "adamw"  # adamw (the paper) | muon: Muon for linear layers, AdamW for the rest
    lr: float = 1.2e-4  # peak learning rate
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup_steps: int = 0  # linear warm-up from 0 (not in the paper)
    schedule: str = "constant"  # constant | cosine (to 0 at trainer.max_steps) after the warm-up

    def validate(self) -> None:
        """Refuse values out of range."""
        require(self.name in ("adamw", "muon"), "optim.name", "must be adamw or muon")
        require(self.lr > 0, "optim.lr", "must be positive")
        require(
            len(self.betas) == 2 and all(0 <= b < 1 for b in self.betas),
            "optim.betas",
            "must be two numbers in [0, 1)",
        )
        require(self.eps > 0, "optim.eps", "must be positive")
        require(self.weight_decay >= 0, "optim.weight_decay", "must not be negative")
        require(self.warmup_steps >= 0, "optim.warmup_steps", "must not be negative")
        require(
            self.schedule in ("constant", "cosine"), "optim.schedule", "must be constant or cosine"
        )


@dataclass(kw_only=True)
class EmaConfig:
    """Exponential moving average of the weights, in float32, updated per optimizer step."""

    decay: float = 0.9999
    warmup: bool = True  # decay at step n is min(decay, (1 + n) / (10 + n))

    def validate(self) -> None:
        """Refuse values out of range."""
        require(0 <= self.decay < 1, "ema.decay", "must be in [0, 1)")


@dataclass(kw_only=True)
class TrainerConfig:
    """Length, precision and rhythm of a run."""

    max_steps: int = 1000  # optimizer steps
    checkpoint_every: int = 1000  # steps; one is always written at the end
    val_every: int = 500  # steps; 0 = only at the end
    sample_every: int = 500  # steps between sample pictures; 0 = only at the end
    log_every: int = 20  # steps
    seed: int = 0
    precision: str = "bf16-mixed"  # bf16-mixed | 32
    accumulate: int = 1  # micro-batches per optimizer step
    grad_clip: float = 1.0  # norm; 0 = off
    accelerator: str = "auto"  # auto | cpu | gpu
    devices: int = 1

    def validate(self) -> None:
        """Refuse values out of range."""
        for name in ("max_steps", "checkpoint_every", "log_every", "accumulate", "devices"):
            require(getattr(self, name) >= 1, f"trainer.{name}", "must be at least 1")
        for name in ("val_every", "sample_every", "grad_clip", "seed"):
            require(getattr(self, name) >= 0, f"trainer.{name}", "must not be negative")
        require(
            self.precision in ("bf16-mixed", "32"), "trainer.precision", "must be bf16-mixed or 32"
        )
        require(
            self.accelerator in ("auto", "cpu", "gpu"),
            "trainer.accelerator",
            "must be auto, cpu or gpu",
        )


@dataclass(kw_only=True)
class RunConfig:
    """Where a run's files go."""

    root: str = "runs"  # runs are kept in root/<stage>/<name>/<id>
    dir: str | None = None  # this folder instead


@dataclass(kw_only=True)
class TrackingConfig:
    """Where metrics go besides the run's own metrics.jsonl."""

    wandb: bool = False  # log to Weights & Biases (WANDB_MODE=offline works)
    project: str = "unclip"
    entity: str | None = None
