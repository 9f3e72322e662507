"""Captions for images that have none: which get one, what is kept, and by which models."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from unclip.cli import main
from unclip.common.errors import UserError
from unclip.data.config import ReadingConfig
from unclip.data.sources import open_splits
from unclip.finetuning.captioner import BEGUN, caption_folder

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "é\u2028": (255, 255, 0)}


def describe(images):
    """The colour of each image."""
    names = {value: name for name, value in COLOURS.items()}
    return [f"all {names[tuple(int(c) for c in image[0, 0])]}" for image in images]


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for n, (name, colour) in enumerate(COLOURS.items()):
        Image.new("RGB", (8, 8), colour).save(folder / ("below" if n % 2 else "") / f"{n}.png")
    return folder


def read(folder):
    """Captions by key, as training reads them."""
    source = open_splits(ReadingConfig(source=str(folder), held_out=0), image_size=1).train
    return {source.key(n): source[n].captions for n in range(len(source))}


def test_each_image_without_a_caption_gets_one_and_the_others_keep_theirs(photos):
    (photos / "0.txt").write_text("by hand")
    done = caption_folder(photos, describe)
    assert done == (1, 3, 0)
    assert read(photos) == {
        "0": ["by hand"],
        "2": ["all blue"],
        "below/1": ["all green"],
        "below/3": ["all é"],  # in one line
    }
    before = (photos / "metadata.jsonl").read_bytes()
    assert caption_folder(photos, None) == (4, 0, 0)  # asks nobody
    assert (photos / "metadata.jsonl").read_bytes() == before
    assert not (photos / BEGUN).exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.jsonl", '{"file_name": "2.png", "text": "mine", "more": 3}\n\n'),
        ("metadata.jsonl", '{"file_name": "2.png", "caption": ["mine", "own"]}'),
        ("metadata.csv", "file_name,caption\n2.png,mine\n2.png,own\n"),
    ],
)
def test_a_listing_keeps_what_it_says(photos, name, text):
    (photos / name).write_text(text)
    assert caption_folder(photos, describe).new == 3
    found = read(photos)
    assert found["2"] == (["mine"] if "more" in text else ["mine", "own"])
    assert found["below/1"] == ["all green"]
    assert (photos / name).read_text().startswith(text.rstrip("\n"))


def test_an_interrupted_call_is_continued(photos):
    asked = []

    def once(images):
        asked.append(len(images))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return describe(images)

    with pytest.raises(KeyboardInterrupt):
        caption_folder(photos, once, batch=1)
    assert not (photos / "metadata.jsonl").exists()
    with (photos / BEGUN).open("a") as file:
        file.write('{"file_name": "0.png", "capt')  # killed while it wrote
    assert caption_folder(photos, once, batch=1).new == 4
    assert asked == [1] * 5  # four images, one of them asked for twice
    assert len(read(photos)) == 4


def test_what_cannot_be_read_or_said_is_counted(photos):
    (photos / "0.png").write_text("no image")
    assert caption_folder(photos, lambda images: [" ", *describe(images)[1:]], batch=4) == (0, 2, 2)
    assert len(read(photos)) == 2


def test_what_cannot_be_is_one_line(photos, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no images"):
        caption_folder(tmp_path / "empty", describe)
    (photos / "0.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="captions are never replaced"):
        caption_folder(photos, describe)
    (photos / "0.txt").unlink()
    for words, said in (
        (["nowhere", "--with", "x"], "nowhere: is not a folder"),
        ([str(photos), "--with", "x", "--batch", "0"], "--batch"),
        ([str(photos), "--with", str(tmp_path / "x")], "no such file or folder"),
        ([str(photos), "--with", str(tmp_path / "empty")], "has no config.json"),
    ):
        assert main(["data", "caption", *words]) == 2
        assert said in capsys.readouterr().err
    assert not (photos / BEGUN).exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["blip", "pair"])
def test_models_of_transformers_caption_as_they_do_there(photos, tmp_path, kind, capsys):
    import transformers as t

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "dog"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    small |= {"intermediate_size": 16}
    image = {"image_size": 16, "patch_size": 8}
    torch.manual_seed(1)
    tokens = t.BertTokenizer(str(tmp_path / "vocab.txt"))
    ids = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    if kind == "blip":
        text = t.BlipTextConfig(vocab_size=8, is_decoder=True, **small, **ids).to_dict()
        vision = t.BlipVisionConfig(**small, **image).to_dict()
        config = t.BlipConfig(text_config=text, vision_config=vision, projection_dim=16)
        model, look = t.BlipForConditionalGeneration(config), t.BlipImageProcessor
    else:
        decoder = t.BertConfig(
            vocab_size=8, is_decoder=True, add_cross_attention=True, **small, **ids
        )
        config = t.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
            t.ViTConfig(**small, **image), decoder
        )
        config.decoder_start_token_id = 2
        model, look = t.VisionEncoderDecoderModel(config), t.ViTImageProcessor
        model.generation_config.decoder_start_token_id = 2
    folder = tmp_path / "model"
    for part in (model, tokens, look(size={"height": 16, "width": 16})):
        part.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: bsd-3-clause\n---\n# A model\n")
    assert main(["data", "caption", str(photos), "--with", str(folder)]) == 0
    told = capsys.readouterr()
    assert "its licence is bsd-3-clause" in told.err
    rows = [json.loads(line) for line in (photos / "metadata.jsonl").read_text().splitlines()]
    assert len(rows) == 4
    read = t.AutoImageProcessor.from_pretrained(folder)
    for row in rows:
        pixels = read(Image.open(photos / row["file_name"]), return_tensors="pt")
        found = model.eval().generate(**pixels, max_new_tokens=40, do_sample=False)
        assert row["caption"] == tokens.decode(found[0], skip_special_tokens=True).strip()
    before = (photos / "metadata.jsonl").read_bytes()
    assert main(["data", "caption", str(photos), "--with", str(folder)]) == 0
    assert "0 new captions, 4 were there" in capsys.readouterr().out
    assert (photos / "metadata.jsonl").read_bytes() == before
