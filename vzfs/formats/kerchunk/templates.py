"""The part of Jinja that kerchunk's templates use: text with expressions between `{{` and `}}`.

An expression is made of names, integers, strings, calls of parameterised templates
(`f(c='text')`), `+ - * // % ~`, parentheses, and the ways to write a number with leading zeros
(`'%02d' % i`, `'{:02d}'.format(i)`, `'%02d'|format(i)`). Whatever else Jinja has is refused by its
name, and so is a name that nobody defined, which Jinja would leave out in silence. Nothing is ever
evaluated as a program.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

MAX_TEMPLATE: Final = 8192
"""Characters of a template, and of what it is rendered to: as many as a location may have."""
MAX_DEPTH: Final = 32
"""Parentheses and calls within each other."""
MAX_RENDERED: Final = 2**29
"""Characters of all templates that are rendered for one file, each time, and of what they become."""
_MAX_INTEGER: Final = 2**63

_PARTS = re.compile(r"\{(?:\{[-+]?|[%#])")
_TOKEN = re.compile(
    r"""\s*(?:(?P<name>[A-Za-z_]\w*)|(?P<integer>[0-9]+)(?![\w.])|(?P<string>'[^'\\]*'|"[^"\\]*")
    |(?P<sign>//|\*\*|[-+*%~()|,=./]))""",
    re.VERBOSE,
)
_PERCENT = re.compile(r"%(?:(%)|(0?)([0-9]{0,2})([ds]))")
_BRACES = re.compile(r"(\{\{)|(\}\})|\{([0-9]?)(?::(0?)([0-9]{0,2})(d?))?\}")

type Value = int | str | "Template"
type Values = Mapping[str, Value]
type _Expression = Callable[[Values], Value]


class TemplateProblem(Exception):
    """Why a template cannot be rendered, for people."""


class Template:
    """A template, parsed. *names* are those that it needs, *calls* those that it calls, each time."""

    def __init__(self, text: str) -> None:
        if len(text) > MAX_TEMPLATE:
            raise TemplateProblem(f"a template has more than {MAX_TEMPLATE} characters")
        self._parts: list[str | _Expression] = []
        self._length = len(text)
        self.names: set[str] = set()
        self.calls: list[str] = []
        at = 0
        # Jinja drops one newline at the end.
        text = text.removesuffix("\n")
        while (found := _PARTS.search(text, at)) is not None:
            self._parts.append(text[at : found.start()])
            if found[0] != "{{":
                raise TemplateProblem(f"'{found[0]}' is not supported in templates")
            parser = _Parser(text, found.end(), self.names, self.calls)
            self._parts.append(parser.whole())
            at = parser.at
        self._parts.append(text[at:])

    @property
    def is_parameterised(self) -> bool:
        """Whether it has expressions, so that it can only be called."""
        return len(self._parts) > 1

    def cost(self, values: Values) -> int:
        """Return how many characters of templates one rendering looks at. What is called calls nothing."""
        called = (values.get(name) for name in self.calls)
        return self._length + sum(t._length for t in called if isinstance(t, Template))

    def render(self, values: Values) -> str:
        """Return the text with every expression replaced by its value. Raises TemplateProblem."""
        try:
            rendered = "".join(p if isinstance(p, str) else _text(p(values)) for p in self._parts)
        except RecursionError:
            raise TemplateProblem("an expression has too many parts") from None
        return _bounded(rendered)


class Rendering:
    """Renders the templates of one file, and bounds what that takes: few of them may stand for much."""

    def __init__(self) -> None:
        self._left = MAX_RENDERED

    def render(self, template: Template, values: Values) -> str:
        """Return what *template* becomes. Raises TemplateProblem."""
        self._take(template.cost(values))
        text = template.render(values)
        self._take(len(text))
        return text

    def _take(self, count: int) -> None:
        self._left -= count
        if self._left < 0:
            raise TemplateProblem(f"templates are rendered to more than {MAX_RENDERED} characters")


def _bounded(text: str) -> str:
    if len(text) > MAX_TEMPLATE:
        raise TemplateProblem(f"a template is rendered to more than {MAX_TEMPLATE} characters")
    return text


def _text(value: Value) -> str:
    if isinstance(value, Template):
        raise TemplateProblem("a parameterised template is used without its arguments")
    return str(value)


def _plain(value: Value) -> Value:
    return value if isinstance(value, int) else _text(value)


class _Token(NamedTuple):
    kind: str
    text: str


class _Parser:
    """Reads the expression of *text* that begins at *at*, and adds the names in it to *names*, and to *calls*."""

    def __init__(self, text: str, at: int, names: set[str], calls: list[str]) -> None:
        self.at = at
        self._text = text
        self._names = names
        self._calls = calls
        self._depth = 0
        self._next = self._token()

    def whole(self) -> _Expression:
        expression = self._sum()
        if self._next.kind != "end":
            raise TemplateProblem(f"{self._next.text!r} is not supported in templates")
        return expression

    # -- tokens --------------------------------------------------------------------------------

    def _token(self) -> _Token:
        found = _TOKEN.match(self._text, self.at)
        if found is not None:
            self.at = found.end()
            return _Token(str(found.lastgroup), str(found[str(found.lastgroup)]))
        rest = self._text[self.at :].lstrip()
        if rest.startswith("}}"):
            self.at = len(self._text) - len(rest) + 2
            return _Token("end", "}}")
        if not rest:
            raise TemplateProblem("an expression has no end: '}}' is missing")
        raise TemplateProblem(f"{rest[:10]!r} is not supported in templates")

    def _take(self) -> _Token:
        token = self._next
        if token.kind == "end":
            raise TemplateProblem("an expression ends early")
        self._next = self._token()
        return token

    def _is(self, *signs: str) -> bool:
        return self._next.kind == "sign" and self._next.text in signs

    def _expect(self, sign: str) -> None:
        if not self._is(sign):
            raise TemplateProblem(f"{self._next.text!r} stands where {sign!r} belongs")
        self._take()

    # -- from what binds least to what binds most ------------------------------------------------

    def _sum(self) -> _Expression:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise TemplateProblem("an expression is nested too deeply")
        left = self._joined()
        while self._is("+", "-"):
            left = _operation(self._take().text, left, self._joined())
        self._depth -= 1
        return left

    def _joined(self) -> _Expression:
        left = self._product()
        while self._is("~"):
            self._take()
            left = _operation("~", left, self._product())
        return left

    def _product(self) -> _Expression:
        left = self._signed()
        while self._is("*", "//", "%", "/", "**"):
            sign = self._take().text
            if sign in {"/", "**"}:
                raise TemplateProblem(f"the operator {sign!r} is not supported in templates")
            left = _operation(sign, left, self._signed())
        return left

    def _signed(self) -> _Expression:
        negations = 0
        while self._is("-", "+"):
            negations += self._take().text == "-"
        value = self._formatted(self._value())
        if not negations:
            return value
        sign = -1 if negations % 2 else 1
        return lambda values: sign * _integer(value(values))

    def _value(self) -> _Expression:
        token = self._take()
        match token.kind:
            case "integer":
                if len(token.text) > 18:
                    raise TemplateProblem("an integer has more than 18 digits")
                number = int(token.text)
                return lambda _: number
            case "string":
                text = token.text[1:-1]
                return lambda _: text
            case "name":
                self._names.add(token.text)
                if self._is("("):
                    self._calls.append(token.text)
                    return _call(token.text, self._keywords())
                return _named(token.text)
        if token.text == "(":
            inner = self._sum()
            self._expect(")")
            return inner
        raise TemplateProblem(f"{token.text!r} is not supported in templates")

    def _formatted(self, value: _Expression) -> _Expression:
        while self._is("|", "."):
            sign = self._take().text
            name = self._take().text
            if name != "format":
                what = "filter" if sign == "|" else "attribute"
                raise TemplateProblem(f"the {what} {name!r} is not supported in templates")
            way = _percent if sign == "|" else _braces
            value = _format(way, value, self._arguments())
        return value

    def _arguments(self) -> Sequence[_Expression]:
        self._expect("(")
        found: list[_Expression] = []
        while not self._is(")"):
            if found:
                self._expect(",")
            found.append(self._sum())
        self._take()
        return found

    def _keywords(self) -> Mapping[str, _Expression]:
        self._expect("(")
        found: dict[str, _Expression] = {}
        while not self._is(")"):
            if found:
                self._expect(",")
            name = self._take()
            if name.kind != "name":
                raise TemplateProblem("a template takes arguments by name alone: f(c='text')")
            self._expect("=")
            found[name.text] = self._sum()
        self._take()
        return found


# -- what expressions do -------------------------------------------------------------------------


def _named(name: str) -> _Expression:
    def value(values: Values) -> Value:
        try:
            return values[name]
        except KeyError:
            raise TemplateProblem(f"{name!r} is not defined") from None

    return value


def _call(name: str, arguments: Mapping[str, _Expression]) -> _Expression:
    template = _named(name)

    def value(values: Values) -> Value:
        called = template(values)
        if not isinstance(called, Template):
            raise TemplateProblem(f"{name!r} is called, and takes no arguments")
        # Templates that are given to others could call each other without end.
        return called.render({key: _plain(given(values)) for key, given in arguments.items()})

    return value


def _operation(sign: str, left: _Expression, right: _Expression) -> _Expression:
    def value(values: Values) -> Value:
        a, b = left(values), right(values)
        if sign == "~":
            return _bounded(_text(a) + _text(b))
        if isinstance(a, str) and isinstance(b, str) and sign == "+":
            return _bounded(a + b)
        if isinstance(a, str) and sign == "%":
            return _percent(a, [b])
        return _calculated(sign, _integer(a), _integer(b))

    return value


def _calculated(sign: str, a: int, b: int) -> int:
    if not b and sign in {"//", "%"}:
        raise TemplateProblem("an expression divides by zero")
    match sign:
        case "+":
            result = a + b
        case "-":
            result = a - b
        case "*":
            result = a * b
        case "//":
            result = a // b
        case _:
            result = a % b
    if abs(result) >= _MAX_INTEGER:
        raise TemplateProblem("an expression has a result of more than 64 bits")
    return result


def _integer(value: Value) -> int:
    if not isinstance(value, int):
        raise TemplateProblem("an expression calculates with what is no integer")
    return value


def _format(
    way: Callable[[str, Sequence[Value]], str],
    text: _Expression,
    arguments: Sequence[_Expression],
) -> _Expression:
    def value(values: Values) -> Value:
        pattern = text(values)
        if not isinstance(pattern, str):
            raise TemplateProblem("'format' is used of what is no string")
        return way(pattern, [argument(values) for argument in arguments])

    return value


def _percent(pattern: str, arguments: Sequence[Value]) -> str:
    """Format as `pattern % arguments` does, with `%d`, `%s` and a width."""
    left = list(arguments)
    parts = []
    at = 0
    while (start := pattern.find("%", at)) >= 0:
        found = _PERCENT.match(pattern, start)
        if found is None:
            raise TemplateProblem(f"the format {pattern[start : start + 10]!r} is not supported")
        parts.append(pattern[at:start])
        at = found.end()
        if found[1]:
            parts.append("%")
            continue
        if not left:
            raise TemplateProblem(f"the format {pattern[:40]!r} has too few arguments")
        parts.append(_padded(left.pop(0), found[2], found[3], is_number=found[4] == "d"))
    if left:
        raise TemplateProblem(f"the format {pattern[:40]!r} has too many arguments")
    return _bounded("".join(parts) + pattern[at:])


def _braces(pattern: str, arguments: Sequence[Value]) -> str:
    """Format as `pattern.format(*arguments)` does, with `{}`, `{0}` and `{:02d}`."""
    parts = []
    at = following = 0
    for found in _BRACES.finditer(pattern):
        between = pattern[at : found.start()]
        _check_braces(between)
        parts.append(between)
        at = found.end()
        if found[1] or found[2]:
            parts.append("{" if found[1] else "}")
            continue
        number = int(found[3]) if found[3] else following
        following += not found[3]
        if number >= len(arguments):
            raise TemplateProblem(f"the format {pattern[:40]!r} has too few arguments")
        value = arguments[number]
        is_number = bool(found[6]) or isinstance(value, int)
        parts.append(_padded(value, found[4] or "", found[5] or "", is_number=is_number))
    _check_braces(pattern[at:])
    return _bounded("".join(parts) + pattern[at:])


def _check_braces(between: str) -> None:
    if "{" in between or "}" in between:
        raise TemplateProblem(f"the format {between[:40]!r} is not supported")


def _padded(value: Value, zero: str, width: str, *, is_number: bool) -> str:
    if is_number:
        return f"{_integer(value):{zero}{width}d}"
    if width:
        raise TemplateProblem("a width is supported for integers alone")
    return _text(value)
