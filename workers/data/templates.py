"""Templates over a record's fields.

A template comes from a user: it may read the record and nothing else (see `workers.data.sandbox`), and its text
is at most `MAX_CHARACTERS` long. A missing field is an error, never an empty text.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jinja2 import TemplateError, TemplateRuntimeError, TemplateSyntaxError, UndefinedError
from jinja2 import meta as jinja_meta

from ranksieve.search.errors import InputError
from ranksieve.workers.data.sandbox import MAX_WORK, BoundedEnvironment, bound

MAX_CHARACTERS = 1_000_000


class Template:
    """One compiled template. Not for use from several threads at once.

    Args:
        source: Jinja text.
        field: Its place in the job file, e.g. `task.prompt`, for errors.

    Raises:
        InputError: On `field`, if the template does not parse.
    """

    def __init__(self, source: str, field: str) -> None:
        self._field = field
        self._environment = BoundedEnvironment()
        try:
            tree = self._environment.parse(source)
            bound(tree)
            self._names = sorted(jinja_meta.find_undeclared_variables(tree))
            self._template = self._environment.from_string(tree)
        except TemplateSyntaxError as error:
            raise InputError(field, f"bad template, line {error.lineno}: {error.message}") from error
        except ValueError as error:  # its compiler writes numbers out
            raise InputError(field, f"bad template: {error}") from error
        except (SyntaxError, RecursionError, MemoryError) as error:
            raise InputError(field, "bad template: it is nested too deeply; simplify it") from error

    def render(self, record: Mapping[str, Any], name: str) -> str:
        """Fill the template with one record.

        Args:
            record: Field → value; the whole record is `record`, for names that Jinja cannot spell.
            name: What to call the record in a message, e.g. `record 3 of train.jsonl`.

        Raises:
            InputError: On the template's field, if the record lacks a field, a value is null, or the
                template does what the sandbox forbids.
        """
        self._environment.work_left = MAX_WORK
        try:
            text = "".join(_at_most(MAX_CHARACTERS, self._template.generate({"record": record, **record})))
            text.encode()
        except UndefinedError as error:
            raise InputError(self._field, self._explain(error, record, name)) from error
        except UnicodeEncodeError as error:
            raise InputError(self._field, f"{name} renders to text that is not valid Unicode") from error
        except (
            TemplateError, ArithmeticError, AssertionError, AttributeError, LookupError, NameError, TypeError,
            ValueError, RecursionError, MemoryError,
        ) as error:  # fmt: skip
            raise InputError(self._field, f"{name} does not render: {error}") from error
        return text

    def _explain(self, error: UndefinedError, record: Mapping[str, Any], name: str) -> str:
        fields = ", ".join(map(str, record))
        for missing in self._names:
            if missing not in record and f"{missing!r} is undefined" in str(error):
                return f"{name} has no field {missing!r}; it has {fields}"
        return f"{name} does not render: {error}; its fields are {fields}"


def _at_most(limit: int, chunks: Iterable[str]) -> Iterator[str]:
    for chunk in chunks:
        limit -= len(chunk)
        if limit < 0:
            raise TemplateRuntimeError(f"its text is longer than {MAX_CHARACTERS:,} characters; shorten it")
        yield chunk
