"""Random facts and random filters, and what a filter is worth for an item, in plain Python and SQL's logic.

A condition is a pair: its text, and a function of an item's facts that gives True, False, or None for "not known".
"""

from __future__ import annotations

import math
import operator
import re

OPERATORS = {
    "=": operator.eq,
    "!=": operator.ne,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
CAMERAS = ("Canon EOS 5D", "canon ixus", "Fujifilm X100V", "O'Hara 100%", "哈苏 X2D")
KEYWORDS = ("beach", "dog", "snow", "a b")
PLACES = {"Paris": (48.8566, 2.3522), "Cape Town": (-33.92, 18.42), "Suva": (-18.14, 178.44), "Apia": (-13.83, -171.76)}
METRES = {"m": 1, "km": 1000, "mi": 1609.344}


def random_facts(random):
    """Facts of one item, some of them missing."""
    latitude, longitude = PLACES[random.choice(list(PLACES))]
    facts = {
        "year": int(random.integers(2000, 2006)),
        "price": float(random.integers(0, 8)) / 2,
        "width": int(random.integers(1, 4)),
        "height": int(random.integers(1, 4)),
        "camera": str(random.choice(CAMERAS)),
        "keywords": [str(one) for one in KEYWORDS if random.random() < 0.4],
        "flash": bool(random.random() < 0.5),
        "lens.mount": str(random.choice(["X", "RF"])),
        "a fact": str(random.choice(["yes", "no"])),
        "latitude": latitude + float(random.normal(0, 0.05)),
        "longitude": longitude + float(random.normal(0, 0.05)),
    }
    return {name: value for name, value in facts.items() if random.random() < 0.75}


def random_condition(random, depth=2):
    """Terms joined by `and` and `or`, some of them in parentheses, some denied."""
    terms = [random_term(random, depth) for _ in range(random.integers(1, 4))]
    words = [str(random.choice(["and", "or", "AND", "Or"])) for _ in terms[1:]]
    text = terms[0][0]
    either = [[terms[0][1]]]
    for word, (written, worth) in zip(words, terms[1:], strict=True):
        text += f" {word} {written}"
        if word.lower() == "or":
            either.append([])
        either[-1].append(worth)
    return text, lambda facts: any_of(all_of(worth(facts) for worth in group) for group in either)


def random_term(random, depth):
    if depth and random.random() < 0.4:
        text, worth = random_condition(random, depth - 1)
        text = f"({text})"
    else:
        text, worth = LEAVES[random.integers(len(LEAVES))](random)
    return (f"not {text}", lambda facts: denied(worth(facts))) if random.random() < 0.3 else (text, worth)


def all_of(values):
    values = list(values)
    return False if False in values else None if None in values else True


def any_of(values):
    values = list(values)
    return True if True in values else None if None in values else False


def denied(value):
    return None if value is None else not value


def of(name, ask):
    """What is asked of a fact; not known where there is none."""
    return lambda facts: None if name not in facts else ask(facts[name])


def quoted(text):
    return "'" + text.replace("'", "''") + "'"


def maybe_not(random, name, written, worth):
    if random.random() < 0.4:
        return f"{name} not {written}", lambda facts: denied(worth(facts))
    return f"{name} {written}", worth


def numbers(random):
    name, sign = random.choice(["year", "price", "width"]), str(random.choice(list(OPERATORS)))
    value = {"year": int(random.integers(1999, 2007)), "price": float(random.integers(-1, 9)) / 2, "width": 2.5}[name]
    return f"{name} {sign} {value}", of(name, lambda own: OPERATORS[sign](own, value))


def the_other_way_round(random):
    sign, value = str(random.choice(list(OPERATORS))), int(random.integers(2000, 2006))
    return f"{value} {sign} year", of("year", lambda own: OPERATORS[sign](value, own))


def texts(random):
    sign, value = str(random.choice(list(OPERATORS))), str(random.choice(CAMERAS))
    return f"camera {sign} {quoted(value)}", of("camera", lambda own: OPERATORS[sign](own, value))


def two_names(random):
    sign = str(random.choice(list(OPERATORS)))
    return (
        f"width {sign} height",
        lambda facts: OPERATORS[sign](facts["width"], facts["height"]) if {"width", "height"} <= set(facts) else None,
    )


def is_in(random):
    values = [int(one) for one in random.integers(2000, 2006, size=3)]
    written = f"in ({', '.join(map(str, values))})"
    return maybe_not(random, "year", written, of("year", lambda own: own in values))


def is_text_in(random):
    values = [str(one) for one in random.choice(CAMERAS, size=2)]
    written = f"in ({', '.join(map(quoted, values))})"
    return maybe_not(random, "camera", written, of("camera", lambda own: own in values))


def between(random):
    low, high = (float(one) / 2 for one in random.integers(0, 8, size=2))
    return maybe_not(random, "price", f"between {low} and {high}", of("price", lambda own: low <= own <= high))


def like(random):
    pattern, word = str(random.choice(["%canon%", "Canon%", "%X100_", "_哈%", "%苏%", "%", "%\\%"])), "like"
    flags = re.DOTALL
    if random.random() < 0.5:
        word, flags = "ilike", flags | re.IGNORECASE
    parts = {"%": ".*", "_": ".", "\\%": "%"}
    expression = "".join(parts.get(one, re.escape(one)) for one in re.findall(r"\\%|.", pattern))
    ask = of("camera", lambda own: re.fullmatch(expression, own, flags) is not None)
    return maybe_not(random, "camera", f"{word} {quoted(pattern)}", ask)


def contains(random):
    value = str(random.choice(KEYWORDS))
    return maybe_not(random, "keywords", f"contains {quoted(value)}", of("keywords", lambda own: value in own))


def is_null(random):
    name = str(random.choice(["year", "camera", "keywords", "flash", "lens.mount", "latitude"]))
    if random.random() < 0.5:
        return f"{name} IS NOT NULL", lambda facts: name in facts
    return f"{name} is null", lambda facts: name not in facts


def truth(random):
    text, wanted = [("flash", True), ("flash = true", True), ("flash = false", False), ("flash != TRUE", False)][
        random.integers(4)
    ]
    return text, of("flash", lambda own: own == wanted)


def quoted_names(random):
    if random.random() < 0.5:
        return "\"a fact\" = 'yes'", of("a fact", lambda own: own == "yes")
    return "lens.mount = 'X'", of("lens.mount", lambda own: own == "X")


def near(random):
    latitude, longitude = PLACES[random.choice(list(PLACES))]
    radius, unit = float(random.integers(1, 12)), str(random.choice(["km", "mi"]))
    if random.random() < 0.3:
        radius, unit = float(random.integers(500, 20_000)) * 1000, "m"
    return (
        f"near({latitude}, {longitude}, '{radius}{unit}')",
        lambda facts: (
            metres_between(facts["latitude"], facts["longitude"], latitude, longitude) <= radius * METRES[unit]
            if {"latitude", "longitude"} <= set(facts)
            else None
        ),
    )


def metres_between(*degrees):
    """By the angle between two vectors from the centre of the earth."""
    a, b = (
        (math.cos(y) * math.cos(x), math.cos(y) * math.sin(x), math.sin(y))
        for y, x in (map(math.radians, degrees[:2]), map(math.radians, degrees[2:]))
    )
    return 6_371_008.8 * math.acos(max(-1, min(1, sum(p * q for p, q in zip(a, b, strict=True)))))


LEAVES = (
    numbers,
    the_other_way_round,
    texts,
    two_names,
    is_in,
    is_text_in,
    between,
    like,
    contains,
    is_null,
    truth,
    quoted_names,
    near,
)
