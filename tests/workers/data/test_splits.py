import random
from collections import Counter
from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranksieve.search.errors import InputError
from ranksieve.workers.data.splits import SHARED, USUAL_MOST, Candidate, Division, sizes_of, split
from ranksieve.workers.types.plan import SPLITS

SIZES = {"calibration": 3, "search": 4, "confirm": 5, "test": 6}


def candidates(texts: list[str]) -> list[Candidate]:
    return [
        Candidate(name=f"record {i} of a", record={"text": text}, prompt=text, key=text)
        for i, text in enumerate(texts, 1)
    ]


def pool(count: int, start: int = 0) -> list[Candidate]:
    return candidates([f"text {i}" for i in range(start, start + count)])


def grouped(groups: list[int], start: int = 0) -> list[Candidate]:
    """One record for each number, which is its group."""
    return [
        replace(one, group=str(group)) for one, group in zip(pool(len(groups), start), groups, strict=True)
    ]


def keys(division: Division) -> dict[str, list[str]]:
    return {name: [candidate.key for candidate in part] for name, part in division.splits.items()}


def test_sizes_are_exact_and_ordered() -> None:
    division = split({SHARED: pool(20)}, SIZES, seed=0)
    assert tuple(division.splits) == SPLITS
    assert {name: len(part) for name, part in division.splits.items()} == SIZES
    assert division.dropped_duplicates == 0


def test_order_of_records_does_not_matter_but_seed_does() -> None:
    records = pool(40)
    shuffled = random.Random(1).sample(records, len(records))
    assert keys(split({SHARED: records}, SIZES, 0)) == keys(split({SHARED: shuffled}, SIZES, 0))
    assert keys(split({SHARED: records}, SIZES, 0)) != keys(split({SHARED: records}, SIZES, 1))


def test_higher_splits_do_not_depend_on_lower_sizes() -> None:
    small = keys(split({SHARED: pool(40)}, SIZES, 0))
    large = keys(split({SHARED: pool(40)}, SIZES | {"calibration": 10, "search": 8}, 0))
    assert (small["test"], small["confirm"]) == (large["test"], large["confirm"])
    assert keys(split({SHARED: pool(40)}, {"test": 6}, 0)) == {"test": small["test"]}


def test_duplicates_in_a_pool_count_once() -> None:
    division = split({SHARED: pool(18) + pool(5) + pool(2)}, SIZES, 0)
    assert division.dropped_duplicates == 7
    assert sorted(key for part in keys(division).values() for key in part) == sorted(c.key for c in pool(18))


def test_kept_duplicate_does_not_depend_on_order() -> None:
    twins = [Candidate(name=f"r{i}", record={"text": "x", "id": i}, prompt="x", key="x") for i in range(5)]
    kept = {split({SHARED: order}, {"test": 1}, 0).splits["test"][0].name for order in (twins, twins[::-1])}
    assert len(kept) == 1


def test_own_files_lose_what_a_higher_split_holds() -> None:
    pools = {"test": pool(6), "search": pool(8, start=4), SHARED: pool(12, start=10)}
    division = split(pools, SIZES, 0)
    assert not {"text 4", "text 5"} & set(keys(division)["search"])
    assert set(keys(division)["test"]) == {f"text {i}" for i in range(6)}
    # search loses 4 and 5 to test; it holds 6..11 less two, some of which the pool (confirm) took first.
    in_confirm = {f"text {i}" for i in range(4, 12)} & set(keys(division)["confirm"])
    in_search = {f"text {i}" for i in range(10, 22)} & set(keys(division)["search"])
    assert division.dropped_duplicates == 2 + len(in_confirm) + len(in_search)


def test_same_file_for_two_splits_is_divided() -> None:
    division = split({"test": pool(20), "confirm": pool(20), SHARED: pool(9, start=30)}, SIZES, 0)
    assert not set(keys(division)["test"]) & set(keys(division)["confirm"])
    assert division.dropped_duplicates == 6


def test_too_few_records() -> None:
    with pytest.raises(InputError) as caught:
        split({SHARED: pool(17) + pool(1)}, SIZES, 0)
    assert caught.value.field == "task.data.sizes.calibration"
    assert caught.value.message == (
        "needs 3 records, but 2 are left: 18 were read, 1 are duplicates and 15 belong to other splits or to their "
        "groups; lower the sizes or give more records"
    )


def test_too_few_records_in_own_file() -> None:
    with pytest.raises(InputError, match=r"task\.data\.sizes\.confirm: needs 5 records, but 4 are left"):
        split({"confirm": pool(4), SHARED: pool(30, start=50)}, SIZES, 0)


@pytest.mark.parametrize(
    ("records", "given", "sizes"),
    [
        (7180, {}, (4096, 384, 1200, 1436)),
        (200, {}, (100, 20, 40, 40)),
        (80, {}, (40, 8, 16, 16)),
        (100_000, {}, tuple(USUAL_MOST.values())),
        (1000, {"test": 500}, (350, 50, 100, 500)),
        (1000, {"calibration": 10, "search": 20}, (10, 20, 194, 194)),
        (40, dict(zip(SPLITS, (1, 2, 3, 4), strict=True)), (1, 2, 3, 4)),
    ],
)
def test_sizes_left_open_follow_the_number_of_records(
    records: int, given: dict[str, int], sizes: tuple[int, ...]
) -> None:
    pools = {SHARED: pool(records) + pool(9)}  # duplicates count once
    chosen = sizes_of(pools, SPLITS, given)
    assert tuple(chosen[name] for name in SPLITS) == sizes
    assert {name: len(part) for name, part in split(pools, chosen, 0).splits.items()} == chosen


@pytest.mark.parametrize(("records", "given", "left"), [(50, {}, 5), (79, {}, 7), (100, {"test": 300}, 0)])
def test_too_few_records_for_open_sizes(records: int, given: dict[str, int], left: int) -> None:
    with pytest.raises(InputError) as caught:
        sizes_of({SHARED: pool(records)}, SPLITS, given)
    assert caught.value.field == "task.data"
    assert f"different ones to divide leave {left} for the " in caught.value.message
    assert "give at least 80 records, and better 200 or more" in caught.value.message


def test_an_own_file_is_taken_whole_up_to_the_most() -> None:
    pools = {"test": pool(5000), "confirm": pool(50, start=6000), SHARED: pool(180, start=4990)}
    sizes = sizes_of(pools, SPLITS, {})
    assert sizes == {"calibration": 153, "search": 17, "confirm": 50, "test": 1500}
    assert {name: len(part) for name, part in split(pools, sizes, 0).splits.items()} == sizes


def test_an_own_file_gives_what_no_higher_split_may_take() -> None:
    pools = {"calibration": pool(100), "test": pool(100, start=97), SHARED: pool(120, start=300)}
    sizes = sizes_of(pools, SPLITS, {})
    assert sizes == {"calibration": 97, "search": 12, "confirm": 24, "test": 100}
    assert {name: len(part) for name, part in split(pools, sizes, 0).splits.items()} == sizes
    with pytest.raises(InputError, match=r"task\.data\.files\.calibration: too few records: 0 different"):
        sizes_of({"calibration": pool(100), "test": pool(100), SHARED: pool(120)}, SPLITS, {})


NAMES = [f"t{i}" for i in range(60)]
texts = st.tuples(
    st.permutations(NAMES), st.integers(0, 60), st.lists(st.sampled_from(NAMES), max_size=9)
).map(lambda drawn: [*drawn[0][: drawn[1]], *drawn[2]])
"""Mostly distinct, with some that come again."""


@given(st.data())
def test_splits_never_overlap(data: st.DataObject) -> None:
    shared = data.draw(texts)
    files = data.draw(st.dictionaries(st.sampled_from(SPLITS), texts, max_size=3))
    seed, rng = data.draw(st.integers(0, 5)), data.draw(st.randoms())
    pools = {SHARED: candidates(shared)} | {name: candidates(own) for name, own in files.items()}
    try:
        division = split(pools, SIZES, seed)
    except InputError:
        return
    chosen = [key for part in keys(division).values() for key in part]
    assert len(chosen) == len(set(chosen)) == sum(SIZES.values())
    for name, part in division.splits.items():
        assert {c.key for c in part} <= set(files.get(name, shared))
    again = split({name: rng.sample(part, len(part)) for name, part in pools.items()}, SIZES, seed)
    assert keys(again) == keys(division)
    assert again.dropped_duplicates == division.dropped_duplicates


@given(st.dictionaries(st.sampled_from(SPLITS), texts, max_size=3), st.integers(0, 200))
def test_chosen_sizes_can_always_be_had(files: dict[str, list[str]], shared: int) -> None:
    pools = {SHARED: pool(shared)} | {name: candidates(own) for name, own in files.items()}
    try:
        sizes = sizes_of(pools, SPLITS, {})
    except InputError:
        return
    assert {name: len(part) for name, part in split(pools, sizes, 0).splits.items()} == sizes


def test_a_group_is_in_one_split_only_and_in_random_order() -> None:
    records = grouped([i // 5 for i in range(100)])
    division = split({SHARED: records}, SIZES, 0)
    assert {name: len(part) for name, part in division.splits.items()} == SIZES
    in_split = {name: Counter(one.group for one in part) for name, part in division.splits.items()}
    assert max(Counter(group for groups in in_split.values() for group in groups).values()) == 1
    assert [sorted(in_split[name].values()) for name in SPLITS] == [
        [3],
        [4],
        [5],
        [1, 5],
    ]  # whole groups first
    assert division.dropped_duplicates == 0

    whole = split({SHARED: records}, {"test": 100}, 0).splits["test"]
    in_order = split({SHARED: pool(100)}, {"test": 100}, 0).splits["test"]
    assert [one.key for one in whole] == [one.key for one in in_order]


def test_a_group_in_two_files_is_in_the_higher_split() -> None:
    pools = {
        "test": grouped([1] * 6),
        "search": grouped([1] * 5 + [2] * 4, start=10),
        SHARED: pool(40, start=50),
    }
    division = split(pools, SIZES, 0)
    assert {one.group for one in division.splits["search"]} == {"2"}
    assert division.dropped_duplicates == 0


def test_groups_may_leave_too_few_records() -> None:
    with pytest.raises(
        InputError, match="besides 72 that groups may leave over, leave 5 for the search split"
    ):
        sizes_of({SHARED: grouped([i // 25 for i in range(125)])}, SPLITS, {})


@given(
    st.dictionaries(st.sampled_from([*SPLITS, SHARED]), st.lists(st.integers(0, 30), max_size=120)), st.data()
)
def test_chosen_sizes_can_always_be_had_of_groups(files: dict[str, list[int]], data: st.DataObject) -> None:
    starts = {name: data.draw(st.integers(0, 200)) for name in files}
    pools = {SHARED: pool(100, start=300)} | {name: grouped(own, starts[name]) for name, own in files.items()}
    try:
        sizes = sizes_of(pools, SPLITS, {})
    except InputError:
        return
    division = split(pools, sizes, data.draw(st.integers(0, 5)))
    assert {name: len(part) for name, part in division.splits.items()} == sizes
    groups = [{one.group for one in part if one.group} for part in division.splits.values()]
    assert sum(map(len, groups)) == len(set().union(*groups))


def test_records_may_hold_what_json_does_not_know_and_their_fields_come_in_any_order() -> None:
    def pool(reverse: bool) -> list[Candidate]:
        """As parquet gives them: with dates and bytes; a csv file may have its columns the other way round."""
        records: list[dict[str, Any]] = [
            {"text": f"text {i}", "day": date(2026, 1, 1 + i), "image": bytes([i])} for i in range(20)
        ]
        if reverse:
            records = [dict(reversed(record.items())) for record in records]
        return [
            Candidate(name=f"record {i}", record=record, prompt=record["text"], key=record["text"])
            for i, record in enumerate(records, 1)
        ]

    assert keys(split({SHARED: pool(False)}, SIZES, 0)) == keys(split({SHARED: pool(True)}, SIZES, 0))
