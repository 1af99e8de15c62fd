"""Changes of a submitted job.

Name, labels and priority are for people and the queue, and no result depends on the number of actors. All other
fields decide the result: to change one, stop the job and fork it.
"""

from typing import Any

from pydantic import Field

from ranksieve.service.spec import Actors, JobSpec, Labels, Name, Priority, Strict


class JobChanges(Strict):
    """Changes of a job; fields that are left out stay as they are."""

    name: Name = ""
    labels: Labels = Field(default_factory=dict, description="All labels; they replace the former ones.")
    priority: Priority = 0
    actors: Actors = Field(
        1,
        description="`resources.actors`, until the job has ended; a search gets or gives them as it runs.",
    )

    def given(self) -> dict[str, Any]:
        """Return the changes as plain JSON values."""
        return self.model_dump(mode="json", exclude_unset=True)

    def applied_to(self, spec: JobSpec) -> JobSpec:
        """Return a spec with these changes."""
        given, before = self.given(), spec.canonical()
        resources = before["resources"] | {key: given.pop(key) for key in ("actors",) if key in given}
        return JobSpec.model_validate({**before, **given, "resources": resources})
