"""Which language a short query is in: a guess from scripts and function words; and whether it says anything.

Queries are too short for statistics over letters; articles, prepositions and conjunctions are
telling, and cheap. A query without any ("hund strand") passes as known.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection

_SCRIPTS = {
    "CJK": ("Chinese or Japanese", {"zh", "ja"}),
    "HIRAGANA": ("Japanese", {"ja"}),
    "KATAKANA": ("Japanese", {"ja"}),
    "HANGUL": ("Korean", {"ko"}),
    "CYRILLIC": ("Russian or another language in Cyrillic", {"ru", "uk", "bg", "sr"}),
    "GREEK": ("Greek", {"el"}),
    "ARABIC": ("Arabic or Persian", {"ar", "fa", "ur"}),
    "HEBREW": ("Hebrew", {"he"}),
    "DEVANAGARI": ("Hindi", {"hi", "mr", "ne"}),
    "BENGALI": ("Bengali", {"bn"}),
    "TAMIL": ("Tamil", {"ta"}),
    "THAI": ("Thai", {"th"}),
    "LATIN": ("", set()),
}

# Per language: words that settle it, and words that also occur in names or in other languages.
_FUNCTION_WORDS = {
    "de": ("German", "ein eine einen einem einer und mit auf für", "der das den dem am im von ist zwei"),
    "fr": ("French", "un une avec dans sur", "le la les des du et au aux de en qui deux"),
    "es": ("Spanish", "un una con sobre unos", "el la los las en del de y dos por que"),
    "it": ("Italian", "un una uno con sul sulla nel nella", "il lo gli di e della dei che due"),
    "pt": ("Portuguese", "um uma com sobre numa", "os em na da dos das e de dois que"),
    "nl": ("Dutch", "een met het", "de op en van naar twee aan"),
    "sv": ("Swedish", "ett och på med", "en som av två vid"),
    "pl": ("Polish", "się jest nad", "na w z i dwa pod"),
    "tr": ("Turkish", "bir ve ile", "iki bu"),
    "id": ("Indonesian", "yang dengan dan sebuah seorang", "di dua ini"),
}
_ENGLISH = frozenset(
    "a an the of in on at with and or to for from by is are am as two three some who that his her its".split()  # noqa: SIM905
)

_SAYING_NOTHING = (_ENGLISH - {"two", "three"}) | frozenset(
    "it i me my we our you your he him she they them their this these those there here "  # noqa: SIM905
    "be was were been being has have had do does did could would shall should "
    "not no nor or but if so than then into onto about also too very just any each".split()
)
_CHINESE = frozenset("的了和与及或在是有我你他她它们这那一个吗呢吧啊就都而也很把被")


def says_nothing(text: str, languages: Collection[str]) -> bool:
    """Tell whether a text has nothing but punctuation, or function words of one language.

    Parameters
    ----------
    text : str
        Words that are asked.
    languages : collection of str
        ISO 639-1 codes of those that are understood; English is always looked at. In the others but Chinese it takes
        two function words: one alone may be a word of another language, as "van" and "pod" are.

    Examples
    --------
    >>> says_nothing("the of a", ["en"]), says_nothing("the van", ["en", "nl"])
    (True, False)
    """
    written = re.findall(r"\w+", text)
    words = {word if word.isupper() and len(word) > 1 else word.lower() for word in written}  # IT and WHO are names
    if not words:
        return not any(
            unicodedata.category(char).startswith("S") for char in text
        )  # emoji, among others, say something
    if words <= _SAYING_NOTHING or ("zh" in languages and set("".join(words)) <= _CHINESE):
        return True
    known = (set(" ".join(_FUNCTION_WORDS[code][1:]).split()) for code in languages if code in _FUNCTION_WORDS)
    return len(words) > 1 and any(words <= one for one in known)


def foreign_language(text: str, languages: Collection[str]) -> str | None:
    """Name the language of a text if it is most likely none of `languages`.

    Parameters
    ----------
    text : str
        A query.
    languages : collection of str
        ISO 639-1 codes of those that are understood.

    Returns
    -------
    str or None
        A language's English name, or None if the text may well be in one of `languages`.
    """
    scripts = Counter(unicodedata.name(char, "?").split()[0].split("-")[0] for char in text if char.isalpha())
    script = scripts.most_common(1)[0][0] if scripts else "LATIN"
    label, codes = _SCRIPTS.get(script, ("another language", set()))
    if script != "LATIN":
        return None if codes & set(languages) else label
    words = {word.lower() for word in re.findall(r"[^\W\d_]+", text) if not word.isupper()}
    scores = {code: _score(words, *lists) for code, (_, *lists) in _FUNCTION_WORDS.items()}
    best = max(scores.values())
    likely = [code for code, score in scores.items() if score == best]
    if best <= max(len(words & _ENGLISH), 2) or set(likely) & set(languages):
        return None
    return " or ".join(_FUNCTION_WORDS[code][0] for code in likely)


def _score(words: set[str], telling: str, common: str) -> int:
    return 2 * len(words & set(telling.split())) + len(words & set(common.split()))
