"""Page of the commands, from the command line itself."""

from collections.abc import Iterator
from typing import Any

from ranksieve.api.cli import errors
from ranksieve.api.reference.markdown import code, page, paragraphs, table


def render(command: Any) -> str:
    """Render the page of the root command."""
    exits = table(
        ("exit code", "means"),
        [
            ("0", "success"),
            (str(errors.FAILED), "the job or the server failed"),
            (str(errors.USAGE), "wrong input: the job file, an option, a variable"),
            (str(errors.INTERRUPTED), "Ctrl-C"),
        ],
    )
    intro = "Results go to stdout, everything else to stderr."
    return page("# Commands", intro, exits, *_commands(command, "ranksieve"))


def _commands(group: Any, path: str) -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{path} {name}")
        elif not command.hidden:
            yield _command(command, f"{path} {name}")


def _command(command: Any, path: str) -> str:
    context = command.context_class(command, info_name=path)
    records = [one.get_help_record(context) for one in command.params if not getattr(one, "hidden", False)]
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    rows = ((code(record[0]), record[1]) for record in records if record)
    return page(
        f"## {code(path)}",
        paragraphs(command.help or ""),
        f"Usage: {code(usage)}",
        table(("argument or option", "meaning"), rows),
    )
