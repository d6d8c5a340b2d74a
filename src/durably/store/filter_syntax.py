"""List Filter text -> a tree of conditions. Says nothing of what the names in it mean.

Rule 1: a refusal says at which character of the caller's text the trouble begins, counted from 1.
Rule 2: no text makes it run deep or long: nesting is bounded, chains of AND and OR are flat.

The language: https://docs.temporal.io/list-filter. Strings are in single or double quotes, names may
be in backticks. Words of the language may be written in any case.
"""

import re
from dataclasses import dataclass, field

from durably.errors import InvalidArgument

NESTING_MAX = 100
OPERATORS = ("=", "!=", "<", "<=", ">", ">=")
_SPELLINGS = {"<>": "!=", "&&": "AND", "||": "OR"}
WORD_OPERATORS = ("STARTS_WITH", "LIKE", "REGEXP", "RLIKE")
_RESERVED = frozenset(
    (
        *("AND", "OR", "NOT", "BETWEEN", "IN", "IS", "NULL", "TRUE", "FALSE"),
        *("GROUP", "ORDER", "BY", "LIMIT"),
        *WORD_OPERATORS,
    )
)

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<string>'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.|"")*")
      | `(?P<quoted>[^`]+)`
      | (?P<number>[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?(?!\w))
      | (?P<word>[^\W\d][\w.]*)
      | (?P<sign><=|>=|!=|<>|&&|\|\||[=<>(),])
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0"}


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    """string, quoted, number, word, sign, or end."""
    text: str
    at: int
    """The number of its first character."""

    @property
    def said(self) -> str:
        """As a word of the language."""
        return self.text.upper() if self.kind == "word" else ""


@dataclass(frozen=True, slots=True)
class Name:
    text: str
    at: int


@dataclass(frozen=True, slots=True)
class Value:
    """What is compared with; `shown` is how it was written."""

    content: str | int | float | bool
    shown: str
    at: int


@dataclass(frozen=True, slots=True)
class Comparison:
    name: Name
    operator: str
    """One of OPERATORS or WORD_OPERATORS."""
    value: Value
    at: int


@dataclass(frozen=True, slots=True)
class Between:
    name: Name
    low: Value
    high: Value


@dataclass(frozen=True, slots=True)
class In:
    name: Name
    values: tuple[Value, ...]
    at: int


@dataclass(frozen=True, slots=True)
class IsNull:
    name: Name


@dataclass(frozen=True, slots=True)
class Not:
    part: "Condition"


@dataclass(frozen=True, slots=True)
class All:
    """All of its parts hold."""

    parts: tuple["Condition", ...]


@dataclass(frozen=True, slots=True)
class Any:
    """At least one of its parts holds."""

    parts: tuple["Condition", ...]


Condition = Comparison | Between | In | IsNull | Not | All | Any


@dataclass(frozen=True, slots=True)
class Filter:
    condition: Condition | None = None
    group_by: tuple[Name, ...] = field(default=())


def refusal(message: str, at: int) -> InvalidArgument:
    return InvalidArgument(f"invalid query: {message} (at position {at})")


def unsupported(what: str, at: int) -> InvalidArgument:
    return refusal(f"operation is not supported: {what}", at)


def parse(text: str) -> Filter:
    """Raises InvalidArgument, saying what is wrong and where."""
    return _Parser(text).filter()


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._next = 0
        self._depth = 0

    # --- Tokens -------------------------------------------------------------------------------

    def _peek(self) -> Token:
        return self._tokens[self._next]

    def _take(self) -> Token:
        token = self._tokens[self._next]
        if token.kind != "end":
            self._next += 1
        return token

    def _took(self, *words: str) -> bool:
        """Take the next token if it is one of these words or signs."""
        token = self._peek()
        if token.said in words or (token.kind == "sign" and token.text in words):
            self._take()
            return True
        return False

    def _expect(self, word: str) -> None:
        if not self._took(word):
            raise _malformed(self._peek())

    # --- Clauses ------------------------------------------------------------------------------

    def filter(self) -> Filter:
        condition = None
        if self._peek().kind != "end" and self._peek().said not in ("GROUP", "ORDER"):
            condition = self._any()
        names: list[Name] = []
        if self._took("GROUP"):
            self._expect("BY")
            names.append(self._name())
            while self._took(","):
                names.append(self._name())
        token = self._peek()
        if token.said == "ORDER":
            raise unsupported("'ORDER BY' clause", token.at)
        if token.said == "LIMIT":
            raise unsupported("'LIMIT' clause", token.at)
        if token.kind != "end":
            raise _malformed(token)
        return Filter(condition, tuple(names))

    def _any(self) -> Condition:
        parts = [self._all()]
        while self._took("OR"):
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else Any(tuple(parts))

    def _all(self) -> Condition:
        parts = [self._not()]
        while self._took("AND"):
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else All(tuple(parts))

    def _not(self) -> Condition:
        self._depth += 1
        token = self._peek()
        if self._depth > NESTING_MAX:
            raise refusal(f"conditions are nested more than {NESTING_MAX} deep", token.at)
        try:
            if self._took("NOT"):
                return Not(self._not())
            if self._took("("):
                inside = self._any()
                self._expect(")")
                return inside
            return self._predicate()
        finally:
            self._depth -= 1

    # --- Predicates ---------------------------------------------------------------------------

    def _predicate(self) -> Condition:
        name = self._name()
        token = self._take()
        if token.said == "IS":
            negated = self._took("NOT")
            self._expect("NULL")
            return Not(IsNull(name)) if negated else IsNull(name)
        negated = token.said == "NOT"
        if negated:
            token = self._take()
        found = self._compared(name, token, only_words=negated)
        return Not(found) if negated else found

    def _compared(self, name: Name, token: Token, *, only_words: bool) -> Condition:
        match token.said:
            case "BETWEEN":
                low = self._value()
                self._expect("AND")
                return Between(name, low, self._value())
            case "IN":
                self._expect("(")
                values = [self._value()]
                while self._took(","):
                    values.append(self._value())
                self._expect(")")
                return In(name, tuple(values), token.at)
            case word if word in WORD_OPERATORS:
                return Comparison(name, word, self._value(), token.at)
        if token.kind == "sign" and token.text in OPERATORS and not only_words:
            return Comparison(name, token.text, self._value(), token.at)
        if token.kind == "end" or token.said in ("AND", "OR"):
            raise refusal("invalid expression: incomplete expression", name.at)
        raise _malformed(token)

    def _name(self) -> Name:
        token = self._take()
        if token.kind == "quoted" or (token.kind == "word" and token.said not in _RESERVED):
            return Name(token.text, token.at)
        if token.kind in ("string", "number") or token.said in ("TRUE", "FALSE", "NULL"):
            shown = token.text
            raise refusal(
                "invalid expression: the left side must be the name of a search attribute"
                f" but was {shown}",
                token.at,
            )
        raise _malformed(token)

    def _value(self) -> Value:
        token = self._take()
        if token.kind == "string":
            content = _unquoted(token.text)
            return Value(content, f'"{content}"', token.at)
        if token.kind == "number":
            whole = re.fullmatch(r"[+-]?\d+", token.text) is not None
            number = int(token.text) if whole and len(token.text) < 40 else float(token.text)
            return Value(number, token.text, token.at)
        if token.said in ("TRUE", "FALSE"):
            return Value(token.said == "TRUE", token.text.lower(), token.at)
        if token.said == "NULL":
            raise refusal("invalid expression: unexpected value null; use IS NULL", token.at)
        if token.kind == "quoted" or (token.kind == "word" and token.said not in _RESERVED):
            raise unsupported(
                "column name on the right side of comparison expression"
                f' (did you forget to quote "{token.text}"?)',
                token.at,
            )
        raise _malformed(token)


def _tokens(text: str) -> list[Token]:
    tokens: list[Token] = []
    position = 0
    rest = text.rstrip()
    while position < len(rest):
        match = _TOKEN.match(rest, position)
        if match is None or match.lastgroup is None:
            while rest[position].isspace():
                position += 1
            raise _malformed(Token("", rest[position : position + 20], position + 1))
        kind = match.lastgroup
        written = match[kind]
        at = match.start(kind) + (0 if kind == "quoted" else 1)
        spelling = _SPELLINGS.get(written, written) if kind == "sign" else written
        kind = "word" if spelling in ("AND", "OR") else kind
        tokens.append(Token(kind, spelling, at))
        position = match.end()
    tokens.append(Token("end", "", len(rest) + 1))
    return tokens


def _malformed(token: Token) -> InvalidArgument:
    near = f" near '{token.text}'" if token.text else ""
    return InvalidArgument(
        f"invalid query: malformed SQL query: syntax error at position {token.at}{near}"
    )


def quoted(value: str) -> str:
    """A string as a filter has it."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _unquoted(text: str) -> str:
    quote = text[0]
    return re.sub(
        rf"\\(.)|{quote}{quote}",
        lambda found: _ESCAPES.get(found[1], found[1]) if found[1] else quote,
        text[1:-1],
        flags=re.DOTALL,
    )
