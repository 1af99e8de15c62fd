"""Which candidate a request means, and what is known of it."""

import pytest

from ranksieve.search.errors import InputError
from ranksieve.service.job.export import Export
from ranksieve.service.job.exports import best_at

FRONT = [{"kept_share": share, "id": index} for index, share in enumerate((0.2, 0.35, 0.5))]


@pytest.mark.parametrize(("share", "expected"), [(0.2, 0), (0.34, 0), (0.35, 1), (0.49, 1), (1.0, 2)])
def test_the_best_that_keeps_no_more(share: float, expected: int) -> None:
    assert best_at(FRONT, share)["id"] == expected


def test_nothing_is_so_small() -> None:
    with pytest.raises(InputError, match=r"share: must be at least 0\.2000, .*; got 0\.1"):
        best_at(FRONT, 0.1)


def test_a_model_of_the_jobs_own_that_is_so_small_is_pointed_to() -> None:
    with pytest.raises(InputError, match=r"got 0\.1; the job's own model keeps 0\.0810: download that"):
        best_at(FRONT, 0.1, own=0.081)
    with pytest.raises(InputError, match=r"got 0\.1$"):
        best_at(FRONT, 0.1, own=0.3)


def test_an_export_is_kept_as_json() -> None:
    one = Export(
        job="j1", asked={"share": 0.4}, candidate={"genome": [1, 2]}, finalist={"metric": 0.8}, known={}
    )
    assert Export.from_json(one.to_json()) == one
    assert one.genome == (1, 2)
