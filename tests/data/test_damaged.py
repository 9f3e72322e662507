"""What each policy does with every kind of damaged input; the table of docs/data_damage.md."""

import re
from pathlib import Path

import damage_embeddings
import damage_files  # noqa: F401 (adds its kinds to CASES)
import damage_layouts  # noqa: F401 (likewise)
import pytest
from damage import CASES, GOOD, ROWS, Counted, LeftOut, Stops, Used, Whole
from tiny_data import records

from unclip.common.errors import UserError
from unclip.data.config import DataConfig
from unclip.data.dataset import Examples
from unclip.data.decode import BadSample
from unclip.data.order import Draw
from unclip.data.readers.inventory import inventory_of
from unclip.data.sources import open_source
from unclip.data.transforms import Square

TABLE = Path(__file__).parents[2] / "docs" / "data_damage.md"
POLICIES = pytest.mark.parametrize("on_error", ["skip", "error"])


def of(kind):
    """Parametrises a test with all cases of one outcome."""
    named = {name: case for name, case in CASES.items() if isinstance(case[1], kind)}
    return pytest.mark.parametrize(("make", "outcome"), named.values(), ids=named.keys())


def opened(path, on_error="error"):
    config = DataConfig(on_error=on_error)
    source = open_source(str(path), config, image_size=8, split="all")
    return source, Examples(source, Square(sizes=(8,)), seed=0, on_error=on_error)


def draw_of_bad(source):
    (number,) = (n for n in range(len(source)) if source.key(n).endswith("bad"))
    return Draw(0, number)


def assert_one_line(message, path, reason):
    assert re.search(reason, str(message))
    assert str(path) in str(message)
    assert "\n" not in str(message)


@POLICIES
@of(Used)
def test_it_is_used(make, outcome, on_error, tmp_path, caplog):
    path = make(tmp_path)
    before = set(tmp_path.rglob("*"))
    source, examples = opened(path, on_error)
    draw = draw_of_bad(source)
    assert outcome.check(source[draw.number])
    assert examples[draw].key.endswith("bad")
    assert set(tmp_path.rglob("*")) == before
    expected = [outcome.log.format(path=path)] if outcome.log else []
    assert [record.getMessage() for record in caplog.records] == expected


@of(LeftOut)
def test_skip_puts_another_sample_in_its_place(make, outcome, tmp_path):
    path = make(tmp_path)
    source, examples = opened(path, "skip")
    draw = draw_of_bad(source)
    outcome.after(path)
    others = {key for key, *_ in records(GOOD)}
    example = examples[draw]
    assert example.key in others
    assert_one_line(example.problems[0], tmp_path, f"bad.*{outcome.reason}")


@of(LeftOut)
def test_error_stops_at_the_sample(make, outcome, tmp_path):
    path = make(tmp_path)
    source, examples = opened(path, "error")
    draw = draw_of_bad(source)
    outcome.after(path)
    with pytest.raises(BadSample) as caught:
        examples[draw]
    assert_one_line(caught.value, tmp_path, f"bad.*{outcome.reason}")


@of(Whole)
def test_what_is_whole_of_a_tar_is_used_or_it_stops(make, outcome, tmp_path, caplog):
    path = make(tmp_path)
    _, examples = opened(path, "skip")
    keys = [examples[Draw(0, n)].key for n in range(outcome.left)]
    assert keys == [key for key, *_ in ROWS[: outcome.left]]
    (record,) = caplog.records
    assert_one_line(record.getMessage(), path, "cut off or damaged")
    with pytest.raises(UserError) as caught:
        opened(path, "error")
    assert_one_line(caught.value, path, r"cut off or damaged .* data\.on_error=skip")


@POLICIES
@of(Counted)
def test_it_is_counted_with_its_reason(make, outcome, on_error, tmp_path):
    source, _ = opened(make(tmp_path), on_error)
    assert {source[n].captions[0] for n in range(len(source))} >= {c for *_, c in records(GOOD)}
    ((reason, each),) = inventory_of(source).left_out.items()
    assert re.search(outcome.reason, reason)
    assert each.names == [outcome.name]


@POLICIES
@of(Stops)
def test_it_stops_before_training(make, outcome, on_error, tmp_path):
    path = make(tmp_path)
    with pytest.raises(UserError) as caught:
        opened(path, on_error)
    assert not isinstance(caught.value, BadSample)
    assert_one_line(caught.value, path, outcome.reason)


EMBEDDED = damage_embeddings.CASES


@pytest.mark.parametrize("name", [n for n, (_, o) in EMBEDDED.items() if isinstance(o, LeftOut)])
def test_a_row_of_embeddings_is_left_out_or_stops(name, tmp_path, caplog):
    make, outcome = EMBEDDED[name]
    folder = make(tmp_path)
    for batch in damage_embeddings.batches(folder, "skip"):
        assert damage_embeddings.BAD not in batch.keys
    assert_one_line(caplog.records[0].getMessage(), folder, outcome.reason)
    with pytest.raises(BadSample) as caught:
        list(damage_embeddings.batches(folder, "error"))
    assert_one_line(caught.value, folder, outcome.reason)


@POLICIES
@pytest.mark.parametrize("name", [n for n, (_, o) in EMBEDDED.items() if isinstance(o, Stops)])
def test_a_folder_of_embeddings_stops(name, on_error, tmp_path):
    make, outcome = EMBEDDED[name]
    folder = make(tmp_path)
    with pytest.raises(UserError) as caught:
        damage_embeddings.batches(folder, on_error)
    assert_one_line(caught.value, folder, outcome.reason)


def test_the_documents_list_exactly_these_kinds():
    rows = [line.strip("| ") for line in TABLE.read_text().splitlines() if line.startswith("| ")]
    expected = [
        " | ".join((name, *outcome.cells))
        for cases in (CASES, EMBEDDED)
        for name, (_, outcome) in cases.items()
    ]
    assert [row for row in rows if not row.startswith("what is wrong")] == expected
    count = f"{len(expected)} kinds of damage"
    for page in ("docs/start.md", "docs/data.md"):
        assert count in " ".join((TABLE.parents[1] / page).read_text().split())
