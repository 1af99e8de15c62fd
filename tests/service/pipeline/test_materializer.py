"""Whole jobs, and exports of other candidates of theirs."""

from pathlib import Path

import pytest
from local_jobs import (
    Document,
    Finished,
    Jobs,
    LocalCluster,
    forget_a_matrix,
    weights,
    winner_of,
)
from tuning import front

from ranksieve.search.errors import (
    ConflictError,
    InputError,
    NotFoundError,
    ScoringError,
)
from ranksieve.service.job.exports import Export, export_of
from ranksieve.service.job.job import JobState
from ranksieve.workers.cache.folders import FolderCache


def test_any_size_of_a_finished_job_is_exported_without_a_search(jobs: Jobs, archive: Finished) -> None:
    id = jobs.adopt(archive)
    confirmed = [one["genome"] for one in archive.result["finalists"]]
    row = next(row for row in jobs.store.front(id) if row["genome"] not in confirmed)
    asked = jobs.export(id, share=row["kept_share"])
    assert jobs.export(id, candidate=row["id"]).id == asked.id  # the same one

    cluster = LocalCluster()
    result = jobs.run(cluster)

    assert cluster.phases == ["closed_form", "export", "verify"]
    assert not cluster.actors
    states = [data["state"] for data in jobs.events(asked.id, "job.state")]
    assert states == ["queued", "validating", "preparing", "finalizing", "succeeded"]
    assert result["genome"] == row["genome"]
    assert result["export"]["measured_on"] == ["search"]
    assert set(result["best"]["metric"]) == set(result["dense"]["metric"]) == {"search"}
    (verified,) = jobs.events(asked.id, "artifact.verified")
    assert verified["metric"] == pytest.approx(verified["expected"])
    assert verified["expected"] == row["metric"]
    card = (Path(result["artifact"]) / "README.md").read_text(encoding="utf-8")
    assert "not confirmed on fresh examples, and the test split was not touched" in card
    assert f"Drop on the first 16 examples of the search split: {row['drop_points']:.2f} points" in card
    assert "| accuracy, search split |" in card
    assert "test split |" not in card
    with pytest.raises(ConflictError, match=f"an export itself; ask job {id}"):
        jobs.export(asked.id, share=0.5)


def test_an_export_of_a_finalist_is_the_model_that_was_confirmed(jobs: Jobs, tiny_job: Document) -> None:
    front(smallest=0.3, sizes=4, finalists=2)
    tiny_job["objective"] = {"kind": "pareto", "points": 100.0}
    tiny_job["policy"]["search"]["generations"] = 0
    id = jobs.submit(tiny_job)
    jobs.run(LocalCluster())
    job_result, winner = winner_of(jobs, id)
    asked = jobs.export(id, candidate=winner)
    exported = jobs.run(LocalCluster())
    assert weights(exported) == weights(job_result)
    assert exported["export"]["measured_on"] == ["search", "confirm"]
    assert exported["dense"]["metric"].keys() == {"search", "confirm"}
    confirmed = job_result["best"]["metric"]["confirm"]
    assert exported["best"]["metric"]["confirm"] == confirmed
    assert exported["best"]["drop"]["confirm"] == job_result["best"]["drop"]["confirm"]
    (verified,) = jobs.events(asked.id, "artifact.verified")
    assert verified["expected"] == confirmed
    card = (Path(exported["artifact"]) / "README.md").read_text(encoding="utf-8")
    assert "Drop on the confirm split" in card
    assert "named above: the test split was not touched" in card


def test_evicted_factors_are_made_again(jobs: Jobs, archive: Finished, tmp_path: Path) -> None:
    id = jobs.adopt(archive)
    first = jobs.export(id, share=0.5)
    before = jobs.run(LocalCluster())
    FolderCache(tmp_path / "data" / "cache").shrink(0)
    jobs.store.submissions.delete_job(first.id)
    jobs.export(id, share=0.5)
    assert weights(jobs.run(LocalCluster())) == weights(before)


def test_an_export_of_something_else_is_refused(jobs: Jobs, archive: Finished) -> None:
    job = jobs.store.job(jobs.adopt(archive))
    smallest, *_, largest = jobs.store.front(job.id)
    wrong = [
        (
            largest,
            ("known", "data", "search"),
            InputError,
            r"task.data: is not what it was .*\(search differ",
        ),
        (smallest, ("known", "model", "digest"), InputError, "model: has other weights"),
        (
            largest | {"genome": [0] * 14},
            ("candidate", "metric"),
            ScoringError,
            "differs from the measurement",
        ),
    ]
    for row, (*path, name), error, words in wrong:
        values: Document = export_of(job, row, {"candidate": row["id"]}).to_json()
        inner = values
        for part in path:
            inner = inner[part]
        inner[name] = inner[name] + 0.5 if name == "metric" else "another"
        jobs.store.submissions.create_export(job, Export.from_json(values))
        with pytest.raises(error, match=words):
            jobs.run(LocalCluster())
        claimed = jobs.store.exports(job.id)[0]
        jobs.store.runs.transition(claimed.id, JobState.FAILED, epoch=claimed.epoch)


def test_an_export_for_which_the_model_is_taken_apart_otherwise_is_refused(
    jobs: Jobs, archive: Finished, tmp_path: Path
) -> None:
    id = jobs.adopt(archive)
    jobs.export(id, share=0.5)
    forget_a_matrix(tmp_path / "data" / "jobs" / id)
    cluster = LocalCluster()
    words = (
        rf"model: has other matrices to prune than when job {id} ran: expected 13, got 14 \(1 new, like "
        r"model\.layers\.1\.mlp\.down_proj\)\. .*; submit the job anew, not as a fork"
    )
    with pytest.raises(InputError, match=words):
        jobs.run(cluster)
    assert not cluster.phases


def test_what_cannot_be_exported(jobs: Jobs, archive: Finished) -> None:
    id = jobs.adopt(archive)
    waiting = jobs.submit(archive.document)
    with pytest.raises(ConflictError, match="only a job that succeeded"):
        jobs.export(waiting, share=0.5)
    smallest = jobs.store.front(id)[0]["kept_share"]
    with pytest.raises(InputError, match=f"share: must be at least {smallest:.4f}"):
        jobs.export(id, share=0.01)
    with pytest.raises(NotFoundError, match="has no candidate 999999"):
        jobs.export(id, candidate=999_999)
