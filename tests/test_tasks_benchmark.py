"""The benchmark of generation runs, and counts what it says it counts."""

import pytest

from benchmarks import generation


def test_writing_reports_a_process_of_its_own() -> None:
    figures = generation.writing(20_000)
    assert figures["rows"] == 20_000
    assert figures["shards"] == 1
    # Half the bound of the full run: Python, numpy and Arrow alone.
    assert 20 < figures["peak_mib"] < 1024


def test_speeds_are_rows_by_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(generation.time, "perf_counter", lambda: next(clock))
    turns: list[int] = []
    assert generation.rows_per_second({"run": (50, turns.append)}, rounds=3) == {"run": 25}
    assert turns == [0, 1, 2, 3]


def test_both_sides_make_the_rows_they_are_timed_for() -> None:
    pytest.importorskip("reasoning_gym", reason="the extra `bench`", exc_type=ImportError)
    assert generation.ours("train", 30)(1).num_rows == 30
    table = generation.chain_sum(30, as_table=True)(1)
    assert table.num_rows == 30
    assert all(len(question.split()[-4]) == 10 for question in table["question"].to_pylist())
    assert not set(table["question"].to_pylist()) & {item["question"] for item in generation.chain_sum(30, False)(2)}
