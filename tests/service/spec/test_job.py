"""The whole job file: few fields to know, each described, and no others."""

from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from ranksieve.service.spec import MOST_SEEDS, JobSpec

PLAIN, ALL = 14, 45
"""Most fields that are not marked as advanced, and most fields in all."""


def models_in(annotation: object) -> list[type[BaseModel]]:
    """Return the models that a field may hold; mappings are fields of their own."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return (
        []
        if get_origin(annotation) is dict
        else [model for part in get_args(annotation) for model in models_in(part)]
    )


def fields_of(model: type[BaseModel], above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield the dotted path of every field that holds a value; sections have a docstring instead."""
    for name, field in model.model_fields.items():
        sections = models_in(field.annotation)
        assert all(section.__doc__ for section in sections)
        for section in sections:
            yield from fields_of(section, f"{above}{name}.")
        if not sections:
            yield above + name, field


def is_a_tag(field: FieldInfo) -> bool:
    """Return whether a field has one value, which the docstring of its section describes."""
    return get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1


def test_the_job_file_is_small_and_every_field_is_described() -> None:
    fields = list(fields_of(JobSpec))
    assert [path for path, field in fields if not (field.description or is_a_tag(field))] == []
    plain = {path for path, field in fields if "x-advanced" not in (field.json_schema_extra or {})}
    every = {path for path, _ in fields}
    assert len(plain) <= PLAIN, sorted(plain)
    assert len(every) <= ALL, sorted(every)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"policy": {}}, r"policy\n.* not permitted"),
        ({"search": {"generations": 3}}, r"search\.generations\n.* not permitted"),
        ({"search": {"seeds": [{"ranks": [0]}] * (MOST_SEEDS + 1)}}, r"search\.seeds\n.* at most 1000 items"),
    ],
)
def test_what_no_job_file_may_have(
    make_spec: Callable[..., JobSpec], fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        JobSpec.model_validate(make_spec().canonical() | fields)


def test_a_settled_job_file_reads_as_it_was_written(make_spec: Callable[..., JobSpec]) -> None:
    sizes = {"calibration": 1, "search": 8, "confirm": 9, "test": 10}
    spec = make_spec().with_sizes(sizes).on_cluster([{"CPU": 4}])
    assert spec.sizes == sizes
    assert JobSpec.model_validate(spec.canonical()) == spec
