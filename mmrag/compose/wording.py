"""What texts say, as far as their words tell: content words without their endings, and what excludes each other."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from mmrag.search.language import says_nothing

_WORD = re.compile(r"[㐀-䶿一-鿿豈-﫿]+|[^\W_㐀-䶿一-鿿豈-﫿]+(?:['’][^\W\d_]+)?")
_HAN = re.compile(r"[㐀-鿿豈-﫿]")
_NUMBERS = "zero one two three four five six seven eight nine ten eleven twelve"
_NUMBER = {word: str(n) for n, word in enumerate(_NUMBERS.split())} | {"pair": "2", "couple": "2", "both": "2"}
_COLOURS = "red orange yellow green blue purple violet pink brown black white grey beige golden silver"
_KIND = {
    **dict.fromkeys("man men boy male guy gentleman gentlemen father son brother husband king".split(), "he"),  # noqa: SIM905
    **dict.fromkeys("woman women girl female lady ladies mother daughter sister wife queen".split(), "she"),  # noqa: SIM905
}
_SPELT = {
    "gray": "grey",
    "color": "colour",
    "men": "man",
    "women": "woman",
    "people": "person",
    "children": "child",
    "kid": "child",
    "kids": "child",
    "ran": "run",
    "sat": "sit",
    "stood": "stand",
    "held": "hold",
    "wore": "wear",
}
_NEGATION = frozenset("no not never without nobody none nothing neither nor cannot 不 没 無 无".split())  # noqa: SIM905
_WANTED = re.compile(r"\b(?:(?P<number>how many|what number)|(?:what|which) colou?rs?)\b")
_ASKING = frozenset(
    "what which who whom whose when where why how many much kind sort colour does do did is are was were there "  # noqa: SIM905
    "show tell find see picture photo photograph image someone somebody something anyone anybody anything".split()
)


@dataclass(frozen=True)
class Wording:
    """What a text says, as far as its words tell.

    Attributes
    ----------
    stems : frozenset of str
        Its content words without their endings; numbers as digits; Chinese as pairs of characters.
    numbers, colours, kinds : frozenset of str
        Those of which one excludes the others: how many, which colour, he or she.
    negated : bool
        Whether something is said not to be.
    """

    stems: frozenset[str]
    numbers: frozenset[str]
    colours: frozenset[str]
    kinds: frozenset[str]
    negated: bool

    def overlap(self, said: Wording) -> float:
        """Share of its content words that another text has, too; 0 if it has none."""
        return len(self.stems & said.stems) / len(self.stems) if self.stems else 0.0

    def contradictions(self, said: Wording) -> int:
        """In how many ways the other text says something else: another number, colour or sex, or the negation."""
        pairs = ((self.numbers, said.numbers), (self.colours, said.colours), (self.kinds, said.kinds))
        return sum(bool(mine and theirs and not mine & theirs) for mine, theirs in pairs) + (
            self.negated != said.negated
        )

    def unsaid(self, said: Wording) -> int:
        """How many of its numbers the other text does not have."""
        return len(self.numbers - said.numbers)


@lru_cache(maxsize=4096)
def wording(text: str) -> Wording:
    """Tell what a text says, as far as its words tell.

    Examples
    --------
    >>> sorted(wording("Two dogs are running on the beach.").stems)
    ['2', 'beach', 'dog', 'run']
    """
    words = [part for word in _WORD.findall(text.lower()) for part in _parts(word)]
    content = [word for word in words if word not in _NEGATION and not _is_function_word(word)]
    stems = frozenset(map(stem, content))
    return Wording(
        stems=stems,
        numbers=frozenset(one for one in stems if one.isdigit()),
        colours=stems & _COLOUR_STEMS,
        kinds=frozenset(_KIND[word] for word in (*words, *stems) if word in _KIND),
        negated=any(word in _NEGATION or word.endswith(("n't", "n’t")) for word in words),
    )


@lru_cache(maxsize=4096)
def gives(question: str, said: Wording) -> float:
    """Tell whether a text has what a question asks for: 1 if it has a number or a colour, -1 if not; 0 for others.

    Examples
    --------
    >>> [gives(question, wording("two dogs")) for question in ("How many dogs?", "What color is it?", "Who?")]
    [1.0, -1.0, 0.0]
    """
    wanted = _WANTED.search(question.lower())
    if not wanted:
        return 0.0
    return 1.0 if (said.numbers if wanted["number"] else said.colours) else -1.0


@lru_cache(maxsize=4096)
def asked(question: str) -> Wording:
    """Tell what a question names: its wording without the words that only ask."""
    kept = " ".join(word for word in _WORD.findall(question) if word.lower() not in _ASKING)
    return wording(kept)


@lru_cache(maxsize=16384)
def stem(word: str) -> str:
    """Take the ending off an English word in small letters, so that "running" and "runs" are one.

    Examples
    --------
    >>> [stem(word) for word in ("running", "runs", "dogs", "ladies", "two", "beach", "beaches", "sitting")]
    ['run', 'run', 'dog', 'lady', '2', 'beach', 'beach', 'sit']
    """
    word = _SPELT.get(word.partition("'")[0].partition("’")[0], word)
    if word in _NUMBER:
        return _NUMBER[word]
    for ending, instead in (("ies", "y"), ("ing", ""), ("ed", ""), ("es", ""), ("s", "")):
        rest = word.removesuffix(ending)
        if rest != word and len(rest) >= 3 and re.search("[aeiouy]", rest) and not word.endswith("ss"):
            return _undoubled(rest) + instead
    return word.rstrip("e") if len(word) > 3 else word


def _undoubled(word: str) -> str:
    return word[:-1] if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz" else word.rstrip("e")


def _parts(word: str) -> list[str]:
    """Divide Chinese, which is written without spaces, into pairs of characters that overlap."""
    if not _HAN.match(word) or len(word) < 3:
        return [word]
    return [word[n : n + 2] for n in range(len(word) - 1)]


@lru_cache(maxsize=4096)
def _is_function_word(word: str) -> bool:
    return says_nothing(word, ["en"]) or (len(word) == 1 and word.isalpha() and word.isascii())


_COLOUR_STEMS = frozenset(stem(word) for word in _COLOURS.split())
