"""A follow-up ("and what colour is it?") → a question of its own, which can be searched for.

Two ways: by rules, which add the words that a follow-up leaves out, and by a language model, which puts it anew. What
the model says is taken only if it loses nothing that was asked and says nothing that nobody has said; the rules else.
Rules know English; of a follow-up in Chinese, they add the question before it. What they take from answers and sources
is single words without any mark, so that nothing a stranger wrote gets into a question as a sentence.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from mmrag.compose.answer import Answer, Source
from mmrag.compose.wording import stem
from mmrag.roles import Generator, Sampling, Turn

MOST_WORDS = 10
"""So many words are added to a follow-up at most: more would bury it."""

_FUNCTION_WORDS = frozenset(
    "a an the that of in on at with and or to for from by as into onto about over under than then but so if "  # noqa: SIM905
    "not no nor is are am be was were been being has have had having do does did doing done can could will "
    "would shall should may might must i me my mine we us our ours you your yours what which who whom whose "
    "when where why how there here any some all every each more most many much very too also just only really "
    "please tell show find give see seen look let say says said know think ok okay thanks thank yes well "
    "picture pictures photo photos photograph photographs image images something anything thing things "
    "happening happens happen kind sort s t re don doesn didn isn aren wasn".split()
)
_POINTING = frozenset(
    "it its itself he him his himself she her hers herself they them their theirs themselves this these those one ones "  # noqa: SIM905
    "same else other others another former latter".split()
)
_ASKING = frozenset(("what", "which", "who", "whom", "whose", "when", "where", "why", "how"))
_NOT_POINTING = re.compile(
    r"\b(?:what time is it|is it (?:raining|snowing|sunny|dark|cold|warm)|(?:some|any|every|no|one of|each)[ -]?one"
    r"|in this (?:corpus|index|collection|album))\b"
)
_THAT = re.compile(
    r"^that\b|\b(?:is|was|of|about|like|with|in|on|at|from|for|do|does|did|to|than|and|why|how)\s+that\b|\bthat\W*$"
)
_BACK_THERE = re.compile(
    r"(?<!\bis )(?<!\bare )(?<!\bwas )(?<!\bwere )(?<!^)\bthere\W*$|\belse\b.*\bthere\b|\bfrom there\b"
)
_GOES_ON = re.compile(r"^(?:and|but|or|also|what about|how about|same (?:for|with)|why not|instead)\b")
_BEGINS_SHORT = re.compile(
    r"^(?:why|where|when|who|which|what|how|in|on|at|by|with|without|from|for|near|during|over|under)\b"
)
_SHORT = 3
_CHINESE_POINTING = re.compile(
    r"[它他她]|[这那](?:[个只张些里是条]|$)|呢[？?]?$|^(?:还有|那么?|为什么|什么时候|在哪|谁)"
)
_CHINESE = re.compile(r"[\u3400-\u9fff]")

_ORDINALS = {
    word: place
    for place, words in enumerate(
        ("first 1st", "second 2nd", "third 3rd", "fourth 4th", "fifth 5th", "sixth 6th", "seventh 7th", "eighth 8th")
    )
    for word in words.split()
}
_THINGS = r"(?:one|picture|photo|photograph|image|source|result|hit|item|text|note|document)s?"
_BY_NUMBER = re.compile(r"\[(\d{1,4})\]|\b(?:number|no\.|source|picture|photo|image|result|hit)\s+#?(\d{1,4})\b")
_BY_PLACE = re.compile(
    rf"\bthe\s+({'|'.join(_ORDINALS)}|last|latter|former)(?:\s+{_THINGS}\b|\W*$|(?=\s+(?:is|was)\b))"
)

_INSTRUCTION = (
    "Rewrite the last question of a conversation so that it can be understood without the conversation: replace words "
    'such as "it", "they" or "there" by what they stand for. Do not answer it. Write the question and nothing else.'
)
REWRITING = Sampling(max_tokens=48, stop=("\n",), seconds=30.0)
"""How a language model rewrites: briefly, always the same, and soon."""

_LONGEST = 300
_SHOWN_OF_ANSWER = 300


def asked(answer: Answer) -> str:
    """Give the question that an answer was searched for: a follow-up as it was rewritten, any other as it was asked."""
    return next((step.detail for step in answer.steps if step.kind == "rewrite"), answer.question)


def needs_context(question: str) -> bool:
    """Tell whether a question can be understood only by what was said before it.

    Examples
    --------
    >>> [needs_context(one) for one in ("and what colour is it?", "in winter?", "Is there a dog on a beach?")]
    [True, True, False]
    """
    said = " ".join(question.lower().replace("’", "'").split())
    if _CHINESE.search(said):
        return bool(_CHINESE_POINTING.search(said))
    plain = _NOT_POINTING.sub(" ", said)
    words = _words(plain)
    if _GOES_ON.search(said) or not content_words(said):
        return True
    if any(word in _POINTING for word in words) or _THAT.search(plain) or _BACK_THERE.search(plain):
        return True
    return len(_words(said)) <= _SHORT and len(content_words(said)) < 2 and bool(_BEGINS_SHORT.search(said))


def rewrite(question: str, before: Answer | None, source: Source | None = None) -> str:
    """Put a follow-up as a question of its own, by rules: what it leaves out is added in parentheses.

    Parameters
    ----------
    question : str
        What is asked now.
    before : Answer or None
        The answer before it. None: nothing was said yet.
    source : Source or None
        What the question names, such as "the second one", as `named_source` finds it.

    Returns
    -------
    str
        The question with the content words of the named source, or else of the question before and of what was
        answered, at most `MOST_WORDS`; the question itself if it needs none.
    """
    if source is not None:
        added = content_words(source.text)
    elif before is None or not needs_context(question):
        return question
    elif _CHINESE.search(question):
        return f"{asked(before)} {question}"
    else:
        answered = not (before.refused or _asks_same_of_another(question))
        added = content_words(asked(before)) + (content_words(plain_text(before)) if answered else [])
    known = {stem(word) for word in content_words(question)}
    fresh: dict[str, str] = {}
    for word in added:
        if stem(word) not in known:
            fresh.setdefault(stem(word), word)
    return f"{question} ({' '.join(list(fresh.values())[:MOST_WORDS])})" if fresh else question


def rewrite_by_model(question: str, answers: Sequence[Answer], generator: Generator) -> str | None:
    """Put a follow-up as a question of its own, by a language model.

    Parameters
    ----------
    question : str
        What is asked now.
    answers : sequence of Answer
        What was said before, the oldest first; the last two are told.
    generator : Generator
        One that chats.

    Returns
    -------
    str or None
        None if what it says is not to be trusted: it is no question, or asks for something else; it loses a content
        word of the question, has one that was said nowhere, adds none at all, or is too long.

    Raises
    ------
    GenerationError
        As `Generator.generate`.
    """
    said = ask_to_rewrite(question, answers, generator)
    return said if is_faithful(said, question, answers) else None


def ask_to_rewrite(
    question: str, answers: Sequence[Answer], generator: Generator, sampling: Sampling = REWRITING
) -> str:
    """Give what a language model makes of a follow-up, whatever that is; parameters as of `rewrite_by_model`."""
    turns = [Turn("system", _INSTRUCTION), Turn("user", _conversation(question, answers))]
    said = "".join(piece.text for piece in generator.generate(turns, sampling))
    return said.strip().removeprefix("Question:").removeprefix("Last question:").strip(' "')


def is_faithful(said: str, question: str, answers: Sequence[Answer]) -> bool:
    """Tell whether what a language model made of a follow-up is to be trusted; parameters as of `rewrite_by_model`."""
    ordinals = set(_ORDINALS) | {"last", "latter", "former"}
    texts = (question, said, _conversation(question, answers))
    wanted, made, known = (_stems(content_words(text)) - ordinals for text in texts)
    return _asks_alike(said, question) and len(said) <= _LONGEST and wanted < made <= known


def named_source(question: str, before: Answer | None) -> Source | None:
    """Find the source of an answer that a question names: by its number, "[2]", or its place, "the second one".

    Places are those in the list of what the answer cites, which is what is shown; of all sources if it cites none.
    """
    if before is None:
        return None
    by_number = _BY_NUMBER.search(question.lower())
    if by_number:
        wanted = int(by_number[1] or by_number[2])
        return next((source for source in before.sources if source.number == wanted), None)
    by_place = _BY_PLACE.search(question.lower())
    listed = before.citations or before.sources
    if by_place is None or not listed:
        return None
    place = {"last": len(listed) - 1, "latter": 1, "former": 0}.get(by_place[1], _ORDINALS.get(by_place[1], 0))
    return listed[place] if place < len(listed) else None


def content_words(text: str) -> list[str]:
    """List the words of a text that say what it is about, each once, in lower case and in order."""
    words = _words(re.sub(r"\[\d+\]", " ", text))
    return list(dict.fromkeys(word for word in words if word not in _FUNCTION_WORDS and word not in _POINTING))


def _asks_same_of_another(question: str) -> bool:
    """Tell whether a follow-up only names another thing ("and the cat?"): what was answered is not about that."""
    said = question.lower()
    points = any(word in _POINTING for word in _words(said))
    return bool(_GOES_ON.search(said) and content_words(said)) and not points


def _asks_alike(said: str, question: str) -> bool:
    """Tell whether what a model says still asks, and for the same: small ones answer in place of rewriting."""
    asks_for = _ASKING & set(_words(question))
    is_question = said.endswith(("?", "？")) or not question.rstrip().endswith(("?", "？"))
    return is_question and asks_for <= set(_words(said))


def _conversation(question: str, answers: Sequence[Answer]) -> str:
    told = [f"Question: {asked(one)}\nAnswer: {plain_text(one)[:_SHOWN_OF_ANSWER]}" for one in answers[-2:]]
    return "\n".join([*told, f"Last question: {question}"])


def plain_text(answer: Answer) -> str:
    """Give what an answer says, without its citations."""
    return " ".join(one.sentence for one in answer.evidence) or answer.text


def _words(text: str) -> list[str]:
    return [word.strip("'").removesuffix("'s") for word in re.findall(r"[^\W_][\w'-]*", text.lower())]


def _stems(words: Iterable[str]) -> set[str]:
    return {stem(word) for word in words}
