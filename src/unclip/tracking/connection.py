"""Whether Weights & Biases can be used here and now; light, for commands that do not train."""

from __future__ import annotations

from unclip.common.terminal import say


def why_offline() -> str | None:
    """What keeps W&B from being used, or None where it answers.

    Nobody is asked for a key. A server that does not answer costs 10 s (WANDB_HTTP_TIMEOUT).
    """
    import wandb

    try:
        return None if wandb.login(prompt=False, verify=True) else "no API key: run `wandb login`"
    except wandb.errors.Error as error:
        late = "not respond in time" in str(error)  # W&B says so of its own process
        url = wandb.setup().settings.base_url
        return f"no answer from {url}" if late else first_line(error)


def first_line(error: Exception) -> str:
    """The gist of a library's error."""
    return (str(error) or type(error).__name__).splitlines()[0]


def remark(text: str) -> None:
    """One line about W&B."""
    say(f"W&B: {text}", error=True)
