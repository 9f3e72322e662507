"""The paper's zero-shot FIDs on MS-COCO, and whether a figure of ours can stand beside them."""

from __future__ import annotations

from unclip.evaluation.metrics.conditions import ImagesEvaluation
from unclip.evaluation.protocols.captioned import Protocol

TABLE_2 = {"GLIDE": 12.24, "unCLIP (AR prior)": 10.63, "unCLIP (diffusion prior)": 10.39}
"""arXiv 2204.06125, table 2: 256 px, captions of the validation set of 2014."""
CAPTIONS, IMAGES, DRAWN = 202_654, 40_504, 30_000  # of that set, and drawn from it
WEIGHTS = "6726825d"  # how the sha256 of FID's Inception, as converted to torch, begins


def not_comparable(found: ImagesEvaluation, protocol: Protocol) -> list[str]:
    """Why ``found`` is not a figure of the paper's kind; empty if nothing speaks against it."""
    c = found.conditions
    whole = f"({CAPTIONS:,})" in protocol.chosen
    reasons = {
        f"--protocol {protocol.name}": protocol.name != "coco30k",
        "not MS-COCO's validation set of 2014": not whole,
        f"{c.n or 0:,} captions, not {DRAWN:,}": c.n != DRAWN,
        f"{c.size} px, not 256": c.size != 256,
        f"features of {c.features}, not Inception": c.features != "inception",
        "other weights of Inception": c.features == "inception" and c.sha256[:8] != WEIGHTS,
        f"float{c.precision} features": c.precision != "32",
    }
    return [reason for reason, holds in reasons.items() if holds]


def beside_the_paper(found: ImagesEvaluation, protocol: Protocol) -> list[list[str]]:
    """A table: the paper's rows, and ours with what keeps it from being compared."""
    lines = [["", "zero-shot FID", "comparable"]]
    lines += [[f"{name} (the paper)", f"{value:.2f}", ""] for name, value in TABLE_2.items()]
    name = next((name for name in found.figures if name.startswith(("FID", "FD-"))), None)
    if name is None:
        return lines
    reasons = not_comparable(found, protocol)
    told = f"no: {'; '.join(reasons)}" if reasons else "yes, as far as the paper tells"
    kind = "" if name == "FID" else f" ({name})"
    return [*lines, [found.title, f"{found.figures[name].value:.2f}{kind}", told]]
