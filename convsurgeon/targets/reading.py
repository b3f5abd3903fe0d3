"""Reads a profile from TOML and checks it strictly: every complaint names the file and the line."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from datetime import date, datetime
from typing import Any, NoReturn, TypeVar, get_args

from convsurgeon.targets.profile import Bound, Condition, Kind, Limit, Source, Target
from convsurgeon.targets.quantities import FAMILIES, QUANTITIES, WORDS

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_BOUNDS = ("min", "max", "one_of", "equal")
_WAYS = (["min"], ["max"], ["min", "max"], ["one_of"], ["equal"])

T = TypeVar("T")
Path = tuple[str | int, ...]
_HEADER = re.compile(r"\s*(\[\[?)\s*([^\[\]]+?)\s*\]\]?\s*(?:#.*)?$")
_KEY = re.compile(r"\s*\"?([\w-]+)\"?\s*=")


def read_target(text: str, file: str) -> Target:
    """The profile that `text` holds; `file` is what complaints call it.

    Raises:
        ValueError: it isn't TOML, or not a profile; names the file and the line.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file}: {error}; a profile is a TOML file") from error
    table = _Table(data, (), _Lines(text, file))
    table.only(
        *("name", "title", "static_shapes", "ranks", "channels_last", "source", "section", "notes"),
        *("sources", "limits", "preferences"),
    )
    sources = {name: _source(one) for name, one in table.tables("sources").items()}
    return Target(
        name=table.text("name"),
        title=table.text("title"),
        static_shapes=table.take("static_shapes", bool, "true or false"),
        ranks=table.numbers("ranks") if "ranks" in table else None,
        source=_cited(table, sources),
        limits=tuple(_limit(one, sources) for one in table.list_of_tables("limits")),
        preferences=tuple(_limit(one, sources) for one in table.list_of_tables("preferences")),
        channels_last=_written(table.table("channels_last"), sources) if "channels_last" in table else None,
        notes=table.text("notes", ""),
    )


def _source(table: _Table) -> Source:
    table.only("document", "section", "kind", "date", "address")
    return Source(
        document=table.text("document"),
        kind=table.choice("kind", get_args(Kind)),
        date=table.take("date", date, "a date, such as 2026-11-24"),
        section=table.text("section", ""),
        address=table.text("address", ""),
    )


def _cited(table: _Table, sources: Mapping[str, Source]) -> Source:
    """The source that a table names, with the section that it names."""
    source: Source = sources[table.choice("source", tuple(sources))]
    section = table.text("section", source.section)
    return Source(source.document, source.kind, source.date, section, source.address)


def _written(table: _Table, sources: Mapping[str, Source]) -> Source:
    table.only("source", "section")
    return _cited(table, sources)


def _limit(table: _Table, sources: Mapping[str, Source]) -> Limit:
    table.only("operators", "quantity", *_BOUNDS, "when", "source", "section", "effect", "confirmed")
    named = table.texts("operators")
    for name in named:
        if name not in (*FAMILIES, "any"):
            table.refuse("operators", f"names {name!r}", f"any, {', '.join(FAMILIES)}")
    quantity = table.choice("quantity", tuple(QUANTITIES))
    return Limit(
        families=FAMILIES if "any" in named else tuple(one for one in FAMILIES if one in named),
        quantity=quantity,
        bound=_bound(table, quantity, may_equal=True),
        source=_cited(table, sources),
        when=tuple(_condition(table, name, one) for name, one in table.tables("when", optional=True).items()),
        effect=table.text("effect", ""),
        confirmed=sources[table.choice("confirmed", tuple(sources))] if "confirmed" in table else None,
    )


def _condition(limit: _Table, quantity: str, table: _Table) -> Condition:
    if quantity not in QUANTITIES:
        limit.refuse("when", f"is about {quantity!r}", ", ".join(QUANTITIES))
    table.only(*_BOUNDS)
    return Condition(quantity, _bound(table, quantity, may_equal=False))


def _bound(table: _Table, quantity: str, *, may_equal: bool) -> Bound:
    words = quantity in WORDS
    given = [key for key in _BOUNDS if key in table]
    accepted = "one_of" if words else "min, max or both, one_of" + (", or equal = true" if may_equal else "")
    if given not in _WAYS or (words and given != ["one_of"]) or (not may_equal and "equal" in given):
        table.refuse("quantity", f"is {quantity!r}, bounded by {' and '.join(given) or 'nothing'}", accepted)
    if "equal" in given:
        if not table.take("equal", bool, "true"):
            table.refuse("equal", "says nothing", accepted)
        return Bound(equal=True)
    if "one_of" in given:
        return Bound(one_of=table.texts("one_of") if words else table.numbers("one_of"))
    least, most = (table.number(key) if key in given else None for key in ("min", "max"))
    if least is not None and most is not None and least > most:
        table.refuse("min", f"is {least}, above max, {most}", "a smaller one")
    return Bound(least, most)


class _Lines:
    """Where each table and key stands in a TOML text. tomllib doesn't tell; keys on a line of their own are found."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self._at: dict[Path, int] = {(): 1}
        seen: dict[Path, int] = {}
        prefix: Path = ()
        for number, line in enumerate(text.splitlines(), 1):
            if header := _HEADER.match(line):
                prefix = tuple(part.strip(' "') for part in header[2].split("."))
                if header[1] == "[[":
                    seen[prefix] = seen.get(prefix, -1) + 1
                    self._at.setdefault(prefix, number)
                    prefix = (*prefix, seen[prefix])
                self._at.setdefault(prefix, number)
            elif key := _KEY.match(line):
                self._at.setdefault((*prefix, key[1]), number)

    def where(self, path: Path) -> str:
        """The file and line of a key, or of the innermost table around it that is found."""
        while path not in self._at:
            path = path[:-1]
        return f"{self.file}:{self._at[path]}"


class _Table:
    """A table of a profile, which complains of what is wrong in it by its file and line."""

    def __init__(self, data: dict[str, Any], path: Path, lines: _Lines) -> None:
        self._data = data
        self._path = path
        self._lines = lines

    def __contains__(self, key: str) -> bool:
        return key in self._data

    def only(self, *accepted: str) -> None:
        """Complain of a key that is none of these.

        Raises:
            ValueError: there is one.
        """
        for key in self._data:
            if key not in accepted:
                where = self._lines.where((*self._path, key))
                raise ValueError(f"{where}: {self._name} has {key!r}; accepted: {', '.join(accepted)}")

    def refuse(self, key: str, seen: str, accepted: str) -> NoReturn:
        """Complain of what stands under a key.

        Raises:
            ValueError: always.
        """
        raise ValueError(f"{self._lines.where((*self._path, key))}: {key} {seen}; accepted: {accepted}")

    def take(self, key: str, kind: type[T], accepted: str, default: T | None = None) -> T:
        """The value of a key, of one type (a bool is no number, a time no date)."""
        if key not in self._data and default is not None:
            return default
        if key not in self._data:
            raise ValueError(
                f"{self._lines.where(self._path)}: {self._name} has no {key}; accepted: {accepted}\n"
                "  convsurgeon.targets tells what a profile holds"
            )
        value = self._data[key]
        if not isinstance(value, kind) or (type(value) is not kind and type(value) in (bool, datetime)):
            self.refuse(key, f"is {value!r}", accepted)
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """A text, not an empty one."""
        found = self.take(key, str, "a text", default)
        if not found and default is None:
            self.refuse(key, "is empty", "a text")
        return found

    def choice(self, key: str, accepted: tuple[Any, ...]) -> Any:
        """One of some texts."""
        listed = ", ".join(accepted) or "a name of a table [sources.NAME], of which there is none"
        found = self.take(key, str, listed)
        if found not in accepted:
            self.refuse(key, f"is {found!r}", listed)
        return found

    def number(self, key: str) -> Any:
        """A number."""
        if type(self._data[key]) not in (int, float):
            self.refuse(key, f"is {self._data[key]!r}", "a number")
        return self._data[key]

    def numbers(self, key: str) -> tuple[Any, ...]:
        """A list of numbers."""
        return self._listed(key, "a list of numbers", lambda one: type(one) in (int, float))

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts."""
        return self._listed(key, "a list of texts", lambda one: isinstance(one, str))

    def _listed(self, key: str, accepted: str, fits: Callable[[Any], bool]) -> tuple[Any, ...]:
        found: list[Any] = self.take(key, list, accepted)
        if not found or not all(map(fits, found)):
            self.refuse(key, f"is {found!r}", accepted)
        return tuple(found)

    def tables(self, key: str, *, optional: bool = False) -> dict[str, _Table]:
        """The tables in a table, by name."""
        found: dict[str, Any] = self.take(key, dict, "a table of tables", {} if optional else None)
        for name, one in found.items():
            if not isinstance(one, dict):
                _Table(found, (*self._path, key), self._lines).refuse(name, f"is {one!r}", "a table")
        return {name: _Table(one, (*self._path, key, name), self._lines) for name, one in found.items()}

    def table(self, key: str) -> _Table:
        """The table of a key."""
        found: dict[str, Any] = self.take(key, dict, "a table")
        return _Table(found, (*self._path, key), self._lines)

    def list_of_tables(self, key: str) -> list[_Table]:
        """The tables in a list; none where there is no such list."""
        found: list[Any] = self.take(key, list, f"tables [[{key}]]", [])
        if not all(isinstance(one, dict) for one in found):
            self.refuse(key, f"is {found!r}", f"tables [[{key}]]")
        return [_Table(one, (*self._path, key, at), self._lines) for at, one in enumerate(found)]

    @property
    def _name(self) -> str:
        named = ".".join(part for part in self._path if isinstance(part, str))
        return f"[{named}]" if named else "the profile"
