"""Prints the README's lines of Python, of the installed wheel, with trainings of two steps each."""

import re
from importlib.metadata import metadata

SHORT = ["trainer.max_steps=2", "trainer.val_every=0"]


def shortened(match: re.Match[str]) -> str:
    """A call of `load_experiment` with fewer steps."""
    name, given = match.groups()
    return f"load_experiment({name}, [{'*given, ' if given else ''}*{SHORT}])"


(text,) = re.findall(r"```python\n(from unclip.*?)```", str(metadata("unclip")), re.S)
print(re.sub(r"load_experiment\(([^,)]*)(, given)?\)", shortened, text))
print("assert image.shape == (1, 3, 32, 32), image.shape")
