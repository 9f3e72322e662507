"""One training step on fake tensors: what it computes and what it keeps, when."""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from unclip.common.adapters import learns_word
from unclip.config.load import ResolvedExperiment
from unclip.embeddings.clip import Clip
from unclip.stages.experiment import teaches
from unclip.stages.interface import Given, Share, some_tokens
from unclip.stages.row import CLIP

_ATEN = torch.ops.aten
_CAST = _ATEN._to_copy.default
_DEVICE = torch.ops.prim.device.default

# torch 2.11 does not know those of attention on a CPU.
FLOPS = {
    _ATEN._scaled_dot_product_flash_attention_for_cpu: flop_registry[
        _ATEN._scaled_dot_product_flash_attention
    ],
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: flop_registry[
        _ATEN._scaled_dot_product_flash_attention_backward
    ],
    **flop_registry,
}
"""Operation -> how many floating-point operations a call of it is."""


class Live(NamedTuple):
    """Bytes of all tensors at a moment, without the weights."""

    activations: int  # and the batch, and temporaries
    copies: int  # of weights in 16 bits
    gradients: int  # of the weights, once they are theirs


class Trace(NamedTuple):
    """A part of one process's step for a micro-batch."""

    live: list[Live]  # one after another
    flops: int  # floating-point operations, recomputation included
    offloaded: int = 0  # bytes of activations in the machine's memory


class Absent(NamedTuple):
    """What autograd keeps in the machine's memory, which takes none here."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def put(cls, tensor: Tensor) -> Absent:
        """Forget it."""
        return cls(tensor.shape, tensor.stride(), tensor.dtype, tensor.device)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.shape.numel() * self.dtype.itemsize

    def get(self) -> Tensor:
        """As it was, but for its values."""
        return torch.empty_strided(self.shape, self.stride, dtype=self.dtype, device=self.device)


class Watch(TorchDispatchMode):
    """Notes every tensor that is made and given up while it lasts, and counts operations.

    Args:
        weights: tensors that do not count.
    """

    def __init__(self, weights: Iterable[Tensor]):
        super().__init__()
        self.live = [Live(0, 0, 0)]  # after each tensor that was made
        self.flops = 0
        self._now = self.live[0]
        self._weights = {_key(w) for w in weights}
        self._held: dict[int, tuple[str, int]] = {}  # storage -> field of Live, bytes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func is _DEVICE:
            return out
        count = FLOPS.get(func.overloadpacket)
        if count is not None:
            self.flops += count(*args, **kwargs, out_val=out)
        copy = func is _CAST and _key(args[0]) in self._weights
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._note(leaf, "copies" if copy else "activations")
        return out

    def hold(self, tensors: Any) -> None:
        """Count tensors that were made before; as many and in what containers they may be."""
        for leaf in tree_leaves(tensors):
            if isinstance(leaf, Tensor):
                self._note(leaf, "activations")

    def claim(self, parameter: Tensor) -> None:
        """What became the gradient of ``parameter`` counts as such from now on."""
        assert parameter.grad is not None
        key = _key(parameter.grad)
        kind, size = self._held[key]
        if kind != "gradients":
            self._held[key] = ("gradients", size)
            self._change({kind: -size, "gradients": size})
            self.live.append(self._now)

    def _note(self, tensor: Tensor, kind: str) -> None:
        key = _key(tensor)
        if key in self._held or key in self._weights:
            return  # a view, or written in place
        storage = tensor.untyped_storage()
        self._held[key] = (kind, storage.nbytes())
        self._change({kind: storage.nbytes()})
        self.live.append(self._now)
        weakref.finalize(storage, self._forget, key).atexit = False

    def _forget(self, key: int) -> None:
        kind, size = self._held.pop(key)
        self._change({kind: -size})

    def _change(self, by: dict[str, int]) -> None:
        self._now = self._now._replace(**{k: getattr(self._now, k) + v for k, v in by.items()})


def _key(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class ClipStep(NamedTuple):
    """The frozen CLIP's part of a step, and its answer."""

    given: Given
    trace: Trace


def ask(clip: Clip, resolved: ResolvedExperiment, share: Share) -> ClipStep:
    """Run the frozen CLIP; arguments as of `trace`."""
    watch = Watch([*clip.parameters(), *clip.buffers()])
    with watch, _autocast(resolved):
        given = given_by(clip, resolved, share.batch, text=not learns_word(resolved.config))
    return ClipStep(given, Trace(watch.live, watch.flops))


def trace(
    net: nn.Module,
    given: Given,
    resolved: ResolvedExperiment,
    share: Share,
    *,
    learns: Clip | None = None,
) -> Trace:
    """Run the forward and backward pass of a micro-batch as Lightning does.

    Args:
        net: of fake tensors (FakeTensorMode), its blocks perhaps checkpointed.
        given: the frozen CLIP's answer.
        resolved: the experiment.
        share: how much of the batch this process has.
        learns: the frozen CLIP, if a word of it trains: its texts are encoded with a gradient.
    """
    parameters = [p for p in net.parameters() if p.requires_grad]
    frozen = [] if learns is None else [*learns.parameters(), *learns.buffers()]
    watch = Watch([*net.parameters(), *net.buffers(), *frozen])
    micro_batches, image = 1, (3, 0, 0)
    if resolved.stage.name == CLIP:  # whose micro-batches are held until the step is done
        side, micro_batches = resolved.config.model.image_size, resolved.config.trainer.accumulate
        image = (3, side, side)
    with watch:
        watch.hold(given)
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(watch.claim)
            parameter.grad = torch.zeros_like(parameter)  # left by the step before
            watch.claim(parameter)
        if micro_batches > 1:
            watch.hold(torch.zeros(micro_batches, share.batch, *image))

        def forward() -> Tensor:
            # A CLIP's embeddings first (`unclip.stages.clip.cached_gradients`), or a teacher.
            if micro_batches > 1 or teaches(resolved.config):
                with torch.no_grad():
                    loss(net, resolved, given, share)
            if learns is None:
                return loss(net, resolved, given, share)
            text = learns.encode_text(some_tokens(share.batch, learns.context))
            return loss(net, resolved, given._replace(text=text), share)

        with _autocast(resolved):
            value = forward()
            if resolved.config.optim.sam_rho:
                _kept = _climb(value, parameters)  # until the step is done
                value = forward()
        if resolved.config.trainer.accumulate == 1:  # forgotten only now, after the forward pass
            net.zero_grad()
        value.backward()
    return Trace(watch.live, watch.flops)


@torch.no_grad()
def given_by(
    clip: Clip | None, resolved: ResolvedExperiment, batch: int, *, text: bool = True
) -> Given:
    """The frozen CLIP's part of a step of ``batch`` samples, with or without their ``text``."""
    needs = resolved.stage.needs(resolved.config)
    if clip is None:
        return Given()
    side = clip.image_size
    said = clip.encode_text(some_tokens(batch, clip.context)) if needs.text and text else None
    z_i = clip.encode_image(torch.zeros(batch, 3, side, side)) if needs.image else None
    return Given(z_i, said)


def loss(net: nn.Module, resolved: ResolvedExperiment, given: Given, share: Share) -> Tensor:
    """A scalar to be differentiated: the mean square of the output.

    What the real losses keep besides is small, a few images against many feature maps.
    """
    output = resolved.stage.dry_step(net, resolved.config, given, share)
    return output.float().square().mean()


def _autocast(resolved: ResolvedExperiment) -> torch.autocast:
    """Lightning's, which leaves autocast's own cache of weights unused."""
    mixed = resolved.config.trainer.precision != "32"
    return torch.autocast("cpu", torch.bfloat16, enabled=mixed, cache_enabled=False)


def _climb(value: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    """SAM's first half (`unclip.training.sam`): its copy of the weights."""
    with torch.autocast("cpu", enabled=False):
        found = torch.autograd.grad(value, parameters, allow_unused=True)
    kept = [parameter.detach().clone() for parameter in parameters]
    torch._foreach_mul([gradient for gradient in found if gradient is not None], 1.0)
    return kept
