"""YAML that people write: each key once, within limits, with numbers that remember their text."""

import re
from functools import lru_cache
from typing import Any

import yaml

MAX_BYTES = 1 << 20  # of a file
MAX_KEPT = 2**16  # characters of a text whose values are kept: they take fifty times as much
MAX_DEPTH = 40  # of lists and mappings in each other
MAX_NODES = 200_000  # values, those that aliases repeat included


class YamlError(ValueError):
    """YAML that is not read: the sentence names the line."""


class NotYaml(YamlError):
    """A text that is not YAML at all."""


class Written:
    """A number or a boolean of YAML that remembers how it was written.

    Where a setting is text, its text counts: of `revision: 7.10`, a number would be 7.1.
    """

    text: str

    def plain(self) -> int | float | bool:
        """The value as Python's own type."""
        raise NotImplementedError


class _Int(Written, int):
    def plain(self) -> int:
        return int(self)


class _Float(Written, float):
    def plain(self) -> float:
        return float(self)


class _Bool(Written, int):
    """Python's bool has no subclasses; this one is equal to it."""

    def __repr__(self) -> str:
        return str(bool(self))

    def plain(self) -> bool:
        return bool(self)


# The scalars of YAML 1.2 that are no text. YAML 1.1 takes more: `off` for false, 010 for 8, 1:30
# for 90 and 2026-01-02 for a date.
_SCALARS: tuple[tuple[str, str, str], ...] = (
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    # Longer ones are texts, which a setting refuses in words; Python would not read them.
    ("int", r"[-+]?(0|[1-9]\d{0,17})", "-+0123456789"),
    ("float", r"[-+]?(\.\d{1,30}|\d{1,30}(\.\d{0,30})?)([eE][-+]?\d{1,4})?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("merge", r"<<", "<"),
)  # fmt: skip


def _resolvers() -> dict[Any, list[tuple[str, re.Pattern[str]]]]:
    """The scalars by their first character, as PyYAML keeps them; "" is the empty scalar."""
    found: dict[Any, list[tuple[str, re.Pattern[str]]]] = {}
    for name, form, first in _SCALARS:
        rule = f"tag:yaml.org,2002:{name}", re.compile(f"(?:{form})$", re.ASCII)
        for letter in [*first, *([""] if name == "null" else [])]:
            found.setdefault(letter, []).append(rule)
    return found


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = _resolvers()

    def __init__(self, text: str, *, unique: bool):
        super().__init__(text)
        self._unique = unique
        self._depth = 0
        self._count = 0
        self._sizes: dict[int, int] = {}  # of the nodes that are composed, by id

    def fetch_flow_collection_start(self, kind: Any) -> None:
        # Here already: the scanner takes a second for a thousand brackets, and that squared.
        if self.flow_level == MAX_DEPTH:
            raise self._too_deep(self.line)
        super().fetch_flow_collection_start(kind)

    def _too_deep(self, line: int) -> YamlError:
        return YamlError(f"line {line + 1}: more than {MAX_DEPTH} lists or mappings in each other")

    def compose_node(self, parent: Any, index: Any) -> Any:
        line = self.peek_event().start_mark.line + 1
        alias = self.check_event(yaml.AliasEvent)
        if self._depth == MAX_DEPTH:
            raise self._too_deep(line - 1)
        before = self._count
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if alias and id(node) not in self._sizes:
            raise YamlError(f"line {line}: an alias stands within what it repeats")
        self._count = before + self._sizes[id(node)] if alias else self._count + 1
        self._sizes[id(node)] = self._count - before
        if self._count > MAX_NODES:
            told = f"more than {MAX_NODES:,} values, those that aliases repeat included"
            raise YamlError(f"line {line}: {told}")
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            name = key.value
            if not isinstance(name, str) or key.tag.endswith(":null"):
                raise YamlError(f"line {line}: a key must be a word, such as the name of a setting")
            if key.tag.rpartition(":")[2] in ("bool", "int", "float"):
                key.tag = "tag:yaml.org,2002:str"
            if self._unique and name in lines:
                raise YamlError(
                    f"line {line}: {name!r} stands twice, first in line {lines[name]}; "
                    "only one of the two would count, so merge them"
                )
            lines[name] = line
        return node

    def construct_written(self, node: Any) -> Written:
        text = self.construct_scalar(node)
        kind = node.tag.rpartition(":")[2]
        value: _Int | _Float | _Bool
        if kind == "bool":
            value = _Bool(text.lower() == "true")
        elif kind == "int":
            value = _Int(text)
        else:
            value = _Float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
        value.text = text
        return value


for _tag in ("bool", "int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _Loader.construct_written)


class _Dumper(yaml.SafeDumper):
    """Writes what the loader read as it was written."""

    yaml_implicit_resolvers = _resolvers()

    def represent_written(self, value: Written) -> Any:
        kind = {_Bool: "bool", _Int: "int"}.get(type(value), "float")
        return self.represent_scalar(f"tag:yaml.org,2002:{kind}", value.text)

    def ignore_aliases(self, data: Any) -> bool:
        return True  # a list that stands twice is written twice


for _type in (_Int, _Float, _Bool):
    _Dumper.add_representer(_type, _Dumper.represent_written)


def load_yaml(text: str, *, unique: bool = True, whole: bool = False) -> Any:
    """The value of a YAML text; numbers and booleans are `Written`.

    YamlError with the line, also for a key that stands twice (not where `unique` is False), and
    with `whole` for a comment behind the value.
    """
    if len(text) > MAX_BYTES:
        raise YamlError(f"more than {MAX_BYTES // 1024:,} KiB of text")
    try:
        loader = _Loader(text, unique=unique)
        try:
            node = loader.get_single_node()
            if whole and node is not None and node.end_mark.index != len(text):
                raise NotYaml(f"line {node.end_mark.line + 1}: something follows the last bracket")
            return None if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        told = " ".join(part for part in (error.context, error.problem) if part)
        raise NotYaml(f"line {mark.line + 1}: {told}" if mark else told) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        sign = ascii(chr(error.character))
        raise NotYaml(f"line {line}: the character {sign} may not stand here") from None
    except yaml.YAMLError as error:
        raise NotYaml(" ".join(str(error).split())) from None
    except ValueError as error:  # an explicit tag on what it does not fit
        raise error if isinstance(error, YamlError) else NotYaml(str(error)) from None


def load_kept(text: str, *, unique: bool = True) -> Any:
    """`load_yaml`, kept by the text: a page that refreshes asks for the same presets each time. The
    lists and mappings are the caller's own."""
    if len(text) > MAX_KEPT:
        return load_yaml(text, unique=unique)
    return _copied(_kept(text, unique))


@lru_cache(maxsize=32)
def _kept(text: str, unique: bool) -> Any:
    return load_yaml(text, unique=unique)


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(part) for key, part in value.items()}
    return [_copied(part) for part in value] if isinstance(value, list) else value


def plain(value: Any) -> Any:
    """The value with Python's own numbers and booleans."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return value.plain() if isinstance(value, Written) else value


def dump_yaml(value: Any) -> str:
    """The YAML text of a value, with what `load_yaml` read as it was written."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def load_flow(text: str) -> Any:
    """The list, or the mapping, of a text in YAML's short notation without its outer brackets.

    YamlError if it is neither.
    """
    found = load_yaml(f"[{text}]", whole=True)
    # In braces each of them is an item of a list; without, they are the pairs of one mapping.
    in_braces = text.lstrip().startswith("{")
    if found and not in_braces and all(isinstance(one, dict) for one in found):
        return load_yaml(f"{{{text}}}", whole=True)
    return found


def dump_flow(value: list[Any] | dict[str, Any]) -> str:
    """The inverse of `load_flow`: one line."""
    line = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, sort_keys=False,
                     allow_unicode=True, width=10**9)  # fmt: skip
    return str(line).strip()[1:-1]
