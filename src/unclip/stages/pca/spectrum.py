"""What a PCA codec keeps: a plot of the spectrum and the error against the number of components."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from torch import Tensor

from unclip.embeddings.codec import Codec, CodecSummary


class FittedPca(NamedTuple):
    """A codec and how well it does."""

    codec: Codec
    lost: Tensor  # [D + 1]: share of variance lost with k = 0 ... D components
    summary: CodecSummary
    samples: int


def _rows(fitted: FittedPca) -> list[int]:
    """Numbers of components worth a line: doubling, the chosen one, all."""
    k, dim = fitted.codec.k, fitted.codec.dim
    powers = [2**n for n in range(dim.bit_length()) if 2**n < dim]
    return sorted({*powers, k, dim})


def text(fitted: FittedPca) -> str:
    """A table and a line for the terminal."""
    lines = ["components  variance lost"]
    for k in _rows(fitted):
        chosen = "  <- kept" if k == fitted.codec.k else ""
        lines.append(f"{k:>10}  {fitted.lost[k].item():>13.4%}{chosen}")
    summary = fitted.summary
    lines.append(
        f"{fitted.samples} embeddings of {fitted.codec.dim} numbers, {fitted.codec.buckets} buckets"
        f": explained variance {summary.explained_variance:.2%}; cosine to the original "
        f"{summary.cosine_pca:.4f} before, {summary.cosine_codes:.4f} after quantization"
    )
    return "\n".join(lines)


def write(folder: Path, fitted: FittedPca) -> None:
    """``errors.csv`` (every k) and ``spectrum.png`` in ``folder``."""
    lost, values = fitted.lost.tolist(), fitted.codec.pca.eigenvalues.tolist()
    lines = ["components,eigenvalue,variance_lost", f"0,,{lost[0]:.9g}"]
    lines += [f"{k},{values[k - 1]:.9g},{lost[k]:.9g}" for k in range(1, len(lost))]
    (folder / "errors.csv").write_text("\n".join(lines) + "\n")
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), constrained_layout=True)
    left.semilogy(range(1, len(values) + 1), [max(v, 1e-12) for v in values])
    left.set(xlabel="component", ylabel="eigenvalue", title="Spectrum of image embeddings")
    right.semilogy(range(1, len(lost)), [max(v, 1e-12) for v in lost[1:]])
    right.set(xlabel="components kept", ylabel="share of variance lost", title="Error")
    for axes in (left, right):
        axes.axvline(fitted.codec.k, color="tab:red", linewidth=1)
        axes.grid(alpha=0.3)
    right.annotate(f" k = {fitted.codec.k}", (fitted.codec.k, 1), color="tab:red", va="top")
    figure.savefig(folder / "spectrum.png", dpi=110)
    plt.close(figure)
