"""Templates over a record's fields.

A template comes from a user. Jinja's sandbox lets it read the record and nothing else. The limits of its process bound
its time and memory; see `workers.machine.limited`. A missing field or a null value is an error, never a text.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jinja2 import (
    Environment,
    StrictUndefined,
    TemplateError,
    TemplateRuntimeError,
    TemplateSyntaxError,
    UndefinedError,
    meta,
    nodes,
    pass_environment,
)
from jinja2.filters import make_attrgetter
from jinja2.sandbox import ImmutableSandboxedEnvironment

from ranksieve.search.errors import InputError
from ranksieve.workers.machine.child import step

MAX_CHARACTERS = 1_000_000
"""Largest length of the text of one record."""

Named = tuple[str, Mapping[str, Any]]
"""Name of a record in messages, and its content."""

CPU_S = 10
"""Processor time that templates may take, in seconds."""
RECORDS_PER_S = 1000
"""Number of records that earn one second more.

A usual template takes a fiftieth of that time.
"""


def render(source: str, field: str, records: Sequence[Named]) -> list[str]:
    """Fill a template with records.

    Args:
        source: Jinja text.
        field: Place of the template in the job file, e.g. `task.prompt`, for errors.
        records: Records; none to check the template alone.

    Raises:
        InputError: On `field`, if the template does not parse, or does not fit a record.
    """
    step(field, f"rendering it with {len(records):,} records", cpu_s_of(len(records)))
    template = Template(source, field)
    return [template.render(record, name) for name, record in records]


def render_each(source: str, field: str, records: Sequence[Named]) -> list[tuple[str, ...]]:
    """Fill a template whose value may be a list, such as several right answers.

    If the whole template is one expression, maybe with line breaks behind it, and its value a list, each item is a text
    of its own. Else there is one text, see `render`.
    """
    return [
        tuple(item + blanks for item in value) if isinstance(value, list) else (value + blanks,)
        for value, blanks in _values(source, field, records, "_each")
    ]


def render_value(source: str, field: str, records: Sequence[Named]) -> list[str | list[Any]]:
    """Fill a template whose value may be a list, such as messages.

    If the whole template is one expression, maybe with line breaks behind it, and its value a list, the list is
    returned, of JSON values. Else there is a text, see `render`.
    """
    return [
        value if isinstance(value, list) else value + blanks
        for value, blanks in _values(source, field, records, "_value")
    ]


def _values(source: str, field: str, records: Sequence[Named], json_filter: str) -> list[tuple[Any, str]]:
    """Return texts, or values of one expression, each with the blanks behind it."""
    step(field, f"rendering it with {len(records):,} records", cpu_s_of(len(records)))
    template = Template(source, field, json_filter)
    texts = [template.render(record, name) for name, record in records]
    if not template.is_json:
        return [(text, "") for text in texts]
    return [(json.loads(text), text[len(text.rstrip()) :]) for text in texts]


def cpu_s_of(records: int) -> float:
    """Return the processor time that a template may take for all records, in seconds."""
    return CPU_S + records / RECORDS_PER_S


class Template:
    """One compiled template.

    Args:
        source: Jinja text.
        field: Place of the template in the job file, e.g. `task.prompt`, for errors.
        json_filter: Filter that writes the value of a template of one expression as JSON; then `is_json` is true.

    Raises:
        InputError: On `field`, if the template does not parse.
    """

    def __init__(self, source: str, field: str, json_filter: str | None = None) -> None:
        self._field = field
        environment = _environment()
        try:
            tree = environment.parse(source)
            for concat in tree.find_all(nodes.Concat):  # `finalize` does not see the operands of ~
                concat.nodes = [_filtered(operand, "_text") for operand in concat.nodes]
            self.is_json = json_filter is not None and _filter_expression_(tree, json_filter)
            self._names = sorted(meta.find_undeclared_variables(tree))
            self._template = environment.from_string(tree)
        except TemplateSyntaxError as error:
            raise InputError(field, f"bad template, line {error.lineno}: {error.message}") from error
        except ValueError as error:  # Jinja's compiler writes numbers out
            raise InputError(field, f"bad template: {error}") from error
        except (SyntaxError, RecursionError, MemoryError) as error:
            raise InputError(field, "bad template: it is nested too deeply; simplify it") from error

    def render(self, record: Mapping[str, Any], name: str) -> str:
        """Fill the template with one record.

        Args:
            record: Field → value; the whole record is `record`, for names that Jinja cannot spell.
            name: Name of the record in messages, e.g. `record 3 of train.jsonl`.

        Raises:
            InputError: On the template's field, if the record lacks a field, a value is null, or the
                template does something that the sandbox forbids.
        """
        try:
            text = "".join(_at_most(MAX_CHARACTERS, self._template.generate({"record": record, **record})))
            text.encode()
        except UndefinedError as error:
            raise InputError(self._field, self._explain(error, record, name)) from error
        except UnicodeEncodeError as error:
            raise InputError(self._field, f"{name} renders to text that is not valid Unicode") from error
        except MemoryError as error:
            raise InputError(self._field, f"{name} takes too much memory; simplify the template") from error
        except (
            TemplateError, ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError,
            ValueError, RecursionError,
        ) as error:  # fmt: skip
            raise InputError(self._field, f"{name} does not render: {error}") from error
        return text

    def _explain(self, error: UndefinedError, record: Mapping[str, Any], name: str) -> str:
        fields = ", ".join(map(str, record))
        for missing in self._names:
            if missing not in record and f"{missing!r} is undefined" in str(error):
                return f"{name} has no field {missing!r}; it has {fields}"
        return f"{name} does not render: {error}; its fields are {fields}"


class _Missing(StrictUndefined):
    """Undefined value that is an error in a list, too, where `repr` is used."""

    __repr__ = StrictUndefined.__str__


def _environment() -> Environment:
    environment = ImmutableSandboxedEnvironment(
        undefined=_Missing, keep_trailing_newline=True, finalize=_text
    )
    del environment.globals["lipsum"], environment.filters["random"]  # the same text every time
    environment.filters |= {
        "_text": _text,
        "_each": _each,
        "_value": _value,
        "join": _join,
        "tojson": _to_json,
    }
    return environment


def _filtered(operand: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(
        operand, name, [], [], None, None, lineno=operand.lineno, environment=operand.environment
    )


def _filter_expression_(tree: nodes.Template, name: str) -> bool:
    """Put a filter behind the expression of a template of one expression.

    Returns whether the template is one; others stay unchanged.
    """
    match tree.body:
        case [nodes.Output(nodes=[expression, *rest]) as output] if all(map(_is_blank, rest)):
            if not isinstance(expression, nodes.TemplateData):
                output.nodes = [_filtered(expression, name), *rest]
                return True
    return False


def _is_blank(node: nodes.Expr) -> bool:
    return isinstance(node, nodes.TemplateData) and node.data.isspace()


def _text(value: Any) -> str:
    if value is None:
        raise TemplateRuntimeError("a value is null; if that is meant, write {{ field or '' }}")
    if isinstance(value, bytes):
        raise TemplateRuntimeError("a value is bytes; save the column as text")
    return str(value)


def _each(value: Any) -> str:
    return _to_json([_text(item) for item in (value if isinstance(value, list | tuple) else [value])])


def _value(value: Any) -> str:
    return _to_json(value, _text) if isinstance(value, list | tuple) else _to_json(_text(value))


@pass_environment
def _join(
    environment: Environment, values: Iterable[Any], d: str = "", attribute: str | int | None = None
) -> str:
    if attribute is not None:
        values = map(make_attrgetter(environment, attribute), values)
    return d.join(map(_text, values))


def _to_json(value: Any, default: Callable[[Any], str] | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, default=default)


def _at_most(limit: int, chunks: Iterable[str]) -> Iterator[str]:
    for chunk in chunks:
        limit -= len(chunk)
        if limit < 0:
            raise TemplateRuntimeError(f"its text is longer than {MAX_CHARACTERS:,} characters; shorten it")
        yield chunk
