"""References that a file generates: one for each combination of numbers, instead of saying them all.

An entry of `gen` has templates for key, location, offset and length, and the dimensions that they
depend on. What it uses beyond `templates` makes the whole file unreadable, since nobody can know
which keys it would have made.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, TypeGuard

from vzfs.errors import ErrorKind, FormatError
from vzfs.formats.kerchunk.scanning import corrupt
from vzfs.formats.kerchunk.templates import Rendering, Template, TemplateProblem, Value, Values

MAX_GENERATED: Final = 1_000_000
"""References of a file that are generated."""
MAX_DIMENSIONS: Final = 32

_MANY: Final = 2**62
"""More than any number that counts."""
_FIELDS: Final = ("key", "url", "offset", "length")

type _Combination = tuple[int | str, ...]


class Generated(NamedTuple):
    """A reference: *offset* and *length* are in bytes, None for a whole object."""

    key: str
    url: str
    offset: int | None
    length: int | None


def parse_templates(value: object) -> Mapping[str, Value]:
    """Return what `templates` defines: texts, and parameterised templates. Raises FormatError."""
    if not isinstance(value, dict):
        raise corrupt("the templates of the file of references are no JSON object")
    found: dict[str, Value] = {}
    for name, text in value.items():
        if not isinstance(text, str):
            raise corrupt(f"the template {name[:40]!r} is no text")
        try:
            template = Template(text)
        except TemplateProblem as problem:
            raise _unsupported(f"the template {name[:40]!r}", problem) from None
        # A text without expressions is that text, whatever Jinja would make of its end.
        found[name] = template if template.is_parameterised else text
    return found


def generate(
    entries: object, templates: Values, rendering: Rendering, limit: int = MAX_GENERATED
) -> Iterator[Generated]:
    """Yield the references that `gen` makes, at most *limit* of them all. Raises FormatError."""
    if not isinstance(entries, list):
        raise corrupt("what the file of references generates is no JSON list")
    for entry in entries:
        if not isinstance(entry, dict):
            raise corrupt("an entry of 'gen' is no JSON object")
        dimensions = _dimensions(entry.get("dimensions"))
        count = math.prod(map(len, dimensions.values()))
        limit -= count
        if limit < 0:
            raise FormatError(
                ErrorKind.UNSUPPORTED_FORMAT,
                "the file generates more references than are taken from one",
                advice="write it as Parquet: kerchunk.df.refs_to_dataframe",
            )
        try:
            # Of no combination nothing comes, however long the other dimensions are.
            yield from _entry(entry, dimensions, templates, rendering) if count else ()
        except TemplateProblem as problem:
            key = str(entry.get("key"))[:80]
            raise _unsupported(f"the entry of 'gen' with the key {key!r}", problem) from None


def _unsupported(what: str, problem: TemplateProblem) -> FormatError:
    return FormatError(
        ErrorKind.UNSUPPORTED_FORMAT,
        f"{what} cannot be expanded: {problem}",
        advice="expand it with fsspec (simple_templates=False), or write plain references",
    )


def _dimensions(value: object) -> Mapping[str, Sequence[int | str]]:
    if not isinstance(value, dict) or not value or len(value) > MAX_DIMENSIONS:
        raise corrupt("an entry of 'gen' has no dimensions, or too many")
    return {name: _dimension(name, given) for name, given in value.items()}


def _dimension(name: str, given: object) -> Sequence[int | str]:
    if isinstance(given, list) and all(map(_is_value, given)):
        return given
    if isinstance(given, dict) and "stop" in given:
        start, stop, step = given.get("start", 0), given["stop"], given.get("step", 1)
        if _is_integer(start) and _is_integer(stop) and _is_integer(step) and step:
            numbers = range(start, stop, step)
            if _length(numbers) < _MANY:
                return numbers
    raise corrupt(f"the dimension {name[:40]!r} of 'gen' is neither a range nor a list of integers")


def _length(numbers: range) -> int:
    """Return how many there are, which `len` cannot say of very many."""
    return max(-(-(numbers.stop - numbers.start) // numbers.step), 0)


def _is_integer(item: object) -> TypeGuard[int]:
    return type(item) is int and abs(item) < _MANY


def _is_value(item: object) -> bool:
    return type(item) is str or _is_integer(item)


def _entry(
    entry: Mapping[str, object],
    dimensions: Mapping[str, Sequence[int | str]],
    templates: Values,
    rendering: Rendering,
) -> Iterator[Generated]:
    shadowed = sorted(dimensions.keys() & templates.keys())
    if shadowed:
        raise TemplateProblem(f"{shadowed[0][:40]!r} is a dimension and a template")
    if ("offset" in entry) != ("length" in entry):
        raise TemplateProblem("it has one of 'offset' and 'length', which belong together")
    names = list(dimensions)
    made = [
        _made(entry[field], names, templates, rendering) if field in entry else None
        for field in _FIELDS
    ]
    key, url, offset, length = made
    if key is None or url is None:
        raise TemplateProblem("it lacks 'key' or 'url'")
    for combination in itertools.product(*dimensions.values()):
        yield Generated(
            key(combination),
            url(combination),
            _number(offset(combination)) if offset else None,
            _number(length(combination)) if length else None,
        )


def _made(
    text: object, names: list[str], templates: Values, rendering: Rendering
) -> Callable[[_Combination], str]:
    """Return what renders *text* for a combination: anew where it depends on all that changes."""
    if type(text) is int:
        text = str(text)
    if not isinstance(text, str):
        raise TemplateProblem("what it generates from is no text")
    template = Template(text)
    needed = [i for i, name in enumerate(names) if name in template.names]
    values = dict(templates)

    def render(combination: _Combination) -> str:
        values.update(zip(names, combination, strict=True))
        return rendering.render(template, values)

    if len(needed) == len(names):
        return render
    known: dict[_Combination, str] = {}

    def render_once(combination: _Combination) -> str:
        part = tuple(combination[i] for i in needed)
        found = known.get(part)
        if found is None:
            found = known[part] = render(combination)
        return found

    return render_once


def _number(text: str) -> int:
    text = text.strip()
    if not text.isascii() or not text.isdecimal() or len(text) > 18:
        raise TemplateProblem(f"an offset or length is {text[:40]!r}, which is no number of bytes")
    return int(text)
