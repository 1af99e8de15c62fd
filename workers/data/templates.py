"""Templates over a record's fields, and the program that renders them.

See `workers.data.rendering`. A template comes from a user. Jinja's sandbox lets it read the record and nothing else.
The limits of its process bound its time and memory. A missing field or a null value is an error, never a text.
"""

import json
import pickle
import resource
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
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

MAX_CHARACTERS = 1_000_000
"""Largest length of the text of one record."""

Named = tuple[str, Mapping[str, Any]]
"""Name of a record in messages, and its content."""
Request = tuple[str, str, Sequence[Named]]
"""A template, its field in the job file, and records."""


class Template:
    """One compiled template.

    Args:
        source: Jinja text.
        field: Place of the template in the job file, e.g. `task.prompt`, for errors.

    Raises:
        InputError: On `field`, if the template does not parse.
    """

    def __init__(self, source: str, field: str) -> None:
        self._field = field
        environment = _environment()
        try:
            tree = environment.parse(source)
            for concat in tree.find_all(nodes.Concat):  # `finalize` does not see the operands of ~
                concat.nodes = [_as_text(operand) for operand in concat.nodes]
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
    environment.filters |= {"_text": _text, "join": _join, "tojson": _to_json}
    return environment


def _as_text(operand: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(
        operand, "_text", [], [], None, None, lineno=operand.lineno, environment=operand.environment
    )


def _text(value: Any) -> str:
    if value is None:
        raise TemplateRuntimeError("a value is null; if that is meant, write {{ field or '' }}")
    if isinstance(value, bytes):
        raise TemplateRuntimeError("a value is bytes; save the column as text")
    return str(value)


@pass_environment
def _join(
    environment: Environment, values: Iterable[Any], d: str = "", attribute: str | int | None = None
) -> str:
    if attribute is not None:
        values = map(make_attrgetter(environment, attribute), values)
    return d.join(map(_text, values))


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _at_most(limit: int, chunks: Iterable[str]) -> Iterator[str]:
    for chunk in chunks:
        limit -= len(chunk)
        if limit < 0:
            raise TemplateRuntimeError(f"its text is longer than {MAX_CHARACTERS:,} characters; shorten it")
        yield chunk


def main(cpu_s: int, records_per_s: int, memory_bytes: int) -> None:
    """Answer pickled requests on standard input with lines of JSON.

    It ends at the first error.

    Args:
        cpu_s: Processor time to start with, in seconds; the kernel ends a process that takes more.
        records_per_s: Number of records that earn one second more.
        memory_bytes: Address space of the process.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    compiled, done = cache(Template), 0
    try:
        while True:
            resource.setrlimit(resource.RLIMIT_CPU, (cpu_s + done // records_per_s, resource.RLIM_INFINITY))
            request: Request = pickle.load(sys.stdin.buffer)
            source, field, records = request
            template = compiled(source, field)
            texts = [template.render(record, name) for name, record in records]
            print(json.dumps({"texts": texts}), flush=True)  # noqa: T201
            done += len(texts)
    except EOFError:
        return
    except InputError as error:
        message = error.message
    except MemoryError:
        message = "the records take too much memory; simplify the template"
    print(json.dumps({"error": message}), flush=True)  # noqa: T201


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
