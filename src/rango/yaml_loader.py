"""YAML as Rango's files use it: text keys, decimal numbers, each key once, and no more values than a person writes.

PyYAML takes the last of two equal keys without a word, reads `1_000`, `010` and `1:30` as the numbers 1000, 8 and 90,
and lets a few aliases (`*name`) stand for millions of values, which any later look at them would have to walk through.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml
from yaml.constructor import ConstructorError

_DEEPEST = 50  # levels of nesting; the deepest file of Rango has six
_MOST_REPEATED = 100_000  # values that aliases may add to those that are written down
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9]*|([0-9]+\.[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?|\.inf|\.nan)", re.I)
_INTEGER_DIGITS = 308  # more are beyond the largest float


def parse_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        YAMLError: what is no YAML, or beyond the limits above; a ConstructorError where the syntax is right.
    """
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - made from the safe loader
    except RecursionError:
        raise ConstructorError(None, None, "nested too deep; expected `key: value` lines", None) from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # a date that is none, for example
        reason = " ".join(str(error).split())[:200]
        problem = f"a value cannot be read ({reason}); put it in quotation marks"
        raise ConstructorError(None, None, problem, None) from None


@dataclass(frozen=True)
class Place:
    """Where a key of a YAML text stands: `lora.targets` in line 3, or `runs[0].steps`."""

    key: str
    line: int
    """Counted from 1."""
    value: str | None = None
    """One plain value of the key, as it is written; then `line` is that value's."""


def key_places(text: str) -> list[Place]:
    """Where the keys of a YAML text stand, and each of their plain values; merges and aliases are not followed.

    Raises:
        YAMLError: as `parse_yaml`.
    """
    loader = _Loader(text)
    try:
        root = loader.get_single_node()
    finally:
        loader.dispose()
    return [] if root is None else list(_places(root, ""))


def _places(node: yaml.Node, key: str) -> Iterator[Place]:
    if isinstance(node, yaml.ScalarNode):
        yield Place(key, node.start_mark.line + 1, str(node.value))
    elif isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            inner = f"{key}.{name.value}" if key else str(name.value)
            yield Place(inner, name.start_mark.line + 1)
            yield from _places(value, inner)
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            # Only mappings need their number: the values of a list are all values of its key.
            yield from _places(value, f"{key}[{number}]" if isinstance(value, yaml.MappingNode) else key)


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with these limits."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self.deep_construct = True  # what contains itself is then an error

    def fetch_flow_collection_start(self, kind: type[yaml.Token]) -> None:
        """A bracket that opens; too many are refused where they stand, before seconds are spent on their tokens."""
        if self.flow_level >= _DEEPEST:
            raise ConstructorError(None, None, f"nested deeper than {_DEEPEST} levels", self.get_mark())
        super().fetch_flow_collection_start(kind)

    def get_single_node(self) -> yaml.Node | None:
        """The document as nodes, once it is known that its values are few enough to be made."""
        root = super().get_single_node()
        sizes: dict[int, int] = {}  # of each node, with all that stands in it: an alias is the node itself again

        def measure(node: yaml.Node, depth: int) -> int:
            if depth > _DEEPEST:
                raise ConstructorError(None, None, f"nested deeper than {_DEEPEST} levels", node.start_mark)
            if id(node) not in sizes:
                sizes[id(node)] = 1  # for a node that contains itself, which is refused later
                inner = [part for pair in node.value for part in (pair if isinstance(pair, tuple) else (pair,))]
                sizes[id(node)] += sum(measure(part, depth + 1) for part in inner if isinstance(part, yaml.Node))
            return sizes[id(node)]

        if root is not None and (repeated := measure(root, 0) - len(sizes)) > _MOST_REPEATED:
            message = f"its aliases stand for {repeated:.3g} values; write out what is meant"
            raise ConstructorError(None, None, message, root.start_mark)
        return root

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are texts and stand once."""
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key.value, str):
                continue  # a list or a mapping: refused below
            if key.value in seen:
                raise ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
            seen.add(key.value)
        mapping = super().construct_mapping(node, deep=deep)
        # After merges (`<<`), which stand in the keys until then.
        for key, _ in node.value:
            if key.tag != _TEXT:
                message = f"the key {str(key.value)[:40]} is not a word; put it in quotes"
                raise ConstructorError(None, None, message, key.start_mark)
        return mapping

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        """A text that UTF-8 can write."""
        if isinstance(node.value, str) and any("\ud800" <= character <= "\udfff" for character in node.value):
            raise ConstructorError(None, None, "half a surrogate pair", node.start_mark)
        return super().construct_scalar(node)

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A whole or decimal number as a person writes it."""
        text = str(self.construct_scalar(node))
        if not _DECIMAL.fullmatch(text):
            message = f"{text[:40]} is a number only for YAML; write it in decimal digits, or as a text in quotes"
            raise ConstructorError(None, None, message, node.start_mark)
        if node.tag == _FLOAT:
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        if len(text) > _INTEGER_DIGITS:
            message = "a number has too many digits; shorten it or put it in quotation marks"
            raise ConstructorError(None, None, message, node.start_mark)
        return int(text)


_TEXT, _INTEGER, _FLOAT = (f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float"))
for _tag in (_INTEGER, _FLOAT):
    _Loader.add_constructor(_tag, _Loader.construct_number)
# YAML 1.1 makes booleans of no, yes, on and off too, which are names more often: only true and false stay ones.
_Loader.yaml_implicit_resolvers = {
    letter: [pair for pair in pairs if letter in "tTfF" or not pair[0].endswith(":bool")]
    for letter, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
