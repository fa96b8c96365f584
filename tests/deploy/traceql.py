"""The grammar of TraceQL, as far as docs/queries.md uses it: Tempo's parser is in no package that can be had here.

query   := spanset (("&&" | "||" | ">>" | ">" | "<<" | "<" | "~") spanset)* ("|" stage)*
spanset := "{" [ condition (("&&" | "||") condition)* ] "}"
stage   := "select" "(" fields ")" | metric "(" … ")" ["by" "(" fields ")"] | ("topk" | "bottomk") "(" number ")"
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

_TOKEN: Final = re.compile(
    r'\s*(?:(?P<string>"(?:[^"\\]|\\.)*")|(?P<number>\d+(?:\.\d+)?(?:ns|us|ms|s|m|h)?)'
    r"|(?P<name>[A-Za-z_][\w.:]*)|(?P<operator>>>|<<|&&|\|\||!=|=~|!~|>=|<=|[{}()|,=<>~]))"
)
_COMPARISONS: Final = frozenset({"=", "!=", "=~", "!~", ">", ">=", "<", "<="})
_STRUCTURE: Final = frozenset({"&&", "||", ">>", ">", "<<", "<", "~"})
#: fields that Tempo has itself -> whether they are compared with words: `kind = server`
INTRINSICS: Final = {"name": False, "duration": False, "kind": True, "status": True, "event:name": False}
_WORDS: Final = {
    "kind": frozenset({"server", "client", "internal", "producer", "consumer", "unspecified"}),
    "status": frozenset({"error", "ok", "unset"}),
}
#: metrics over time -> whether a field, and a number, stand in the parentheses
_METRICS: Final = {
    "rate": (False, False),
    "count_over_time": (False, False),
    "avg_over_time": (True, False),
    "sum_over_time": (True, False),
    "min_over_time": (True, False),
    "max_over_time": (True, False),
    "quantile_over_time": (True, True),
}


@dataclass
class _Parser:
    tokens: list[tuple[str, str]]
    #: `span.http.route`, `event.code.file.path`, … that the query names
    attributes: set[str] = field(default_factory=set)

    def query(self) -> None:
        self.spanset()
        while self.peek() in _STRUCTURE:
            self.take()
            self.spanset()
        while self.peek() == "|":
            self.take()
            self.stage()
        if self.tokens:
            raise ValueError(f"unexpected {self.peek()}")

    def spanset(self) -> None:
        self.expect("{")
        if self.peek() != "}":
            self.condition()
            while self.peek() in {"&&", "||"}:
                self.take()
                self.condition()
        self.expect("}")

    def condition(self) -> None:
        name = self.field()
        comparison = self.take()[1]
        if comparison not in _COMPARISONS:
            raise ValueError(f"{comparison} does not compare")
        kind, value = self.take()
        if INTRINSICS.get(name):
            if value not in _WORDS[name]:
                raise ValueError(f"{name} is never {value}")
        elif kind not in {"string", "number"} and value not in {"nil", "true", "false"}:
            raise ValueError(f"{value} is no value")

    def stage(self) -> None:
        name = self.take()[1]
        if name == "select":
            self.fields()
        elif name in {"topk", "bottomk"}:
            self.within(self.number)
        elif name in _METRICS:
            self.metric(*_METRICS[name])
        else:
            raise ValueError(f"no stage {name}")

    def metric(self, has_field: bool, has_number: bool) -> None:
        self.expect("(")
        if has_field:
            self.field()
        if has_number:
            self.expect(",")
            self.number()
        self.expect(")")
        if self.peek() == "by":
            self.take()
            self.fields()

    def fields(self) -> None:
        self.within(self.listed)

    def listed(self) -> None:
        self.field()
        while self.peek() == ",":
            self.take()
            self.field()

    def field(self) -> str:
        kind, name = self.take()
        if kind != "name":
            raise ValueError(f"{name} is no field")
        scope, _, key = name.partition(".")
        if key and scope in {"span", "resource", "event"}:
            self.attributes.add(name)
        elif name not in INTRINSICS:
            raise ValueError(f"no field {name}")
        return name

    def number(self) -> None:
        kind, text = self.take()
        if kind != "number":
            raise ValueError(f"{text} is no number")

    def within(self, inner: Callable[[], None]) -> None:
        self.expect("(")
        inner()
        self.expect(")")

    def peek(self) -> str:
        return self.tokens[0][1] if self.tokens else ""

    def take(self) -> tuple[str, str]:
        if not self.tokens:
            raise ValueError("it ends too early")
        return self.tokens.pop(0)

    def expect(self, text: str) -> None:
        found = self.take()[1]
        if found != text:
            raise ValueError(f"{found} where {text} is expected")


def attributes_of_query(text: str) -> set[str]:
    """The attributes that a query names; ValueError says what is wrong with its syntax."""
    parser = _Parser(_tokens(text))
    parser.query()
    return parser.attributes


def _tokens(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    position, end = 0, len(text.rstrip())
    while position < end:
        token = _TOKEN.match(text, position)
        if token is None or token.lastgroup is None:
            raise ValueError(f"not TraceQL: {text[position:]}")
        found.append((token.lastgroup, token[token.lastgroup]))
        position = token.end()
    return found
