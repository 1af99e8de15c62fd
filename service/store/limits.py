"""New limits for a search, while they make no difference to a job that was submitted with them. Commits nothing."""

from sqlalchemy.orm import Session

from ranksieve.search.errors import ConflictError
from ranksieve.search.evolution.budget import check_limits
from ranksieve.service.job.job import JobState
from ranksieve.service.pipeline.search_plan import require_scorings
from ranksieve.service.policy import policy_of
from ranksieve.service.spec import JobSpec
from ranksieve.service.store.schema import JobRow, SearchStateRow


def change(session: Session, row: JobRow, spec: JobSpec) -> None:
    """Checks a job's new limits; its row is locked. A run under way ends by it, and starts over from what is saved.

    Raises:
        InputError: Not all of the user's genomes would be scored, as none is yet.
        ConflictError: The search is over or ending, or cannot go on with these limits; or the job is an export.
    """
    if row.parent is not None:
        raise ConflictError(f"job {row.id} is an export: it searches nothing, so it has no limits")
    state = JobState(row.state)
    if state.terminal or state is JobState.FINALIZING or row.stop_requested or row.cancel_requested:
        raise ConflictError(f"job {row.id} is {state}: its search is over or ending, so its limits stay")
    saved = session.get(SearchStateRow, row.id)
    if saved is not None:
        search = spec.search
        check_limits(saved.state, generations=search.generations, max_evaluations=search.max_evaluations)
    elif policy_of(spec).search.max_evaluations < row.spec["search"]["max_evaluations"]:
        require_scorings(spec)
    if state.interruptible:
        row.epoch, row.leased_until = row.epoch + 1, None
