"""Which job `ranksieve run` follows: one that is there already, or a new one."""

import io

import pytest
from rich.console import Console

from ranksieve.api.cli.follow import _cancel, _submit_or_resume, tell_of_unfinished
from ranksieve.api.client.connection import ApiError

SPEC = {
    "name": "snippets",
    "task": {"data": {"sizes": {"test": 99}}},
    "search": {"seeds": [{"ranks": [1]}]},
    "resources": {"actors": None, "threads_per_actor": 1},
    "parent": None,
}
SETTLED = {
    **SPEC,
    "task": {"data": {"sizes": {"search": 40, "test": 99}}},
    "resources": {"actors": 2, "threads_per_actor": 1},
}


class Jobs:
    """A server with one job of this spec."""

    def __init__(self, **job):
        self._job = {
            "id": "there", "state": "searching", "cancel_requested": False, "pause_requested": False, "spec": SETTLED
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
        ({"spec": {**SETTLED, "name": "other"}}, "new"),
        ({"spec": {**SETTLED, "task": {"data": {"sizes": {"search": 40, "test": 98}}}}}, "new"),
        ({"spec": {**SETTLED, "resources": {"actors": 2, "threads_per_actor": 4}}}, "new"),
        ({"spec": {**SETTLED, "search": {"seeds": [{"ranks": [1]}, {"ranks": [2]}]}}}, "new"),
        ({"state": "succeeded"}, "new"),
        ({"cancel_requested": True}, "new"),
        ({"state": "paused"}, "there, resumed"),
        ({"state": "crashed"}, "there, resumed"),
        ({"pause_requested": True}, "there, resumed"),
    ],
)
def test_an_unfinished_job_of_the_same_spec_is_followed_unless_it_is_being_cancelled(job, followed):
    assert _submit_or_resume(Jobs(**job), SPEC, Console(file=io.StringIO()))["id"] == followed


def test_the_unfinished_fork_of_a_parent_is_followed_whatever_seeds_it_got():
    forked = {**SETTLED, "search": {"seeds": [{"ranks": [1]}, {"ranks": [2]}]}, "parent": {"job": "j"}}
    assert _submit_or_resume(Jobs(spec=forked), {**SPEC, "parent": {"job": "j"}}, Console(file=io.StringIO()))["id"] == "there"


@pytest.mark.parametrize(
    ("job", "told"), [({}, True), ({"state": "paused"}, False), ({"state": "succeeded"}, False)]
)
def test_jobs_that_go_first_are_told_of(job, told):
    said = io.StringIO()
    tell_of_unfinished(Jobs(**job), Console(file=said, width=200))
    assert said.getvalue() == ("1 unfinished jobs in this data directory go first\n" if told else "")


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
             "spec": {**SETTLED, "name": "snippets" if n == 0 else f"other {n}"}}
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
