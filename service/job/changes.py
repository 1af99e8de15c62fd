"""What of a submitted job may still be changed, and what a change makes of its spec.

Name, labels and priority are for people and the queue, and no result depends on the number of actors. The limits of
the search are part of the result: see `budget` for when they may change without a difference to a job that was
submitted with them.
"""

from typing import Any

from pydantic import Field, ValidationError

from ranksieve.search.errors import InputError
from ranksieve.service.spec import (
    Actors,
    Evaluations,
    Generations,
    JobSpec,
    Labels,
    Name,
    Priority,
    ResourceSpec,
    SearchSpec,
    Strict,
)


class SearchChanges(Strict):
    """New limits of the search."""

    generations: Generations = SearchSpec.model_fields["generations"].default
    max_evaluations: Evaluations = SearchSpec.model_fields["max_evaluations"].default


class JobChanges(Strict):
    """What is to be changed of a job; what is left out stays as it is."""

    name: Name = ""
    labels: Labels = Field(default_factory=dict, description="All of them: they replace the former ones.")
    priority: Priority = 0
    actors: Actors = Field(
        ResourceSpec.model_fields["actors"].default,
        description="`resources.actors`, until the job has ended; a search gets or gives them as it runs.",
    )
    search: SearchChanges = Field(default_factory=SearchChanges, description="While the search goes on.")

    def given(self) -> dict[str, Any]:
        """The changes as plain JSON values."""
        return self.model_dump(mode="json", exclude_unset=True)

    def applied_to(self, spec: JobSpec) -> JobSpec:
        """The spec with these changes.

        Raises:
            InputError: They do not go with the rest of it.
        """
        given, before = self.given(), spec.canonical()
        search = before["search"] | given.pop("search", {})
        resources = before["resources"] | {key: given.pop(key) for key in ("actors",) if key in given}
        try:
            return JobSpec.model_validate({**before, **given, "search": search, "resources": resources})
        except ValidationError as error:  # the fields were checked alone: it is about how they fit together
            field, _, message = str(error.errors()[0]["ctx"]["error"]).partition(" ")
            raise InputError(field, message) from error
