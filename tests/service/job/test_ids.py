from ranksieve.service.job.ids import new_id


def test_ids_sort_by_time_and_differ() -> None:
    ids = [new_id() for _ in range(1000)]

    assert len(set(ids)) == 1000
    assert [id[:14] for id in ids] == sorted(id[:14] for id in ids)
    assert all(len(id) == 24 for id in ids)
