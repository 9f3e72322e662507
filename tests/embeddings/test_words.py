"""Words that a frozen CLIP learns: what they change, what they leave, and what is refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from unclip.common.errors import UserError
from unclip.embeddings import words
from unclip.embeddings.clip import FrozenClip
from unclip.embeddings.tokens import END_OF_TEXT, Tokenizer
from unclip.stages.clip.config import ClipConfig
from unclip.stages.clip.network import build_clip

SMALL = {"embed_dim": 16, "image_size": 32, "patch_size": 16, "context": 12}
SMALL |= {"vision_width": 16, "vision_layers": 1, "text_width": 16, "text_layers": 1}
SMALL |= {"vision_head_width": 16, "text_heads": 1}


@pytest.fixture
def clip():
    torch.manual_seed(0)
    model = build_clip(ClipConfig(**SMALL))
    return FrozenClip(model, model.fingerprint(), "small")


def read_by(clip, *captions):
    return clip.model.encode_text(clip.model.tokenize([*captions]))


def test_a_word_is_read_as_its_rows_and_other_captions_keep_their_bits(clip):
    plain = "a photo of a dog"
    before, tokens = read_by(clip, plain, "no"), clip.model.tokenize([plain])
    (dog,) = clip.model.tokenize.pieces("dog")
    words.teach(clip.model, "<sks>", words.table_of(clip.model).weight[[dog]])
    after = read_by(clip, plain, "no")
    assert torch.equal(clip.model.tokenize([plain]), tokens)
    assert torch.equal(after.z_t, before.z_t)
    assert torch.equal(after.tokens, before.tokens)
    said = read_by(clip, "A photo of a <SKS>", "a photo of a cat")
    assert torch.equal(said.z_t[0], after.z_t[0])  # the word is the dog
    assert torch.equal(said.mask[0], after.mask[0])
    assert clip.fingerprint == clip.model.fingerprint()  # the same space as before


@pytest.mark.parametrize(
    ("caption", "wanted"),
    [
        ("a <sks>, red", "a X , red"),
        ("<sks>'s dog", "X 's dog"),
        ("&lt;sks&gt;  dog", "X dog"),
        ("bob and bobby", "Y Y and bobby"),
        ("<sks><sks>2", "X X 2"),
        ("<sks2>", "Z"),
    ],
)
def test_words_are_found_where_they_stand_alone(caption, wanted):
    tokenize, plain = Tokenizer(20), Tokenizer(20)
    tokenize.words = {"<sks>": [-1], "bob": [-2, -3], "<sks2>": [-4]}
    names = {"X": [-1], "Y": [-2], "Z": [-4]}
    found, expected = tokenize.pieces(caption), []
    for part in wanted.replace("Y Y", "Y W").split():
        expected += {**names, "W": [-3]}.get(part) or plain.pieces(part)
    assert found == expected
    (row,) = tokenize([caption])
    assert row.tolist()[1 : len(found) + 2] == [*found, END_OF_TEXT]
    assert tokenize.count(caption) == len(found) + 2
    (cut,) = torch.atleast_2d(Tokenizer(20)(["dog " * 30]))
    assert cut[-1] == END_OF_TEXT


def test_a_long_caption_is_cut_and_ends():
    tokenize = Tokenizer(6)
    tokenize.words = {"<sks>": [-1, -2]}
    (row,) = tokenize(["a b c <sks> d e"]).tolist()
    assert row[4:] == [-1, END_OF_TEXT]
    assert (tokenize(["a b c d e <sks>"]) >= 0).all()


def test_the_gradient_ends_in_the_rows_and_they_find_what_is_known(clip):
    """The rows that make captions of a new word equal to those of a known one: a loss of zero."""
    rows = nn.Parameter(words.first_rows(clip.model, 1, None, key="x"))
    known = read_by(clip, "a red dog", "the dog", "dog on grass")
    words.teach_while_training(clip.model, "<sks>", 1, lambda: rows)
    optimizer = torch.optim.Adam([rows], lr=0.02)
    losses = []
    for _ in range(150):
        said = read_by(clip, "a red <sks>", "the <sks>", "<sks> on grass")
        loss = (said.tokens - known.tokens).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(p.grad is None for p in clip.model.parameters())
    assert losses[-1] < 1e-4 * losses[0]
    dog = words.table_of(clip.model).weight[clip.model.tokenize.pieces("dog")]
    one, other = (row - row.mean() for row in (rows, dog))  # every layer's norm drops the mean
    assert torch.allclose(one, other, atol=2e-3)


def test_rows_begin_as_a_word_or_as_the_mean(clip):
    weight = words.table_of(clip.model).weight
    dog, cat = (clip.model.tokenize.pieces(word)[0] for word in ("dog", "cat"))
    first = words.first_rows(clip.model, 3, "dog cat", key="k")
    assert torch.equal(first, weight[[dog, cat, dog]])
    assert torch.equal(words.first_rows(clip.model, 2, None, key="k")[1], weight.mean(dim=0))
    with pytest.raises(UserError, match=r"^k=dog cat: has 2 tokens, and the word 1 vector"):
        words.first_rows(clip.model, 1, "dog cat", key="k")


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("dog", "is a word that CLIP knows"),
        ("SKS", "is a word that CLIP knows"),
        ("<end_of_text>", "is a word that CLIP knows"),
        ("", "must be one word"),
        ("\u200b", "must be one word"),
        ("<a b>", "must be one word"),
        ("<old>", "has learned it already"),
        ("<OLD>", "has learned it already"),
        ("x<old>", "cannot be told"),
    ],
)
def test_what_is_no_new_word_is_one_line(clip, word, line):
    words.teach(clip.model, "<old>", torch.zeros(1, 16))
    with pytest.raises(UserError, match=rf"^--token.*{line}"):
        words.new_word(clip.model, word, key="--token")


def test_words_are_kept_in_a_file_of_their_clip(clip, tmp_path):
    file = tmp_path / "words.safetensors"
    empty = words.digest(clip.model)
    taught = {"<z>": torch.randn(2, 16), "<a>": torch.randn(1, 16)}
    for word, rows in taught.items():
        words.teach(clip.model, word, rows)
    found = words.learned(clip.model)
    assert all(torch.equal(found[word], rows) for word, rows in taught.items())
    words.write(file, clip, {"<z>": {"sha256": "1"}})
    torch.manual_seed(0)
    model = build_clip(ClipConfig(**SMALL))
    same = FrozenClip(model, model.fingerprint(), "same")
    assert words.read(file, same) == {"<z>": {"sha256": "1"}, "<a>": {}}
    captions = ["a <a> of <z>", "<z>"]
    assert torch.equal(read_by(same, *captions).tokens, read_by(clip, *captions).tokens)
    assert empty == ""
    assert words.digest(same.model) == words.digest(clip.model) != ""
    assert words.read(file, same)  # once more says the same
    other = build_clip(ClipConfig(**SMALL))
    with pytest.raises(UserError, match=r"words\.safetensors: has words of another CLIP"):
        words.read(file, FrozenClip(other, other.fingerprint(), "other"))
    found = load_file(file)
    for damage, line in (
        ({"<z>": found["<z>"][:, :3].contiguous(), "<a>": found["<a>"]}, "not .n, 16."),
        ({"<z>": found["<z>"] * float("nan"), "<a>": found["<a>"]}, "NaN"),
        ({"<z>": found["<z>"]}, "its list of words"),
    ):
        metadata = {"clip": clip.fingerprint, "words": '{"<z>": {}, "<a>": {}}'}
        save_file(damage, file, metadata=metadata)
        with pytest.raises(UserError, match=line):
            words.read(file, FrozenClip(build_clip(ClipConfig(**SMALL)), clip.fingerprint, "x"))
    file.write_bytes(b"no")
    with pytest.raises(UserError, match="cannot be read"):
        words.read(file, same)
