"""Whatever a file holds, reading it gives plain values within bounds, or one line."""

from __future__ import annotations

import shutil
import tracemalloc

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from unclip.cli import main
from unclip.common import bounded, yaml_text
from unclip.common.errors import UserError
from unclip.config import listing
from unclip.config.listing import plain

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
HOSTILE = {
    "aliases": (BOMB, "has an alias"),
    "merge": ("a: &x {b: 1}\nc:\n  <<: *x\n", "has an alias"),
    "deep lists": ("a: " + "[" * 100_000, "nested deeper than 16"),
    "deep mappings": ("a: " + "{b: " * 50_000, "nested deeper than 16"),
    "deep blocks": ("\n".join(" " * n + "a:" for n in range(2000)), "nested deeper than 16"),
    "many": ("a: [" + "1," * 60_000 + "]", "holds more than 50,000 values"),
    "digits": ("a: " + "9" * 4300, "integer of 4,300 digits"),
    "underscores": ("a: 1" + "_" * 5000, "integer of 5,001 digits"),
    "large": ("a: 99999999999999999999", "a: holds the integer 99999999999999999999"),
    "infinite": ("a: {b: .inf}", "a.b: holds inf, which is not finite"),
    "not a number": ("a: [.nan]", "a: holds nan"),
    "long": ("a: " + "x" * 200_000, "holds a text of 200,000 characters"),
    "control": ('a: "\\e[2J"', "holds control characters"),
    "control in a key": ('"\\e[2J": a', "holds control characters"),
    "binary": ("a: !!binary aGVsbG8=", "has the tag"),
    "python": ("a: !!python/object/apply:os.system [ls]", "has the tag"),
    "set": ("a: !!set {b}", "has the tag"),
    "bytes": ("x" * (bounded.BYTES + 1), "has more than"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_yaml_is_bounded(case, tmp_path):
    text, said = HOSTILE[case]
    file = tmp_path / "x.yaml"
    file.write_text(text)
    tracemalloc.start()
    try:
        with pytest.raises(UserError) as caught:
            yaml_text.read_file(file)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert str(caught.value).startswith(f"{file}: ")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()


@given(st.text(st.sampled_from("a1_&*!{}[]:,-?#|>%@`'\"~<= \n\t.0e+\\\x1b\x00é"), max_size=60))
def test_yaml_of_any_text_is_plain_values_or_one_line(text):
    said = ""
    try:
        bounded.check(yaml_text.read(text))
    except ValueError as error:
        said = str(error)
    assert said.isprintable()


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=20),
    lambda inside: st.lists(inside, max_size=3)
    | st.dictionaries(st.text("abc", min_size=1, max_size=3), inside, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(PLAIN)
def test_what_is_written_reads_back_as_itself_by_us_and_by_others(value):
    text = yaml_text.document({"value": value})
    assert yaml_text.read(text) == yaml.safe_load(text) == {"value": value}
    assert yaml_text.read(yaml_text.in_line(value)) == value


@pytest.mark.parametrize("text", ["010", "12:30", "0x1f", "0o17", "0b1", "1:2:3.5", "2026-11-29"])
def test_numbers_are_decimal(text):
    assert yaml_text.read(text) == text
    assert yaml_text.read(yaml_text.in_line(text)) == text


def test_a_hostile_experiment_is_named_and_hinders_no_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "experiments/clip"
    folder.mkdir(parents=True)
    for case, (text, _) in HOSTILE.items():
        (folder / f"{case}.yaml").write_text(text)
    (folder / "good.yaml").write_text("extends: tiny\n")
    found, remarks = listing.listing()
    assert "clip/good" in [entry.name for entry in found]
    assert plain(found)
    for case, (_, said) in HOSTILE.items():
        assert any(f"clip/{case}.yaml: " in remark and said in remark for remark in remarks)


@pytest.mark.parametrize("case", ["aliases", "deep lists", "digits"])
@pytest.mark.parametrize("command", [["show"], ["compare"]])
def test_a_run_with_a_hostile_experiment_is_one_line(cascade, tmp_path, capsys, case, command):
    shutil.copytree(cascade / "clip", tmp_path / "a")
    text, said = HOSTILE[case]
    (tmp_path / "a/experiment.yaml").write_text(text)
    runs = [str(tmp_path / "a"), str(cascade / "clip")][: 2 if command == ["compare"] else 1]
    assert main(["runs", *command, *runs]) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert said in line
    assert "experiment.yaml" in line
