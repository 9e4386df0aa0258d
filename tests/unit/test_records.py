"""Generations and the record source in memory: order, freezing, and bytes that stay where they are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftsched.store._records import Generation, MemoryRecords, RecordSource

RECORDS = st.lists(st.tuples(st.integers(2, 40), st.integers(0, 3), st.booleans(), st.binary(max_size=40)), unique_by=lambda r: r[:2]).map(
    sorted
)


@given(RECORDS)
def test_generation_returns_what_was_added(records: list[tuple[int, int, bool, bytes]]) -> None:
    generation = Generation()
    for record in records:
        generation.add(*record)
    assert generation.items() == records
    assert len(generation) == len(records)


def test_generation_keeps_values_of_all_sizes() -> None:
    generation = Generation()
    values = [bytes([i % 251]) * (i * 977 % 70_000) for i in range(300)] + [b"x" * 5_000_000, b"", b"tail"]
    for main, value in enumerate(values, 2):
        generation.add(main, 0, False, value)
    assert [value for _, _, _, value in generation.items()] == values
    assert generation.size_bytes >= sum(map(len, values))


@pytest.mark.parametrize("place", [(5, 1), (5, 0), (4, 9)])
def test_generation_refuses_what_does_not_rise(place: tuple[int, int]) -> None:
    generation = Generation()
    generation.add(5, 1, False, b"")
    with pytest.raises(ValueError, match="out of order"):
        generation.add(*place, False, b"")
    assert len(generation) == 1


def test_frozen_generation_takes_nothing() -> None:
    generation = Generation()
    generation.add(2, 0, False, b"a")
    generation.freeze()
    assert generation.frozen
    with pytest.raises(ValueError, match="frozen"):
        generation.add(3, 0, False, b"b")
    assert generation.items() == [(2, 0, False, b"a")]


@given(RECORDS)
def test_memory_records_store_read_remove(records: list[tuple[int, int, bool, bytes]]) -> None:
    source = MemoryRecords()
    generation = Generation()
    for record in records:
        generation.add(*record)
    with pytest.raises(ValueError, match="filling"):
        source.store(generation)
    generation.freeze()
    source.store(generation)
    assert source.items() == records
    for main, sub, tombstone, value in records:
        assert source.read(main, sub, tombstone) == value
        assert source.read(main, sub, not tombstone) is None
    for main, sub, tombstone, _ in records[::2]:
        source.remove(main, sub, tombstone)
    assert source.items() == records[1::2]


def test_a_source_without_a_body_says_so() -> None:
    with pytest.raises(OSError, match="RecordSource cannot be read"):
        RecordSource().read(2, 0)
