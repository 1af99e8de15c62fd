"""Hostile job files and templates."""

from typing import Any

from hostile.inputs import Document, Draw, Input, Make

FIELDS = (
    "name", "model", "model.path", "model.dtype", "task", "task.kind", "task.prompt", "task.answer", "task.choices",
    "task.data", "task.data.source", "task.data.source.path", "task.data.sizes", "task.data.sizes.test", "seed",
    "objective", "objective.kind", "objective.share", "search", "search.max_evaluations", "search.seeds",
    "search.constraints", "resources", "resources.actors", "labels", "priority", "effort", "parent",
)  # fmt: skip
WRONG: tuple[Any, ...] = (
    {"$ref": "#"}, [[[]]], float("nan"), float("inf"), -float("inf"), 10**30, -(10**30), 10**4000, 1.5e300, "\ud800",
    [None] * 1000, {"": None}, {"__proto__": {"admin": True}},
)  # fmt: skip
FILE_FIELDS = ("model.path", "model.adapter", "task.data.source.path", "search.seeds", "task.data.files")
CONTROLS = "\0\x07\x1b\n\r\x7f\u200b\u200e\u202e\u2066\u2028\u2029\ufeff\u00ad"


def _naming(field: str, path: str) -> Document:
    """A change that names a file in a field."""
    if field == "search.seeds":
        return {field: [{"path": path}]}
    if field == "task.data.files":
        return {field: {"test": {"path": path}}}
    return {"model": {"path": path}} if field == "model.path" else {field: path}


def _wrong_type(draw: Draw) -> Input:
    return draw.job({draw.rng.choice(FIELDS): draw.rng.choice(WRONG)})


def _unknown_field(draw: Draw) -> Input:
    above = draw.rng.choice(["", "model.", "task.", "task.data.", "objective.", "search.", "resources."])
    name = draw.rng.choice(["x", "__class__", "policy", "$schema", "nam\u0435", "../x", "a" * 9999, "\u202e"])
    return draw.job({above + name.replace(".", ""): draw.rng.choice(WRONG[:2])})


def _nested(draw: Draw) -> Input:
    depth = 10 ** draw.rng.randint(2, 5)
    opening, closing = draw.rng.choice([("[", "]"), ('{"a":', "}")])
    value = opening * depth + "1" + closing * depth
    return draw.post(draw.written({"name": "HERE"}).replace(b'"HERE"', value.encode()))


def _aliases(draw: Draw) -> Input:
    lines = [
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9) if i else 'x'}]" for i in range(draw.rng.randint(9, 30))
    ]
    kind = draw.rng.choice(["application/yaml", "application/json", "text/yaml"])
    return draw.post("\n".join(lines).encode(), {"Content-Type": kind})


def _hidden_characters(draw: Draw) -> Input:
    text = "job" + draw.rng.choice(CONTROLS) + "boj"
    return draw.job(
        {draw.rng.choice(["name", "labels"]): text} if draw.rng.random() < 0.5 else {"labels": {text: text}}
    )


def _private_file(draw: Draw) -> Input:
    path = draw.rng.choice(draw.target.private_files())
    match draw.rng.randrange(4):
        case 0:
            path = "../" * draw.rng.randint(1, 40) + path.lstrip("/")
        case 1:
            path = f"{draw.target.root}/../{'../' * 30}{path.lstrip('/')}"
        case 2:
            link = draw.target.root / f"link-{draw.number}{draw.rng.choice(['', '.jsonl', '.gguf', '.json'])}"
            link.symlink_to(path)
            path = str(link)
        case _:
            pass
    return draw.job(_naming(draw.rng.choice(FILE_FIELDS), path))


def _path_that_is_none(draw: Draw) -> Input:
    loop = draw.target.root / f"loop-{draw.number}.jsonl"
    loop.symlink_to(loop)
    paths = [
        "a\0b",
        "x" * 5000,
        "/".join(["x"] * 3000),
        "~root/.ssh/id_rsa",
        "$HOME",
        "file:///etc/passwd",
        str(loop),
    ]
    paths += [
        "https://169.254.169.254/latest/meta-data",
        "\\\\host\\share",
        "C:\\boot.ini",
        "|id",
        "`id`",
        "%2e%2e%2f",
    ]
    return draw.job(_naming(draw.rng.choice(FILE_FIELDS), draw.rng.choice(paths)))


def _hub_that_is_none(draw: Draw) -> Input:
    names = [
        "../..",
        "/etc",
        "a/../../b",
        "https://169.254.169.254/x",
        "a/b/c/d",
        "a\0/b",
        "-/-",
        "x" * 9999,
        "json",
    ]
    name = draw.rng.choice(names)
    return draw.job(draw.rng.choice([{"model": {"hub": name}}, {"task.data.source": {"hub": {"id": name}}}]))


def _size_out_of_bounds(draw: Draw) -> Input:
    field, values = draw.rng.choice(
        [
            ("task.data.sizes.calibration", [10**6, 2**31, 2**63, 0, -1]),
            ("search.max_evaluations", [0, 2**63, 1e308]),
            ("resources.actors", [0, 10**6, 2**64]),
            ("resources.threads_per_actor", [0, 10**6, 2**64]),
            ("objective.share", [-1, 0, 2, 1e308]),
            ("seed", [-1, 2**64]),
            ("priority", [1, 100, 101]),
        ]
    )
    return draw.job({field: draw.rng.choice(values)})


def _long_lists(draw: Draw) -> Input:
    pattern = "*a" * draw.rng.randint(10, 1000) + "*b"
    changes: list[Document] = [
        {"model.include": [pattern] * 1000},
        {"search.constraints": [{"matrices": [pattern] * 10, "density": [1, 1]}] * 100},
        {"search.seeds": [{"ranks": list(range(1000))}] * 150},
        {"task.choices": [f"choice {n}" for n in range(10_001)]},
        {"labels": {str(n): "x" for n in range(101)}},
    ]
    return draw.job(draw.rng.choice(changes))


def _foreign_parent(draw: Draw) -> Input:
    return draw.job({"parent": {"job": draw.target.honest_job}})


JOBS: tuple[Make, ...] = (
    _wrong_type, _unknown_field, _nested, _aliases, _hidden_characters, _private_file, _path_that_is_none,
    _hub_that_is_none, _size_out_of_bounds, _long_lists, _foreign_parent,
)  # fmt: skip

TEXTS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% for a in range(99999) %}{{ text }}{% endfor %}",
    "{{ range(10 ** NUMBER) | list | length }}",
    "{% macro m(x) %}{{ m(x) }}{% endmacro %}{{ m(1) }}",
    "{% for a in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{{ 'x' * 10 ** NUMBER }}",
    "{{ NUMBER ** (NUMBER ** NUMBER) }}",
    "{{ '%999999999d' % NUMBER }}",
    "{{ ('x' * 99999) | replace('x', 'y' * 99999) }}",
    "{{ 'x' | center(10 ** NUMBER) }}",
    "{{ text | indent(10 ** NUMBER, true) }}",
    "{% set n = namespace(a='xx') %}{% for i in range(99) %}{% set n.a = n.a ~ n.a %}{% endfor %}",
    "{{ [[1] * 99999] * 99999 }}",
    "{{ text.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ record.__init__ }}{{ self._TemplateReference__context }}",
    "{% include '/etc/passwd' %}",
    "{% import 'os' as os %}{{ os }}",
    "{% extends '../../etc/passwd' %}",
    "{{ text.format_map({}) }}{{ '{0.__class__}'.format(text) }}",
    "{{ missing }}",
    "{{ none }}",
    "{% if %}",
    "{{ 1 / 0 }}",
    "{{ text | attr('__class__') }}",
    "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "{% if a %}" * 500 + "{% endif %}" * 500,
    "{{ text" + " | upper" * 9000 + " }}",
    "{{ " + "9" * 5000 + " }}",
    "{% set k = 'real,' * 60000 ~ 'real' %}{{ (range(1000) | list) | sort(attribute=k) | length }}",
    "{{ 1.5 | round(4000000, 'floor') }}",
    "{{ (('<a' * 50000) ~ text) | striptags | urlize }}" * 20,
)


def _template(draw: Draw) -> Input:
    text = draw.rng.choice(TEXTS).replace("NUMBER", str(draw.rng.randint(6, 30)))
    return draw.job({draw.rng.choice(["task.prompt", "task.answer"]): text})


TEMPLATES: tuple[Make, ...] = (_template,)
