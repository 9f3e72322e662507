"""`unclip.Pipeline`: opens whatever ``--pipeline`` takes on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from unclip.common.devices import find_device
from unclip.pipeline import pipeline
from unclip.pipeline.execution import choose_compilation, choose_offload
from unclip.pipeline.precision import choose_precision
from unclip.sharing.cache import cascade_folder


class Pipeline(pipeline.Pipeline):
    """The pipeline (see `unclip.pipeline.pipeline.Pipeline`), opened by a cascade's name too."""

    @classmethod
    def load(
        cls,
        folder: Path | str,
        device: torch.device | str = "cpu",
        precision: str = "32",
        offload: str = "none",
        compile: str = "none",
        adapters: Sequence[str] = (),
    ) -> Pipeline:
        """From a cascade's folder, its bundle, a name (``karlo``) or ``hf://ORG/NAME[@REVISION]``.

        Bundles are unpacked, published cascades downloaded and imported into the cache by the first
        call (`unclip.sharing.cache.cascade_folder`). ``adapters`` (``PATH`` or ``PATH:WEIGHT``)
        are added to the stages that they were trained on.

        Raises:
            UserError: there is no such cascade, or it is refused.
        """
        if isinstance(folder, (str, Path)):
            place = find_device(str(device), key="device")
            choose_precision(precision, place, key="precision")
            choose_offload(offload, place, key="offload")
            choose_compilation(compile, place, offload, key="compile")
            folder = cascade_folder(folder)
        return cls(pipeline.open_folder(folder, device, precision, offload, compile, adapters))
