"""Fields of a submitted job that may still be changed, and the spec that a change makes.

Name, labels and priority are for people and the queue, and no result depends on the number of actors. All else decides
the result: for another one, stop the job and fork it.
"""

from typing import Any

from pydantic import Field

from ranksieve.service.spec import Actors, JobSpec, Labels, Name, Priority, Strict


class JobChanges(Strict):
    """Changes of a job; what is left out stays as it is."""

    name: Name = ""
    labels: Labels = Field(default_factory=dict, description="All of them: they replace the former ones.")
    priority: Priority = 0
    actors: Actors = Field(
        1,
        description="`resources.actors`, until the job has ended; a search gets or gives them as it runs.",
    )

    def given(self) -> dict[str, Any]:
        """The changes as plain JSON values."""
        return self.model_dump(mode="json", exclude_unset=True)

    def applied_to(self, spec: JobSpec) -> JobSpec:
        """The spec with these changes."""
        given, before = self.given(), spec.canonical()
        resources = before["resources"] | {key: given.pop(key) for key in ("actors",) if key in given}
        return JobSpec.model_validate({**before, **given, "resources": resources})
