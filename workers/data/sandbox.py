"""Jinja's sandbox, bounded: a short template cannot spend unbounded memory or time.

Left out are recursion, files, padding and `str.format`; loop steps, and what is made and read, are counted against
`MAX_WORK`. A null value is an error, never the text "None". Knows nothing of records.
"""

import json
from collections.abc import Iterable, Iterator, Sized
from typing import Any

from jinja2 import StrictUndefined, TemplateRuntimeError, TemplateSyntaxError, Undefined
from jinja2 import nodes as jinja_nodes
from jinja2.filters import do_round
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import pass_context

MAX_WORK = 1_000_000
MAX_INTEGER_BITS = 4096
MAX_DEPTH = 64
MAX_DIGITS = 100
CHARACTERS_A_STEP = 10
"""So much of a text is read for one unit of work, or one item of a list."""

FILTERS = frozenset(
    {
        "abs",
        "capitalize",
        "count",
        "d",
        "default",
        "dictsort",
        "first",
        "float",
        "groupby",
        "int",
        "items",
        "join",
        "last",
        "length",
        "list",
        "lower",
        "map",
        "max",
        "min",
        "reject",
        "rejectattr",
        "replace",
        "reverse",
        "round",
        "select",
        "selectattr",
        "sort",
        "string",
        "striptags",
        "sum",
        "title",
        "tojson",
        "trim",
        "truncate",
        "unique",
        "upper",
        "urlencode",
        "wordcount",
    }
)
GLOBALS = frozenset({"range", "dict", "namespace"})

# Methods of text and numbers whose result can be far larger than what they are called on.
_GROWING = frozenset(
    {
        "center",
        "encode",
        "expandtabs",
        "format",
        "format_map",
        "hex",
        "join",
        "ljust",
        "replace",
        "rjust",
        "to_bytes",
        "translate",
        "zfill",
    }
)
_UNSUPPORTED = (
    jinja_nodes.Macro,
    jinja_nodes.CallBlock,
    jinja_nodes.Block,
    jinja_nodes.Extends,
    jinja_nodes.Include,
    jinja_nodes.Import,
    jinja_nodes.FromImport,
)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, without the ways to spend unbounded memory or time on a short template."""

    intercepted_binops = frozenset({"+", "-", "*", "**", "/", "//", "%"})

    def __init__(self) -> None:
        super().__init__(
            undefined=StrictUndefined,
            keep_trailing_newline=True,
            optimized=False,
            finalize=_output,
        )
        self.work_left = MAX_WORK
        self.globals = {name: self.globals[name] for name in GLOBALS} | {"dict": _dict}
        self.filters = {name: value for name, value in self.filters.items() if name in FILTERS}
        self.filters |= {"join": _join, "replace": _replace, "tojson": _to_json}
        self.filters |= {"round": _round, "sum": _sum}
        self.filters |= {"_output": _output, "_steps": _steps, "_made": _made, "_read": _read}

    def spend(self, amount: int) -> None:
        """Take characters or loop steps from this render's budget."""
        self.work_left -= amount
        if self.work_left < 0:
            raise TemplateRuntimeError(
                f"it takes more than {MAX_WORK:,} characters and loop steps; simplify it"
            )

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, str):
            raise TemplateRuntimeError("% does not format text here; join values with ~")
        if isinstance(left, int) and isinstance(right, int):
            _check_integer(operator, left, right)
        elif operator in ("+", "*"):
            self.spend(_size(operator, left, right))
        return _made(context, super().call_binop(context, operator, left, right))

    def read(self, value: Any) -> Any:
        """Take what reading a value costs from the budget, with all that is in it; returns the value."""
        parts = [value]
        while parts:
            part = parts.pop()
            if isinstance(part, str | bytes):
                self.spend(len(part) // CHARACTERS_A_STEP)
            elif isinstance(part, int):
                _check_integer("", part, 0)
            elif isinstance(part, dict | list | tuple):
                self.spend(len(part))
                parts.extend(part.values() if isinstance(part, dict) else part)
            elif isinstance(part, Sized) and not isinstance(part, Undefined | LoopContext):
                self.spend(len(part))
        return value

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Methods go through what they are called on and with, each time that they are called."""
        for value in (getattr(__obj, "__self__", None), *args, *kwargs.values()):
            __self.read(value)
        return super().call(__context, __obj, *args, **kwargs)

    def call_filter(self, name: str, value: Any, *rest: Any, **options: Any) -> Any:
        """As `map` does it: each value counts."""
        return super().call_filter(name, self.read(value), *rest, **options)

    def call_test(self, name: str, value: Any, args: Any = None, *rest: Any, **options: Any) -> Any:
        """As `select` does it: each value counts, and what it is compared with."""
        for one in (value, *(args or ())):
            self.read(one)
        return super().call_test(name, value, args, *rest, **options)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Of a path of attributes, each step counts."""
        self.spend(1)
        return super().getitem(obj, argument)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str | bytes | int) and attr in _GROWING:
            return False
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """No `str.format`: its padding is unbounded. `is_safe_attribute` refuses it."""


def bound(tree: jinja_nodes.Template) -> None:
    """Refuse recursion, files and deep nesting; count every loop step, every operand of `~`, what is made and read."""
    _check_depth(tree)
    for node in tree.find_all(_UNSUPPORTED):
        raise TemplateSyntaxError(f"{type(node).__name__.lower()} is not supported", node.lineno)
    for loop in tree.find_all(jinja_nodes.For):
        if loop.recursive:
            raise TemplateSyntaxError("a recursive loop is not supported", loop.lineno)
        loop.iter = _filtered(loop.iter, "_steps")
    for concat in tree.find_all(jinja_nodes.Concat):
        concat.nodes = [_filtered(operand, "_output") for operand in concat.nodes]
    for block in tree.find_all((jinja_nodes.AssignBlock, jinja_nodes.FilterBlock)):
        for output in block.find_all(jinja_nodes.Output):  # what is kept counts, text of the template too
            output.nodes = [
                jinja_nodes.Const(one.data, lineno=one.lineno, environment=one.environment)
                if isinstance(one, jinja_nodes.TemplateData)
                else one
                for one in output.nodes
            ]
    _count_reads(tree)
    _count_made(tree)


def _count_reads(tree: jinja_nodes.Template) -> None:
    """Filters, tests, comparisons, slices and methods go through all that they are given."""
    for node in list(tree.find_all((jinja_nodes.Filter, jinja_nodes.Test))):
        if node.node is not None and node.name not in {"_output", "_steps"}:
            node.node = _filtered(node.node, "_read")
    for compare in list(tree.find_all(jinja_nodes.Compare)):
        compare.expr = _filtered(compare.expr, "_read")
        for operand in compare.ops:
            operand.expr = _filtered(operand.expr, "_read")
    for item in list(tree.find_all(jinja_nodes.Getitem)):
        if isinstance(item.arg, jinja_nodes.Slice):
            item.node = _filtered(item.node, "_read")


def _count_made(node: jinja_nodes.Node) -> None:
    """Count what literals of lists, tuples and mappings make, where they are values and not targets."""
    for name, value in list(node.iter_fields()):
        values = value if isinstance(value, list) else [value]
        for child in values:
            if isinstance(child, jinja_nodes.Node):
                _count_made(child)
        wrapped = [_filtered(one, "_made") if _is_made(one) else one for one in values]
        setattr(node, name, wrapped if isinstance(value, list) else wrapped[0])


def _is_made(node: Any) -> bool:
    literal = isinstance(node, jinja_nodes.List | jinja_nodes.Tuple | jinja_nodes.Dict)
    return literal and getattr(node, "ctx", "load") == "load"


def _check_depth(tree: jinja_nodes.Template) -> None:
    """Jinja's compiler takes time cubic in the depth of an expression."""
    level: list[jinja_nodes.Node] = [tree]
    for _ in range(MAX_DEPTH):
        level = [child for node in level for child in node.iter_child_nodes()]
    if level:
        raise TemplateSyntaxError("it is nested too deeply; simplify it", level[0].lineno)


def _filtered(node: Any, name: str) -> jinja_nodes.Filter:
    return jinja_nodes.Filter(
        node, name, [], [], None, None, lineno=node.lineno, environment=node.environment
    )


def _bounded(context: Context) -> BoundedEnvironment:
    assert isinstance(context.environment, BoundedEnvironment)
    return context.environment


def _spend(context: Context, amount: int) -> None:
    _bounded(context).spend(amount)


@pass_context
def _made(context: Context, value: Any) -> Any:
    """A value, each of whose parts counts as often as it is in it: a list of one list twice is as large as it looks."""
    parts = [value]
    while parts:
        part = parts.pop()
        inner = part.values() if isinstance(part, dict) else part if isinstance(part, list | tuple) else ()
        _spend(context, len(inner))
        parts.extend(inner)
    return value


@pass_context
def _read(context: Context, value: Any) -> Any:
    return _bounded(context).read(value)


@pass_context
def _dict(context: Context, *pairs: Any, **values: Any) -> Any:
    return _made(context, dict(*pairs, **values))


@pass_context
def _sum(context: Context, values: Iterable[Any], attribute: str | int | None = None, start: Any = 0) -> Any:
    environment = _bounded(context)
    for value in values:
        part = value if attribute is None else environment.getitem(value, attribute)
        start = environment.call_binop(context, "+", start, part)
    return start


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    if not isinstance(precision, int) or abs(precision) > MAX_DIGITS:
        raise TemplateRuntimeError(f"round takes up to {MAX_DIGITS} digits, got {precision!r}")
    return float(do_round(value, precision, method))  # type: ignore[arg-type]


@pass_context
def _output(context: Context, value: Any) -> str:
    if value is None:
        raise TemplateRuntimeError("a value is null; if that is meant, write {{ field or '' }}")
    if isinstance(value, bytes):
        raise TemplateRuntimeError("a value is bytes; save the column as text")
    text = str(_read(context, value))
    _spend(context, len(text))
    return text


@pass_context
def _steps(context: Context, values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        _spend(context, 1)
        yield value


@pass_context
def _join(context: Context, values: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    if attribute is not None:
        values = (context.environment.getitem(value, attribute) for value in values)
    texts = []
    for value in values:
        texts.append(_output(context, value))
        _spend(context, len(d))
    return d.join(texts)


@pass_context
def _replace(context: Context, text: Any, old: str, new: str, count: int = -1) -> str:
    whole = str(text)
    _spend(context, whole.count(old) * len(new))
    return whole.replace(old, new, count)


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _check_integer(operation: str, left: int, right: int) -> None:
    bits = left.bit_length() + right.bit_length()
    if bits > 2 * MAX_INTEGER_BITS:
        raise TemplateRuntimeError(f"a number of more than {MAX_INTEGER_BITS} bits; simplify it")
    if operation == "**":
        bits = left.bit_length() * abs(right)
    if operation in ("*", "**") and bits > MAX_INTEGER_BITS:
        raise TemplateRuntimeError(f"a number of more than {MAX_INTEGER_BITS} bits; simplify it")


def _size(operation: str, left: Any, right: Any) -> int:
    """Length of the text or list that `left + right` or `left * right` would make; 0 for numbers."""
    sizes = [len(value) if isinstance(value, str | bytes | list | tuple) else 0 for value in (left, right)]
    if operation == "+":
        return sum(sizes)
    factor: int = next((value for value in (left, right) if isinstance(value, int)), 0)
    return max(sizes) * max(0, factor)
