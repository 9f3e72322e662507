"""How long a run will take, told by its first steps."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from unclip.training import forecast
from unclip.training.forecast import Forecast


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(forecast.time, "perf_counter", lambda: now.seconds)
    return now


def run(clock, *, steps, start=0, each=2.0, first=30.0, validation=8.0, accumulate=1):
    """A run whose steps, the first of a process and validations (every 50 steps) last so long."""
    throughput = SimpleNamespace(seconds=0.0, steps=0)
    trainer = SimpleNamespace(
        global_step=start,
        max_steps=steps,
        val_check_interval=50 * accumulate,
        accumulate_grad_batches=accumulate,
        num_val_batches=[12 * accumulate],
        is_global_zero=True,
    )
    told = Forecast("decoder", throughput)
    told.on_train_start(trainer, None)
    for step in range(start, steps):
        clock.seconds += first if step == start else each
        trainer.global_step = step + 1
        if step > start:
            throughput.seconds, throughput.steps = throughput.seconds + each, throughput.steps + 1
        told.on_train_batch_end(trainer, None)
        if (step + 1) % 50 == 0:
            clock.seconds += validation
    told.on_train_end(trainer, None)
    return told


@pytest.mark.parametrize("start", [0, 140])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_steps_that_last_alike_are_told_exactly(clock, capfd, start, accumulate):
    """A validation of 12 batches lasts as 12 thirds of a step."""
    told = run(clock, steps=400, start=start, accumulate=accumulate)
    expected = 30 + 2 * (399 - start) + 8 * (8 - start // 50)
    assert told.took == pytest.approx(expected)
    assert told.seconds == pytest.approx(expected)
    line = f"decoder: {400 - start} steps{' more' if start else ''}, about {expected / 60:.0f} min"
    assert capfd.readouterr().err.splitlines() == [line]  # once


def test_of_a_few_steps_nothing_is_told(clock, capfd):
    assert run(clock, steps=20).seconds is None
    assert run(clock, steps=21).seconds == pytest.approx(30 + 40)
    assert len(capfd.readouterr().err.splitlines()) == 1
