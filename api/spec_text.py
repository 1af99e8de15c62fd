"""Text of a job file, YAML or JSON: its value, and the places of its fields.

REST and the command line read it alike.
"""

from typing import Any, NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer, ComposerError
from ruamel.yaml.constructor import ConstructorError, SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, StreamMark, YAMLError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from ranksieve.api.spec_errors import ROOT
from ranksieve.search.errors import InputError


class Place(NamedTuple):
    """Place in a text; lines and columns count from 1."""

    line: int
    column: int


class MalformedError(InputError):
    """Refusal of a text that is neither YAML nor JSON.

    Args:
        message: What is wrong.
        place: Where, if that is known.
    """

    def __init__(self, message: str, place: Place | None = None) -> None:
        super().__init__(ROOT, message)
        self.place = place


class SpecText:
    """Parsed text.

    Args:
        text: One YAML document; JSON is YAML.

    Raises:
        MalformedError: The text is not YAML, has aliases or merge keys, or is nested too deeply.
    """

    def __init__(self, text: str) -> None:
        yaml = YAML(typ="safe", pure=True)
        yaml.Composer, yaml.Constructor = _Composer, _Constructor
        try:
            self._node = yaml.compose(text)
            self.value: Any = None if self._node is None else yaml.constructor.construct_document(self._node)
        except RecursionError:
            raise MalformedError("a part of it is nested too deeply") from None
        except MarkedYAMLError as error:
            mark, found = error.problem_mark, f"{error.context or ''} {error.problem}"
            detail = found.partition(" with value")[0].strip()  # of a key given twice, which may be long
            if mark is not None and "{{" in "".join(text.splitlines()[mark.line : mark.line + 1]):
                detail += '; quote the template, e.g. answer: "{{ label }}"'
            raise MalformedError(detail, _place(mark)) from None
        except (YAMLError, TypeError) as error:  # a character that no YAML may have, or a list as a key
            raise MalformedError(f"not valid YAML or JSON: {' '.join(str(error).split())}") from None

    def place(self, pointer: str) -> Place:
        """Return the place of a JSON pointer's field, or of its parent if it is missing."""
        node = self._node
        mark = None if node is None else node.start_mark
        for part in pointer.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(node, MappingNode):
                found = next((pair for pair in node.value if pair[0].value == name), None)
            else:
                items = node.value if isinstance(node, SequenceNode) else ()
                found = next(((item, item) for index, item in enumerate(items) if str(index) == name), None)
            if found is None:
                break
            mark, node = found[0].start_mark, found[1]
        return _place(mark)


class _Composer(Composer):
    """Composer without aliases: JSON has none, and nested ones grow without bound."""

    def compose_node(self, parent: Node | None, index: Any) -> Any:
        if self.parser.check_event(AliasEvent):
            mark = self.parser.peek_event().start_mark
            raise ComposerError(None, None, "aliases (*) are not supported; repeat the value", mark)
        return super().compose_node(parent, index)


class _Constructor(SafeConstructor):
    """Constructor of Python values from nodes; every error has a place."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:  # such as an impossible date
            raise ConstructorError(None, None, str(error), node.start_mark) from None

    def flatten_mapping(self, node: Any) -> None:
        """Refuse merge keys: YAML 1.2 has none, and nested merges grow without bound."""
        for key, _ in node.value:
            if key.value == "<<":
                raise ConstructorError(None, None, "<< is not supported; repeat the fields", key.start_mark)


def _place(mark: StreamMark | None) -> Place:
    return Place(1, 1) if mark is None else Place(mark.line + 1, mark.column + 1)
