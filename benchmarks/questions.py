"""Questions about photographs, made from their captions by rules: half of them are answered by an index, half are not.

A question is made from one caption of a picture, and the others are the words that the index has of it: what is asked
for must stand in these, too. Pictures that are left out of the index give the questions that nothing there answers;
such a question is dropped where a caption in the index says nearly the same as the one that it was made from.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mmrag.compose.wording import stem, wording
from mmrag.roles import Encoder
from mmrag.sources.pairs import Pair

SAME_WORDS = 0.7
"""From this cosine on, two captions say nearly the same, as in benchmarks/nothing.py."""

_PEOPLE = "man woman boy girl child person toddler baby lady guy kid player skier surfer climber cyclist biker"
_ANIMALS = "dog puppy horse bird cat"
_MANY = "men women boys girls children people kids dogs horses birds players puppies"
_SUBJECT = "|".join(f"{_PEOPLE} {_ANIMALS} {_MANY}".split())
_NUMBER = "two|three|four|five|six|seven|eight"
_COLOUR = "red|yellow|green|blue|pink|brown|black|white|orange|purple|grey|gray"
_WORN = "shirt|jacket|dress|coat|hat|shorts|helmet|jersey|uniform|outfit|swimsuit|wetsuit|sweater|pants|cap|top|suit"
_DOING = r"(?!wearing|doing|building|evening|morning|clothing|swing |string|ring |spring|ceiling|railing)\w{2,}ing"
_BE = r"(?: (?:is|are))?"
_PLACE = r"(?:on|in|at|through|along|over|near|across|into|down|up|under|beside|behind|outside)\b"
_WHO = re.compile(rf"^(?:an?|the) (?:[a-z-]+ ){{0,2}}(?P<noun>{_SUBJECT}){_BE} (?P<verb>{_DOING}) (?P<rest>.+)$")
_HOW_MANY = re.compile(
    rf"^(?P<number>{_NUMBER}) (?P<who>(?:[a-z-]+ ){{0,2}}(?:{_SUBJECT})){_BE} (?P<verb>{_DOING}) (?P<rest>.+)$"
)
_DOES = re.compile(
    rf"^(?:an?|the) (?P<who>(?:[a-z-]+ ){{0,2}}(?:{_SUBJECT})){_BE} (?P<verb>{_DOING})\b(?P<what>.*?) "
    rf"(?P<place>{_PLACE} (?:an?|the) .+)$"
)
_WEARS = re.compile(
    rf"^(?:an?|the) (?P<who>(?:[a-z-]+ ){{0,2}}(?:{_SUBJECT})) (?:in|with|wearing) (?:an? |the |his |her )?"
    rf"(?P<colour>{_COLOUR}) (?P<worn>{_WORN}){_BE} (?P<verb>{_DOING}) (?P<rest>.+)$"
)
_COLOURED = re.compile(
    rf"^(?:an?|the) (?P<colour>{_COLOUR}) (?P<noun>{_SUBJECT}){_BE} (?P<verb>{_DOING}) (?P<rest>.+)$"
)


@dataclass(frozen=True)
class Question:
    """A question about a picture.

    Attributes
    ----------
    text : str
        As it is asked.
    kind : str
        "who", "how many", "doing", "where" or "colour".
    picture : str
        Which picture it is about.
    expected : frozenset of str
        Stems, one of which a right answer has; of a place, that of its last word.
    answerable : bool
        Whether that picture is in the index.
    """

    text: str
    kind: str
    picture: str
    expected: frozenset[str]
    answerable: bool


@dataclass(frozen=True)
class QuestionSet:
    """Pictures of an index with the words it has of them, and what is asked of it.

    Attributes
    ----------
    pictures : sequence of (Pair, words)
        What is indexed.
    questions : sequence of Question
        As many that are answered as not, in a mixed order.
    alike : mapping of str to frozenset of str
        For each question's text, the pictures that its caption is right for: its own, and those with nearly its words.
    """

    pictures: Sequence[tuple[Pair, str]]
    questions: Sequence[Question]
    alike: dict[str, frozenset[str]]


def make_questions(pairs: Sequence[Pair], encoder: Encoder, *, captions: int = 3, seed: int = 0) -> QuestionSet:
    """Index every other picture, with as many captions as its words, and ask of all of them what can be asked.

    Parameters
    ----------
    pairs : sequence of Pair
        Pictures with five captions.
    encoder : Encoder
        Tells which captions say nearly the same.
    captions : int
        How many the words of a picture are, beside the one that the question is made from.
    seed : int
        Decides which question is taken of a picture that gives several.
    """
    chance = random.Random(seed)
    pictures, asked = [], []
    for number, pair in enumerate(pairs):
        words, drawn = _drawn(pair, captions, answerable=number % 2 == 0, chance=chance)
        if number % 2 == 0:
            pictures.append((pair, "\n".join(words)))
        if drawn is not None:
            asked.append(drawn)
    same = _alike([caption for _, caption in asked], pictures, encoder)
    alike = {
        question.text: names | ({question.picture} if question.answerable else frozenset())
        for (question, _), names in zip(asked, same, strict=True)
        if question.answerable or not names
    }
    questions = {question.text: question for question, _ in asked if question.text in alike}
    return QuestionSet(pictures, _in_equal_parts(list(questions.values()), chance), alike)


def _drawn(
    pair: Pair, captions: int, *, answerable: bool, chance: random.Random
) -> tuple[Sequence[str], tuple[Question, str] | None]:
    """Draw a question of a picture, if its captions give one, and the words that the index has of it then."""
    drawn = []
    for caption in pair.texts:
        words = [text for text in pair.texts if text != caption][:captions]
        said = wording(" ".join(words)).stems
        drawn += [
            (words, (Question(text, kind, pair.id, frozenset({expected}), answerable), caption))
            for kind, text, expected in ask(caption)
            if expected in said
        ]
    if not drawn:
        return pair.texts[:captions], None
    kind = chance.choice(sorted({question.kind for _, (question, _) in drawn}))
    return chance.choice([one for one in drawn if one[1][0].kind == kind])


def ask(caption: str) -> Iterator[tuple[str, str, str]]:
    """Make questions from a caption: their kind, what is asked, and the stem that an answer has.

    Examples
    --------
    >>> for question in ask("A brown dog is running through the snow ."):
    ...     print(question)
    ('who', 'Who is running through the snow?', 'dog')
    ('doing', 'What is the brown dog doing through the snow?', 'run')
    ('colour', 'What colour is the dog running through the snow?', 'brown')
    """
    text = caption.lower().strip(" .").replace(" ,", ",")
    if found := _WHO.match(text):
        yield "who", f"Who is {found['verb']} {found['rest']}?", stem(found["noun"])
    if found := _HOW_MANY.match(text):
        yield "how many", f"How many {found['who']} are {found['verb']} {found['rest']}?", stem(found["number"])
    if found := _DOES.match(text):
        yield "doing", f"What is the {found['who']} doing {found['place']}?", stem(found["verb"])
        place = re.match(rf"{_PLACE} (?:an?|the) (\w+)$", found["place"])
        if place and found["what"]:
            yield "where", f"Where is the {found['who']} {found['verb']}{found['what']}?", stem(place[1])
    if found := _COLOURED.match(text):
        yield "colour", f"What colour is the {found['noun']} {found['verb']} {found['rest']}?", stem(found["colour"])
    if found := _WEARS.match(text):
        wearer = f"{found['who']} {found['verb']} {found['rest']}"
        yield "colour", f"What colour is the {found['worn']} of the {wearer}?", stem(found["colour"])


def _alike(captions: Sequence[str], pictures: Sequence[tuple[Pair, str]], encoder: Encoder) -> list[frozenset[str]]:
    """Tell, for each caption, which pictures of the index have one that says nearly the same."""
    names = [pair.id for pair, _ in pictures for _ in pair.texts]
    indexed = encoder.encode_text([text for pair, _ in pictures for text in pair.texts])
    same = encoder.encode_text(captions) @ indexed.T >= SAME_WORDS
    return [frozenset(names[place] for place in np.flatnonzero(row)) for row in same]


def _in_equal_parts(questions: Sequence[Question], chance: random.Random) -> list[Question]:
    parts = [[one for one in questions if one.answerable == answerable] for answerable in (True, False)]
    most = min(map(len, parts))
    chosen = [one for part in parts for one in chance.sample(part, most)]
    return chance.sample(chosen, len(chosen))
