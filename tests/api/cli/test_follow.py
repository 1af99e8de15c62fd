"""Which job `ranksieve run` follows: one that is there already, or a new one."""

import io

import pytest
from rich.console import Console

from ranksieve.api.cli.follow import _cancel, _submit_or_resume, tell_of_unfinished
from ranksieve.api.client.connection import ApiError

OPEN = {"actors": None, "gpus_per_actor": None}
SPEC = {"name": "snippets", "parent": None, "task": {"data": {"sizes": {"search": 8}}}, "resources": OPEN}
SETTLED = {
    **SPEC,
    "task": {"data": {"sizes": {"search": 8, "test": 9}}},
    "resources": {"actors": 2, "gpus_per_actor": 0},
}


class Jobs:
    """A server with one job of this spec."""

    def __init__(self, **job):
        self._job = {
            "id": "there", "state": "searching", "cancel_requested": False, "pause_requested": False, "spec": SPEC
        } | job  # fmt: skip

    def jobs(self, states, limit):
        return [self._job] if self._job["state"] in states else []

    def job(self, id):
        return self._job

    def resume(self, id):
        return {"id": f"{id}, resumed"}

    def submit(self, document):
        return {"id": "new"}


@pytest.mark.parametrize(
    ("job", "followed"),
    [
        ({}, "there"),
        ({"spec": SETTLED}, "there"),
        ({"spec": {**SETTLED, "task": {"data": {"sizes": {"search": 9}}}}}, "new"),
        ({"spec": {**SPEC, "name": "other"}}, "new"),
        ({"state": "succeeded"}, "new"),
        ({"cancel_requested": True}, "new"),
        ({"state": "paused"}, "there, resumed"),
        ({"state": "crashed"}, "there, resumed"),
        ({"pause_requested": True}, "there, resumed"),
    ],
)
def test_an_unfinished_job_of_the_same_spec_is_followed_unless_it_is_being_cancelled(job, followed):
    assert _submit_or_resume(Jobs(**job), SPEC, Console(file=io.StringIO()))["id"] == followed


@pytest.mark.parametrize(
    ("job", "shown"), [({}, True), ({"state": "paused"}, False), ({"state": "succeeded"}, False)]
)
def test_jobs_that_go_first_are_told_of(job, shown):
    said = io.StringIO()
    tell_of_unfinished(Jobs(**job), Console(file=said, width=200))
    assert said.getvalue() == ("1 unfinished jobs in this data directory go first\n" if shown else "")


class Ended:
    """A server whose job has ended just before it is cancelled."""

    def __init__(self, status):
        self._status = status

    def cancel(self, id):
        raise ApiError(self._status, "Refused", "it has ended", [])

    def events(self, id):
        return iter(())

    def job(self, id):
        return {"id": id, "state": "succeeded", "error": None, "result": {"kept": 0.4}}


def test_ctrl_c_at_a_job_that_ends_by_itself_tells_how_it_has_ended():
    outcome = _cancel(Ended(409), "j1")

    assert (outcome.succeeded, outcome.interrupted) == (True, True)
    with pytest.raises(ApiError):
        _cancel(Ended(500), "j1")


class Many:
    """A server with so many unfinished jobs, the oldest of this spec; it lists the newest first, so many at most."""

    def __init__(self, count):
        self._jobs = [
            {"id": f"j{n}", "state": "queued", "cancel_requested": False, "pause_requested": False,
             "spec": {**SPEC, "name": "snippets" if n == 0 else f"other {n}"}}
            for n in reversed(range(count))
        ]  # fmt: skip

    def jobs(self, states, limit):
        return self._jobs[:limit]

    def job(self, id):
        return next(job for job in self._jobs if job["id"] == id)

    def submit(self, document):
        return {"id": "new"}


def test_the_unfinished_job_of_a_spec_is_found_behind_many_others():
    assert _submit_or_resume(Many(300), SPEC, Console(file=io.StringIO()))["id"] == "j0"
