"""What the oracle notes of one image."""

from __future__ import annotations

from typing import Any

from unclip.common.images import Array
from unclip.data.scenes.dataset import Prompt
from unclip.data.scenes.render import Scene, place
from unclip.evaluation.oracle.oracle import judge, read, read_background
from unclip.evaluation.probes.pairs import binding_outcomes


def note(image: Array, prompt: Prompt) -> dict[str, Any]:
    """Right or not, and what is seen of what a caption may leave open."""
    detections, background = read(image), read_background(image)
    verdict = judge(detections, prompt.scene, background=background)
    seen = {"background": background}
    if detections:
        largest = max(detections, key=lambda d: d.confidence)
        seen |= {"place": place(largest.x, largest.y), "size": largest.size}
    found: dict[str, Any] = {
        "right": verdict.shows(("colour", "shape")),
        "stated": verdict.shows(prompt.stated),
        "colour": verdict.colour,
        "shape": verdict.shape,
        "position": verdict.position,
        "seen": seen,
    }
    if len(prompt.scene.items) == 2 and "relation" not in prompt.stated:
        (found["binding"],) = binding_outcomes([prompt], [image])
    return found


def described(scene: Scene) -> dict[str, str]:
    """What `note` sees of a scene that is drawn perfectly."""
    item = scene.items[0]
    return {
        "background": scene.background,
        "place": place(item.x, item.y),
        "size": item.size,
    }


def named(scene: Scene) -> str:
    """Colours and shapes of its objects, as ``red circle, black star``."""
    return ", ".join(f"{item.colour} {item.shape}" for item in scene.items)


def prompt_of(scene: Scene, caption: str = "") -> Prompt:
    """A scene as something to compare with: its colours and shapes."""
    return Prompt(caption, scene, frozenset({"colour", "shape"}))
