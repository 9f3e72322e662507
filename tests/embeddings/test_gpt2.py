"""GPT-2's byte pairs, by the first of its own merges."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from unclip.common.artifacts import MERGES
from unclip.common.errors import UserError
from unclip.embeddings.gpt2 import Gpt2Tokenizer, files_of, mask_of, ready, tokenizer_of
from unclip.embeddings.tokens import Tokenizer
from unclip.nn.config import TextEncoderConfig
from unclip.stages.decoder.config import DecoderConfig

FIRST = ["Ġ t", "Ġ a", "h e", "i n", "r e", "o n", "Ġt he"]  # GPT-2's tokens 256 to 262
VOCABULARY = 256 + len(FIRST) + 1


@pytest.fixture
def merges(tmp_path) -> Path:
    path = tmp_path / "vocab.bpe"
    path.write_text("#version: 0.2\n" + "\n".join(FIRST) + "\n")
    return path


def tokenizer(merges: Path, context: int = 8) -> Gpt2Tokenizer:
    return Gpt2Tokenizer(context, vocabulary=VOCABULARY, merges=str(merges))


@pytest.mark.parametrize(
    ("caption", "tokens"),
    [
        ("a", [64]),  # token numbers of GPT-2 itself
        ("!", [0]),
        (" ", [220]),
        ("\n", [198]),
        (" the", [262]),
        ("the", [83, 258]),
        ("in the", [259, 262]),
        ("A The", [64, 262]),
        ("é", [127, 102]),  # two bytes
        ("", []),
    ],
)
def test_captions_are_gpt2s_tokens_in_lower_case(merges, caption, tokens):
    tokenize = tokenizer(merges)
    padding = [VOCABULARY - 1] * (8 - len(tokens))
    assert tokenize([caption]).tolist() == [tokens + padding]
    assert tokenize.count(caption) == len(tokens)


def test_long_captions_are_cut(merges):
    tokenize = tokenizer(merges, 3)
    assert tokenize(["a" * 9, ""]).tolist() == [[64] * 3, [VOCABULARY - 1] * 3]
    assert tokenize.count("a" * 9) == 9
    assert pickle.loads(pickle.dumps(tokenize))(["a"]).tolist() == tokenize(["a"]).tolist()


def test_a_decoder_reads_captions_by_its_own_tokenizer(merges):
    text = TextEncoderConfig(context=4, vocabulary=VOCABULARY, width=8, layers=1, heads=1)
    model = DecoderConfig(tokenizer="gpt2", merges=str(merges), text=text)
    tokens = tokenizer_of(model)(["a the", ""])
    assert mask_of(model, tokens).tolist() == [[True, True, False, False], [False] * 4]
    plain = DecoderConfig(text=text)
    assert isinstance(tokenizer_of(plain), Tokenizer)
    tokens = tokenizer_of(plain)(["a"])
    assert torch.equal(mask_of(plain, tokens), torch.tensor([[True, True, True, False]]))


def test_a_file_that_does_not_fit_is_refused_in_a_line(merges, tmp_path):
    with pytest.raises(UserError, match="merges: GPT-2's merges are needed"):
        ready(Gpt2Tokenizer(8, vocabulary=VOCABULARY, merges=None))
    with pytest.raises(UserError, match=r"makes 264 tokens, model\.text\.vocabulary is 50257"):
        ready(Gpt2Tokenizer(8, vocabulary=50257, merges=str(merges)))
    many = "".join(f"zz {k}\n" for k in range(7)).encode()  # of what is not a token
    files = {"missing": None, "binary": b"\xff\xfe\x00" * 9, "same": b"q z\n" * 7}
    for name, content in (files | {"three": b"a b c\n" * 7, "odd": many}).items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(UserError, match=f"model.merges={path}") as found:
            ready(tokenizer(path))
        assert "\n" not in str(found.value)


def test_an_artifacts_own_merges_stand_for_those_that_it_was_trained_with(merges, tmp_path):
    text = TextEncoderConfig(context=8, vocabulary=VOCABULARY, width=8, layers=1, heads=1)
    model = DecoderConfig(tokenizer="gpt2", merges=str(merges), text=text)
    assert files_of(model) == {MERGES: merges}
    assert files_of(DecoderConfig()) == files_of(None) == {}
    folder = tmp_path / "artifact"
    folder.mkdir()
    assert tokenizer_of(model, folder).merges == str(merges)
    (folder / MERGES).write_text(merges.read_text())
    assert tokenizer_of(model, folder).merges == str(folder / MERGES)
    assert tokenizer_of(model).merges == str(merges)
