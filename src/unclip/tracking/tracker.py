"""What of a run goes to Weights & Biases, and in what form."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger

from unclip.common.artifacts import FILES, Artifact
from unclip.common.errors import Interrupted
from unclip.common.images import CaptionedImage
from unclip.tracking.connection import first_line, remark
from unclip.tracking.files import read_best

UNITS = {
    "trainer/global_step": "optimizer steps",
    "*/loss": "what is minimised, per stage",
    "*/loss_q*": "the same in a quarter of the timesteps or codes",
    "*/mse": "mean squared error of the prediction",
    "*/vb": "bits per dimension",
    "train/logit_scale": "1 / temperature",
    "train/grad_norm": "L2 norm of all gradients, before clipping",
    "lr-*": "step size",
    "val/*cosine*": "-1 to 1",
    "val/retrieval": "share, 0 to 1",
    "val/retrieval_top1": "share, 0 to 1",
    "val/retrieval_rank": "rank, 1 = best",
    "val/frechet": "squared distance in embedding space",
    "val/variance_kept": "ratio, 1 = as the images'",
    "val/n": "samples",
    "val/psnr*": "dB",
    "samples_per_second": "samples/s, mean of the run so far",
    "data_wait": "share of the step time, 0 to 1",
    "data_skipped": "samples",
    "peak_memory_gib": "GiB, of a GPU, or of the process on a CPU",
    "seconds": "s",
}
"""What is logged, and in which unit; a run's config on W&B has this too."""

WEIGHTS = "weights.safetensors"


class Tracker(WandbLogger):
    """Sends metrics, images and results; no failure of W&B ends a training."""

    def __init__(self, run: Any, folder: Path, weights: bool, sent: dict[str, int]):
        """``sent``: name -> the last step that the run on W&B has already."""
        super().__init__(experiment=run)
        self.folder = folder
        self.weights = weights
        self.sent = sent
        self._failed = False
        with self._forgiving():
            run.define_metric("trainer/global_step", hidden=True)
            run.define_metric("*", step_metric="trainer/global_step")
            run.define_metric("train/grad_norm", summary="last,mean,max")

    def lean_on(self, parents: list[Artifact]) -> None:
        """Draw the line from each artifact that this run uses, where W&B knows it."""
        import wandb

        for parent in parents:
            if not self.experiment.offline:
                with self._forgiving(unknown=(wandb.errors.CommError, ValueError)):
                    self.experiment.use_artifact(f"{parent.stage}:{_alias(parent)}")

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """What the run on W&B has not yet; what was not measured (NaN) is left out."""
        fresh = {
            name: value
            for name, value in metrics.items()
            if name != "epoch"
            and not (isinstance(value, float) and math.isnan(value))
            and (step is None or step > self.sent.get(name, -1))
        }
        with self._forgiving():
            if fresh:
                super().log_metrics(fresh, step)

    def publish(self, images: list[CaptionedImage], step: int) -> None:
        """Sample images: a gallery, and a table that has their steps and seeds too."""
        import wandb

        if self._failed:  # without a network W&B would wait at each table, and training for it
            return
        with self._forgiving():
            gallery = [wandb.Image(p.image, caption=p.caption) for p in images]
            rows = [[step, p.caption, wandb.Image(p.image), p.seed] for p in images]
            table = wandb.Table(columns=["step", "caption", "image", "seed"], data=rows)
            self.log_metrics({"samples": gallery, "samples_table": table}, step)

    def finished(self, summary: dict[str, Any], artifact: Artifact, *, kind: str) -> None:
        """The run's last figures and the best of its checkpoints; its artifact, of type ``kind``.

        The artifact is the description (config, provenance, checksum), with the weights where
        ``tracking.log_weights`` says so.
        """
        figures = {k: v for k, v in summary.items() if isinstance(v, int | float)}
        metrics = summary.get("metrics", {})
        figures |= {k: v for k, v in metrics.items() if k.startswith("val/")}
        if found := read_best(self.folder / "checkpoints"):
            figures |= {f"best/{found['name']}": found["value"], "best/step": found["step"]}
        with self._forgiving():
            self.experiment.summary.update(figures)
        files = [artifact.path / name for name in FILES if self.weights or name != WEIGHTS]
        about = {"sha256": artifact.sha256, "embed_dim": artifact.embed_dim}
        self.keep(artifact.stage, kind, files, about, [_alias(artifact)])

    def keep(
        self,
        name: str,
        kind: str,
        files: list[Path],
        about: dict[str, Any] | None = None,
        aliases: list[str] | None = None,
    ) -> None:
        """Log ``files`` as a version of the artifact ``name``."""
        import wandb

        with self._forgiving():
            made = wandb.Artifact(name, type=kind, metadata=about)
            for file in files:
                large = file.name == WEIGHTS  # gigabytes: uploaded from where they are
                policy: Any = "immutable" if large else "mutable"
                made.add_file(str(file), policy=policy, skip_cache=large)
            self.experiment.log_artifact(made, aliases=aliases)

    def close(self, error: BaseException | None) -> None:
        """End the run on W&B: finished, failed, or preempted (it can be resumed)."""
        import wandb

        interrupted = isinstance(error, Interrupted)
        with self._forgiving():
            if interrupted and not self.experiment.sweep_id:  # a sweep would start it again
                self.experiment.mark_preempting()
            self.experiment.finish(exit_code=0 if error is None else 75 if interrupted else 1)
        with self._forgiving():
            wandb.teardown()  # the next run of this process has other settings
        wandb.run = None  # is left behind where finishing failed

    @contextmanager
    def _forgiving(self, unknown: tuple[type[Exception], ...] = ()) -> Iterator[None]:
        try:
            yield
        except unknown:
            pass
        except Exception as error:  # whatever it is, the training is worth more
            if not self._failed:
                remark(f"{first_line(error)}; from here on only {self.folder} has everything")
            self._failed = True


def _alias(artifact: Artifact) -> str:
    """How a run finds the artifact that it depends on."""
    return artifact.sha256[:12]
