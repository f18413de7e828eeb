"""The conditions of `vedette_benches::typical`, taken apart once and written in each peer's notation.

A condition is a conjunction of terms. SQL's NULL fails every comparison, its negation too. ClickHouse and DuckDB do the same
over nullable columns; Sigma takes a negation of what is missing for true, so that a rule there also asks whether the field
exists.
"""

import json
import re
from dataclasses import dataclass

TOKEN = re.compile(r"\s*(?:'(?P<text>[^']*)'|(?P<number>\d+)|(?P<name>\w+)|(?P<sign><>|>=|<=|[=<>~(),]))")


@dataclass(frozen=True)
class Place:
    """A column, or what a path leads to inside a body."""

    column: str
    path: tuple = ()


@dataclass(frozen=True)
class Term:
    place: Place
    # equals, like, matches, has, true, exists, below, least, most
    test: str
    values: tuple = ()
    negated: bool = False


class Reader:
    """Reads one condition. What it doesn't know is an error, so that a new kind of rule can't be passed over."""

    def __init__(self, condition):
        self.condition = condition
        self.tokens = []
        at = 0
        while at < len(condition.rstrip()):
            token = TOKEN.match(condition, at)
            if not token:
                raise ValueError(f"{condition}: what is at {at}?")
            self.tokens.append((token.lastgroup, token[token.lastgroup]))
            at = token.end()

    def next(self, *kinds):
        kind, value = self.tokens.pop(0)
        if kinds and kind not in kinds:
            raise ValueError(f"{self.condition}: {value!r} where {' or '.join(kinds)} should stand")
        return int(value) if kind == "number" else value

    def take(self, *words):
        """The next words, if they are these."""
        if tuple(value for _, value in self.tokens[: len(words)]) != words:
            return False
        del self.tokens[: len(words)]
        return True

    def must(self, *words):
        if not self.take(*words):
            raise ValueError(f"{self.condition}: {' '.join(words)} should stand before {self.tokens}")

    def list(self):
        values = []
        while True:
            values.append(self.next("text", "number"))
            if self.take(")"):
                return tuple(values)
            self.must(",")

    def terms(self):
        terms = []
        while True:
            terms += self.term()
            if not self.tokens:
                return terms
            self.must("AND")

    def term(self):
        name = self.next("name")
        place = Place(name)
        if self.take("("):
            place = Place(self.next("name"))
            self.must(",")
            arguments = self.list()
            match name:
                case "array_has":
                    return [Term(place, "has", arguments)]
                case "regexp_like":
                    return [Term(place, "matches", arguments)]
                case "json_get_bool":
                    return [Term(Place(place.column, arguments), "true")]
                case "json_get_str":
                    place = Place(place.column, arguments)
                case _:
                    raise ValueError(f"{self.condition}: {name} is not known")
        if self.take("BETWEEN"):
            least = self.next("number")
            self.must("AND")
            return [Term(place, "least", (least,)), Term(place, "most", (self.next("number"),))]
        if self.take("IS", "NOT", "NULL"):
            return [Term(place, "exists")]
        negated = self.take("NOT")
        if self.take("IN", "("):
            return [Term(place, "equals", self.list(), negated)]
        if self.take("LIKE"):
            return [Term(place, "like", (self.next("text"),), negated)]
        sign = self.next("sign")
        test = {"=": "equals", "<>": "equals", "~": "matches", "<": "below", ">=": "least"}[sign]
        return [Term(place, test, (self.next("text", "number"),), sign == "<>")]


def read(condition):
    return Reader(condition).terms()


# ---- Sigma

FIELDS = {
    "verb": "verb",
    "stage": "stage",
    "resource": "objectRef.resource",
    "subresource": "objectRef.subresource",
    "namespace": "objectRef.namespace",
    "user_name": "user.username",
    "user_groups": "user.groups",
    "user_agent": "userAgent",
    "request_uri": "requestURI",
    "response_code": "responseStatus.code",
    "decision": "annotations.authorization.k8s.io/decision",
    "impersonated_user_name": "impersonatedUser.username",
    "request_object": "requestObject",
}

# Sigma can't ask for the text of a body. Where a condition does, the rule asks for what the text stands for.
STRUCTURE = {
    ("like", '%"hostPath"%'): ("requestObject.spec.volumes.hostPath|exists", True),
    ("like", '%"verbs":["*"]%'): (
        "requestObject.rules[any]",
        {"verbs[0]|cased": "\\*", "verbs[1]|exists": False},
    ),
    ("matches", '"(escalate|bind|impersonate)"'): (
        "requestObject.rules.verbs|cased",
        ["escalate", "bind", "impersonate"],
    ),
}


def escaped(text):
    return re.sub(r"([\\*?])", r"\\\1", text) if isinstance(text, str) else text


def field(place):
    steps = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place.path)
    return FIELDS[place.column] + steps


def sigma_item(term):
    if term.place == Place("request_object"):
        return STRUCTURE[term.test, term.values[0]]
    name, value = field(term.place), term.values[0] if term.values else None
    match term.test:
        case "equals" | "has":
            values = [escaped(value) for value in term.values]
            cased = "" if isinstance(value, int) else "|cased"
            return name + cased, values[0] if len(values) == 1 else values
        case "like":
            inner = value.strip("%")
            text = escaped(inner).replace("%", "*")
            if inner != value and "%" not in inner:
                kind = {(True, True): "contains", (True, False): "endswith", (False, True): "startswith"}
                return f"{name}|{kind[value[0] == '%', value[-1] == '%']}|cased", text
            return name + "|cased", escaped(value).replace("%", "*")
        case "matches":
            return name + "|re", value
        case "true":
            return name, True
        case "exists":
            return name + "|exists", True
        case "below" | "least" | "most":
            return name + {"below": "|lt", "least": "|gte", "most": "|lte"}[term.test], value


def sigma(nth, condition):
    """A Sigma rule, as JSON, which is YAML."""
    selection, filters = {}, {}
    for term in read(condition):
        if term.negated:
            selection[field(term.place) + "|exists"] = True
            filters[f"filter_{len(filters)}"] = dict([sigma_item(term)])
        else:
            name, value = sigma_item(term)
            assert name not in selection, condition
            selection[name] = value
    rule = {
        "title": f"typical {nth}",
        "description": condition,
        "status": "test",
        "logsource": {"product": "kubernetes", "service": "audit"},
        "detection": {
            "selection": selection,
            **filters,
            "condition": " and not ".join(["selection", *filters]),
        },
        "level": "medium",
    }
    if any("[" in name for name in selection):
        rule["sigma-version"] = 3  # the first with places in lists
    return json.dumps(rule, indent=1)


# ---- SQL


def literal(value):
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


def sql_term(term, value, matches, has, true):
    """A term as both databases write it, but for the functions."""
    no = "NOT " if term.negated else ""
    first = literal(term.values[0]) if term.values else ""
    match term.test:
        case "equals" if len(term.values) == 1:
            return f"{value} {'<>' if term.negated else '='} {first}"
        case "equals":
            return f"{value} {no}IN ({', '.join(map(literal, term.values))})"
        case "like":
            return f"{value} {no}LIKE {first}"
        case "matches":
            return f"{matches}({value}, {first})"
        case "has":
            return f"{has}({value}, {first})"
        case "true":
            return true
        case "exists":
            return f"{value} IS NOT NULL"
        case "below" | "least" | "most":
            return f"{value} {({'below': '<', 'least': '>=', 'most': '<='})[term.test]} {first}"


def clickhouse(condition):
    def written(term):
        column = term.place.column
        # Lists begin at 1.
        path = ", ".join(literal(step + 1) if isinstance(step, int) else literal(step) for step in term.place.path)
        value = column
        if path:
            # What is missing is '' for the first, which is no matter unless the term is negated.
            value = f"JSONExtractString({column}, {path})"
            if term.negated:
                value = f"JSONExtract({column}, {path}, 'Nullable(String)')"
        return sql_term(term, value, "match", "has", f"JSONExtractBool({column}, {path})")

    return " AND ".join(map(written, read(condition)))


def duckdb(condition):
    def written(term):
        column = term.place.column
        steps = (f"[{step}]" if isinstance(step, int) else f'."{step}"' for step in term.place.path)
        value = f"json_extract_string({column}, '${''.join(steps)}')" if term.place.path else column
        return sql_term(term, value, "regexp_matches", "list_contains", f"{value} = 'true'")

    return " AND ".join(map(written, read(condition)))
