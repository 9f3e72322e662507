"""Training of a word that the frozen CLIP learns: whether captions say it, and who reads it how."""

from __future__ import annotations

from unclip.common.counted import counted
from unclip.common.errors import UserError
from unclip.data.decode import BadSample, decode_captions
from unclip.data.readers.source import Source, raw_of
from unclip.embeddings.tokens import Tokenizer
from unclip.training.stage import Stage


def require_said(word: str, source: Source, tokenize: Tokenizer, *, key: str) -> None:
    """Refuse samples of which none says ``word``, which ``tokenize`` knows: nothing would train.

    Raises:
        UserError: ``key`` names the word.
    """
    for index in range(len(source)):
        try:
            raw = raw_of(source, index)
            if raw is None:
                captions = source[index].captions
            else:
                captions = decode_captions(raw.captions, where=raw.where)
        except BadSample:
            continue
        if captions and bool((tokenize([*captions]) < 0).any()):
            return
    raise UserError(
        f"{key}={word}: is in none of the training samples' captions; write it into them, or "
        "remove them, so that data.caption is used"
    )


def about_word(stage: Stage) -> str:
    """A line about what is learned."""
    config, model = stage.experiment.adapter, stage.experiment.model
    begins = "the mean of the CLIP's token table" if config.initial is None else config.initial
    through = "z_t and CLIP's token features" if stage.reads.features else "z_t"
    line = f"{config.token}: {counted(config.vectors, 'vector')}, at first {begins}; it is learned "
    line += f"through {through}, and all networks stay as they are"
    if getattr(model, "use_caption", True) and not stage.reads.features:
        line += "; this network's own caption transformer reads it piece by piece"
    return line
