"""What is written as YAML reads back as itself, by us and by others."""

from __future__ import annotations

import re

import pytest
import yaml

from unclip.common import yaml_text

VALUES = {
    "text": [
        "1e5",
        "1e-4",
        "null",
        "yes",
        "1",
        "",
        "a: b",
        "# no",
        "two\nlines",
        "déjà",
        " x ",
        "-",
    ],
    "number": [1e-5, 1e20, 3, -0.5],
    "other": [None, True, [], {}],
}


def test_documents_and_lines_read_back_as_themselves():
    values = {kind: {f"key{k}": v for k, v in enumerate(some)} for kind, some in VALUES.items()}
    text = yaml_text.document(values)
    assert yaml_text.read(text) == values
    assert yaml.safe_load(text) == values  # by readers that take 1e5 for a word
    assert list(yaml_text.read(text)) == list(values)
    for value in (v for some in VALUES.values() for v in some):
        line = yaml_text.in_line(value)
        assert "\n" not in line
        assert yaml_text.read(line) == value
        assert type(yaml_text.read(line)) is type(value)


def test_long_texts_stay_whole():
    long = {"source": "x" * 200, "name": "1e5"}
    assert yaml_text.read(yaml_text.document({"data": long})) == {"data": long}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\na: 2", "key 'a' is given twice"),
        ("1: a", "key 1 is not a word"),
        ("a:\n  - b\n c: 1", "line 3: did not find expected"),
        ("a: !!python/object:os.system {}", "line 1: has the tag"),
    ],
)
def test_what_it_refuses_is_said_in_a_line(text, said):
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        yaml_text.read(text)
    assert "\n" not in str(error.value)
