"""The text of an axis to its values: lists, ranges and quoted strings.

The grammar is the one of A1111's X/Y/Z plot (`1-10`, `1-10(+2)`, `1-10[5]`) with its faults mended:
arithmetic is decimal, descending ranges keep both ends, order and duplicates are kept, and a range
that cannot reach its end is an error and not a surprise.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, localcontext

from .parameters import Parameter, Value, parameter_named

MAX_VALUES = 10_000
_LARGEST = Decimal("1e24")

_NUMBER = r"[+-]?(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d{1,3})?"
_SINGLE = re.compile(_NUMBER)
_RANGE = re.compile(
    rf"(?P<start>{_NUMBER})\s*(?:-|\.\.|…)\s*(?P<end>{_NUMBER})\s*"
    rf"(?:\(\s*(?P<step>{_NUMBER})\s*\)|\[\s*(?P<count>\d{{1,9}})\s*\])?"
)
_ELLIPSES = ("..", "...", "…")
_DASHES = str.maketrans("–−", "--")
_DECIMAL_COMMA = re.compile(r"(?<=\d),(?=\d)")
_NUMBER_FORMS = "write values as 1, 2, 3, a range as 1-10, 1-10(+2) or 20-5(-5), or a count of values as 1-10[5]"
_TEXT_FORMS = 'write one value a line or separate values by commas, and put a value with commas in "quotes"'


def parse_values(parameter: str | Parameter, text: str, *, choices: Sequence[str] | None = None) -> tuple[Value, ...]:
    """Values in the order written, duplicates kept: int, float or str by the parameter's kind.

    Numbers: `1, 2, 3`, `1-10`, `1..10`, `1, 3, .., 9`, `1-10(+2)`, `20-5(-5)`, `1-10[5]` (five values, both
    ends among them, whole numbers rounded towards zero as in A1111), `-1 - 1 (+0.5)`; commas or newlines part
    the items. Text: one value a line, or commas on a single line; `"a, b"` keeps its comma, `""` is a quote
    inside quotes; a line that is one of the `choices` is that name. Raises ValueError, quoting the text, for
    whatever is empty, unreadable, ambiguous (`0,6, 0,8`), not allowed for the parameter, not among `choices`,
    never-ending, or more than 10,000 values.
    """
    known = parameter if isinstance(parameter, Parameter) else parameter_named(parameter)
    forms = _NUMBER_FORMS if known.is_number else _TEXT_FORMS
    if not text.strip().strip(","):
        raise ValueError(f"The axis of {known.label} is empty ({quoted(text)}): {forms}.")
    try:
        values = _numbers(known, text) if known.is_number else _texts(known, text, choices or ())
    except ValueError as error:
        raise ValueError(f"{known.label} {quoted(text)}: {error}.") from None
    for value in values:
        known.check(value, choices)
    return values


def quoted(text: str, limit: int = 80) -> str:
    """`text` in quotes, shortened in the middle where it is too long for a message."""
    if len(text) > limit:
        text = f"{text[: limit // 2]} … {text[-limit // 3 :]}"
    return f'"{text}"'


# numbers


def _numbers(known: Parameter, text: str) -> tuple[Value, ...]:
    text = text.translate(_DASHES)
    if known.kind == "float":
        _refuse_decimal_commas(text)
    items = [item.strip() for line in text.splitlines() if line.strip() for item in _comma_items(line)]
    found: list[Decimal] = []
    with localcontext() as context:
        context.prec = 60
        position = 0
        while position < len(items):
            if items[position] in _ELLIPSES:
                found += _continued(known, found, items, position)
                position += 1
            else:
                found += _item(known, items[position])
            position += 1
            if len(found) > MAX_VALUES:
                raise ValueError(f"these are more than {MAX_VALUES} values, the most that an axis takes")
        return tuple(_plain(known, number) for number in found)


def _refuse_decimal_commas(text: str) -> None:
    """ValueError for a list that reads as well, or only, if commas between digits are decimal points."""
    items = [item.strip() for item in re.split(r",\s+|[;\n]", text.strip().removesuffix(",")) if item.strip()]
    pointed = [_DECIMAL_COMMA.sub(".", item) for item in items]
    if pointed == items:
        return
    parted = [item.strip() for item in re.split(r"[,;\n]", text) if item.strip()]
    as_well = all(_SINGLE.fullmatch(item) or item in _ELLIPSES for item in pointed) and not _in_order(parted)
    only = all(_is_item(item) for item in pointed) and not all(_is_item(item) for item in re.split(r"[,\n]", text))
    if as_well or only:
        raise ValueError(
            "a comma between digits may be a decimal one; write decimals with a point, as in "
            f"{', '.join(pointed[:2])}, and put a blank after every comma that parts values"
        )


def _in_order(items: Sequence[str]) -> bool:
    """Whether numbers rise or fall throughout, or some have a decimal point: then their commas part them."""
    if any("." in item and item not in _ELLIPSES for item in items):
        return True
    numbers = [Decimal(item) for item in items if item not in _ELLIPSES]
    pairs = list(zip(numbers, numbers[1:], strict=False))
    return all(one < two for one, two in pairs) or all(one > two for one, two in pairs)


def _is_item(text: str) -> bool:
    text = text.strip()
    return bool(_SINGLE.fullmatch(text) or _RANGE.fullmatch(text)) or text in ("", *_ELLIPSES)


def _comma_items(line: str) -> list[str]:
    items = [item.strip() for item in line.strip().removesuffix(",").split(",")]
    if "" in items:
        raise ValueError("there is nothing between two commas")
    return items


def _item(known: Parameter, item: str) -> list[Decimal]:
    if _SINGLE.fullmatch(item):
        return [_decimal(known, item)]
    match = _RANGE.fullmatch(item)
    if match is None:
        raise ValueError(f"{quoted(item)} is neither a number nor a range; {_NUMBER_FORMS}")
    start, end = _decimal(known, match["start"]), _decimal(known, match["end"])
    if match["count"]:
        return _counted(known, item, start, end, int(match["count"]))
    return _stepped(item, start, end, match["step"])


def _decimal(known: Parameter, text: str) -> Decimal:
    """An exact number within the parameter's limits; checked before any arithmetic that it could blow up."""
    number = Decimal(text)
    low = _LARGEST.copy_negate() if known.minimum is None else Decimal(str(known.minimum))
    high = _LARGEST if known.maximum is None else Decimal(str(known.maximum))
    if not low <= number <= high:
        raise ValueError(f"{quoted(text)} is out of bounds; allowed are {known.allowed}")
    return number


def _stepped(item: str, start: Decimal, end: Decimal, step_text: str | None) -> list[Decimal]:
    downwards = end < start
    step = Decimal(step_text) if step_text else Decimal(-1 if downwards else 1)
    if step_text and downwards and step_text[0] not in "+-":
        step = -step
    if step == 0:
        raise ValueError(f"{quoted(item)} never ends, because its step is 0; give a step such as (+1)")
    if start != end and (step < 0) != downwards:
        cure = f"({'-' if downwards else '+'}{abs(step)})"
        raise ValueError(f"{quoted(item)} never ends, because its step leads away from {end}; write {cure}")
    steps = (end - start) / step
    if not step_text and steps != int(steps):
        raise ValueError(
            f"{quoted(item)} does not reach {end} in steps of 1; give a step as in {start}-{end}(+0.1) "
            f"or a count as in {start}-{end}[5]"
        )
    if steps >= MAX_VALUES:
        raise ValueError(f"{quoted(item)} has more than {MAX_VALUES} values, the most that an axis takes")
    return [start + step * number for number in range(int(steps) + 1)]


def _counted(known: Parameter, item: str, start: Decimal, end: Decimal, count: int) -> list[Decimal]:
    if count < 2:
        raise ValueError(f"{quoted(item)} asks for {count} values; a range has two ends, so ask for at least 2")
    if count > MAX_VALUES:
        raise ValueError(f"{quoted(item)} has more than {MAX_VALUES} values, the most that an axis takes")
    if known.kind == "int" and start != end and abs(end - start) + 1 < count:
        raise ValueError(f"{quoted(item)} asks for {count} values, but holds only {abs(end - start) + 1}")
    numbers = [start + (end - start) * number / (count - 1) for number in range(count)]
    return [number.to_integral_value("ROUND_DOWN") for number in numbers] if known.kind == "int" else numbers


def _continued(known: Parameter, found: list[Decimal], items: list[str], position: int) -> list[Decimal]:
    """The rest of `1, 3, .., 9`, after the 3: the step is that of the two values before."""
    if not found or position + 1 == len(items) or not _SINGLE.fullmatch(items[position + 1]):
        raise ValueError(f"{quoted(items[position])} needs a number before and after it, as in 1, 3, .., 9")
    step = found[-1] - found[-2] if len(found) > 1 else Decimal(1)
    end = _decimal(known, items[position + 1])
    return _stepped(", ".join(items), found[-1], end, f"{step:+f}")[1:]


def _plain(known: Parameter, number: Decimal) -> Value:
    if known.kind == "float":
        return float(number)
    if number != number.to_integral_value():
        raise ValueError(f"{number.normalize():f} is not whole; allowed are {known.allowed}")
    return int(number)


# text


def split_items(text: str) -> tuple[str, ...]:
    """The items of one line, parted by commas; those in quotes keep theirs. ValueError quotes what is unreadable."""
    return tuple(_quoted_items(text))


def _texts(known: Parameter, text: str, choices: Sequence[str]) -> tuple[Value, ...]:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    values: list[str] = []
    for line in lines:
        # a prompt is full of commas: where values stand one a line, a bare line is one value
        whole = known.kind == "text" and len(lines) > 1 and not line.startswith('"')
        values += [line] if whole or line in choices else _quoted_items(line)
    if known.kind == "choice" and "" in values:
        raise ValueError("a name is empty")
    if len(values) > MAX_VALUES:
        raise ValueError(f"these are more than {MAX_VALUES} values, the most that an axis takes")
    return tuple(values)


_QUOTED = re.compile(r'"(?P<quoted>(?:[^"]|"")*)"')
_TEXT_ITEM = re.compile(rf'\s*(?:{_QUOTED.pattern}|(?P<bare>[^",\s][^,]*))\s*(?P<more>,|$)')


def _quoted_items(line: str) -> list[str]:
    values: list[str] = []
    position = 0
    while position < len(line):
        match = _TEXT_ITEM.match(line, position)
        if match is None:
            raise ValueError(_unreadable(line[position:].strip()))
        bare = match["bare"]
        values.append(match["quoted"].replace('""', '"') if bare is None else bare.strip())
        position = match.end()
    return values


def _unreadable(rest: str) -> str:
    """What is wrong with the text of which no item could be read."""
    if _QUOTED.match(rest):
        return f"{quoted(rest)} goes on after a quote is closed; put all of it in quotes and double those inside it"
    wrong = "a quote is not closed" if rest.startswith('"') else "a value is missing"
    return f"cannot read {quoted(rest)}: {wrong}; {_TEXT_FORMS}"
