"""From a question to an answer, with a corpus of colours and a writer that says what it is told to."""

import random
import threading
from itertools import pairwise

import pytest

import mmrag
from mmrag.compose import ask as asking
from mmrag.compose.answer import Answer, Checked, Done, Evidence, Found, Placed, Step, Support, Wrote
from mmrag.compose.ask import REFUSAL, choose_writer
from mmrag.compose.citations import parse
from mmrag.compose.context import as_sources
from mmrag.compose.model_writer import ModelWriter
from mmrag.compose.prompt import Exchange
from mmrag.compose.retrieve import Retriever, asked_words, nearest_pictures, seen_likely
from mmrag.errors import GenerationError, ModelError, QueryError
from mmrag.models.cards import Calibration
from mmrag.roles import Sampling
from mmrag.search.answering import AnswerOptions
from mmrag.search.pipeline import Pipeline, load_pipeline
from mmrag.stores.lock import write_lock
from mmrag.types import Hit, Item
from tests.toy import COLOURS, ToyTeller, ToyWriter


class SharedWords:
    """A grounding that can be checked by hand: the share of a text's words that a source has."""

    def __init__(self, index, matcher):
        self.matcher = matcher

    def likely(self, question, sources):
        return [one for one in sources if _share(asked_words(question) or question, one.text)]

    def best(self, sentence, sources):
        judged = [self._support(sentence, one) for one in sources]
        return max((one for one in judged if one.probability >= 0.5), key=lambda one: one.probability, default=None)

    def check(self, sentence, span, citations, sources):
        supports = tuple(self._support(sentence, one) for one in sources if one.number in citations)
        supported = any(one.probability >= 0.5 for one in supports)
        return Evidence(sentence, span, tuple(citations), supports, supported)

    def _support(self, sentence, source):
        return Support(source.number, "words", _share(sentence, source.text))


def _share(text, other):
    words, others = ({one.strip(".,:") for one in given.lower().split()} for given in (text, other))
    return len(words & others) / len(words)


@pytest.fixture(autouse=True)
def _shared_words(monkeypatch):
    monkeypatch.setattr(asking, "Grounding", SharedWords)


@pytest.fixture
def index(colours):
    for name in ("red", "blue"):
        (colours / f"{name}.txt").write_text(f"a {name} wall")
    index = mmrag.create(".", model="toy:1")
    index.add("images")
    index.add([Item(f"{name}.note", modality="text", text=f"The {name} door is old.") for name in ("red", "green")])
    return index


def recipe(**options):
    return Pipeline(answer=AnswerOptions(**{"caption": "", **options}))


def ask(index, question, says, **options):
    writer = says if isinstance(says, ToyWriter) else ToyWriter(says)
    return mmrag.ask(index, question, generator=writer, **{"pipeline": recipe(), **options}), writer


def test_an_answer_cites_its_sources(index):
    answer, writer = ask(index, "What is red?", "The red door is old [1]. A red wall [2].", k=3)
    assert answer.text == "The red door is old [1]. A red wall [2]."
    assert [source.item.uri for source in answer.citations] == ["red.note", "images/red.png"]
    assert [(one.sentence, one.citations, one.supported) for one in answer.evidence] == [
        ("The red door is old.", (1,), True),
        ("A red wall.", (2,), True),
    ]
    assert (answer.question, answer.generator, answer.end, answer.refused) == ("What is red?", "writer", "stop", False)
    assert answer.supported
    assert [one.uri for one in answer.images] == ["images/red.png"]
    told = writer.asked[0][-1].text
    assert '[1] "The red door is old."' in told
    assert '[2] "a red wall"' in told


def test_texts_and_pictures_alternate_and_are_numbered(index):
    hits = Retriever(index, recipe(k=4)).find("red")
    assert [(hit.rank, hit.item.uri) for hit in hits[:2]] == [(1, "red.note"), (2, "images/red.png")]
    assert [hit.item.modality for hit in hits] == ["text", "image", "text", "image"]
    only_pictures = Retriever(index, recipe(k=4), "modality = 'image'").find("red")
    assert [hit.item.modality for hit in only_pictures] == ["image"] * 4


def test_events_are_in_order_and_make_the_answer(index):
    events = list(
        mmrag.ask(index, "What is red?", generator=ToyWriter("A red wall [2]. So."), pipeline=recipe(), stream=True)
    )
    kinds = [type(event) for event in events]
    assert kinds[:2] == [Step, Found]
    assert [kind for kind in kinds if kind is not Wrote] == [Step, Found, Checked, Checked, Done]
    answer = events[-1].answer
    assert "".join(event.text for event in events if isinstance(event, Wrote)) == answer.text
    assert tuple(event.evidence for event in events if isinstance(event, Checked)) == answer.evidence
    assert events[1].sources == answer.sources
    written = ""
    for before, event in pairwise(events):
        written += before.text if isinstance(before, Wrote) else ""
        if isinstance(event, Checked):
            assert len(written) == event.evidence.span[1]  # it is checked before what follows is shown


SAYINGS = (
    "The red door",
    " is old",
    ".",
    "!",
    " [1]",
    "[9]",
    "[2, 3]",
    "\n",
    "\n[1] ",
    " A blue wall",
    " So.",
    "海。",
    "[",
    " e.g.",
)


@pytest.mark.parametrize("options", [{}, {"active": True}, {"illustrate": True}, {"attribute": False}])
def test_whatever_is_written_the_promises_of_an_answer_hold(index, options):
    chance = random.Random(3)  # noqa: S311
    for _ in range(6):
        said = "".join(chance.choice(SAYINGS) for _ in range(chance.randrange(1, 14)))
        asked = {"pipeline": recipe(**options), "matcher": "judge:1"}
        events = list(mmrag.ask(index, "What is red?", generator=ToyWriter(said), stream=True, **asked))
        answer = events[-1].answer
        assert answer == ask(index, "What is red?", said, **asked)[0]
        assert folded(events) == (answer.text, answer.sources, answer.evidence, answer.placements, answer.steps)
        assert [(one.text, one.span, one.numbers) for one in parse(answer.text)] == [
            (one.sentence, one.span, one.citations) for one in answer.evidence
        ]
        assert {number for one in answer.evidence for number in one.citations} <= {one.number for one in answer.sources}
        assert [one.number for one in answer.sources] == list(range(1, len(answer.sources) + 1))
        assert all(index.get(one.id) == one and one.modality == "image" for one in answer.images)
        assert all(answer.evidence[one.sentence].span == one.span for one in answer.placements)


def folded(events):
    """Make an answer of events, as somebody who only sees these would."""
    sources, placements = {}, ()
    for event in events:
        if isinstance(event, Found):
            sources |= {one.number: one for one in event.sources}
        if isinstance(event, Placed):
            placements = event.placements
    return (
        "".join(event.text for event in events if isinstance(event, Wrote)),
        tuple(sources.values()),
        tuple(event.evidence for event in events if isinstance(event, Checked)),
        placements,
        tuple(event for event in events if isinstance(event, Step)),
    )


def test_text_comes_while_it_is_written(index):
    writer = ToyWriter("A red wall [2] and a red door.")
    events = mmrag.ask(index, "What is red?", generator=writer, pipeline=recipe(), stream=True)
    for event in events:
        if isinstance(event, Wrote):
            break
    assert writer.written <= 2
    events.close()


def test_citations_that_do_not_exist_are_nowhere_in_the_answer(index, caplog):
    answer, _ = ask(index, "What is red?", "A red wall [9]. The red [2, 77] wall [1 2].", k=2)
    assert answer.text.startswith("A red wall. [")  # what supports it is cited instead
    assert {number for one in answer.evidence for number in one.citations} <= {1, 2}
    assert "77" not in answer.text
    assert "left out of the answer: 2" in caplog.text


def test_a_sentence_without_a_citation_gets_the_source_that_supports_it_best(index):
    answer, _ = ask(index, "What is red?", "The red door is old. Nobody knows why. A red wall!")
    assert answer.text == "The red door is old. [1] Nobody knows why. A red wall! [2]"
    assert [one.citations for one in answer.evidence] == [(1,), (), (2,)]
    assert [answer.text[slice(*one.span)] for one in answer.evidence] == [
        "The red door is old. [1]",
        "Nobody knows why.",
        "A red wall! [2]",
    ]
    assert not answer.supported
    off, _ = ask(index, "What is red?", "The red door is old.", pipeline=recipe(attribute=False))
    assert off.text == "The red door is old."
    nothing, _ = ask(index, "What is red?", "Ships sail north.")
    assert nothing.text == "Ships sail north."


def test_where_nothing_is_likely_nobody_writes(index):
    for question in ("Who plays chess?", "Where is the opera?"):
        answer, writer = ask(index, question, "Chess!", where="modality = 'text' or text is not null")
        assert answer == Answer(question, REFUSAL, steps=answer.steps, refused=True)
        assert [step.kind for step in answer.steps] == ["search", "refuse"]
        assert writer.asked == []
        assert not answer.supported


def test_a_calibrated_model_tells_which_pictures_are_likely(colours):
    index = mmrag.create(".", model="toy:calibrated")
    index.add("images")
    answer, writer = ask(index, "red", "It is red.", k=6)
    assert "images/red.png" in {source.item.uri for source in answer.sources}
    assert len(answer.sources) < 6
    refused, writer = ask(index, "Something else?", "It is red.", where="uri like '%black%'")
    assert refused.refused
    assert writer.asked == []


def test_an_empty_index_and_a_filter_that_nothing_passes(tmp_path, index):
    empty = mmrag.create(tmp_path / "empty", model="toy:1")
    assert ask(empty, "What is red?", "Red.")[0].refused
    assert ask(index, "What is red?", "Red.", where="width > 9999")[0].refused


def test_pictures_without_words_are_described_and_keep_it(index):
    index.generator(teller := ToyTeller())
    steps = ask(index, "What is green?", "Green.", pipeline=recipe(caption="teller:1", k=12))[0].steps
    assert [(step.kind, step.found) for step in steps] == [("search", 5), ("caption", 4)]
    assert steps[1].detail == "4 pictures without words described by teller:1"
    green = next(hit.item for hit in index.search("green") if hit.item.uri == "images/green.png")
    assert (green.words, green.origins) == ({"generated": "green"}, {"generated": "teller 1"})
    again, writer = ask(index, "What is green?", "Green.", pipeline=recipe(caption="teller:1", k=12))
    assert [step.kind for step in again.steps] == ["search"]
    assert (
        "Caption by a model - green" in writer.asked[0][-1].text
        or "Caption by a model: green" in writer.asked[0][-1].text
    )
    assert teller.told == 0


def test_history_is_told_and_sources_fit_the_context(index):
    writer = ToyWriter("Red.", context_tokens=130)
    answer, _ = ask(
        index, "What is red?", writer, history=[Exchange("Hello?", "Yes.")], sampling=Sampling(max_tokens=20), k=8
    )
    turns = writer.asked[0]
    assert [turn.who for turn in turns] == ["system", "user", "assistant", "user"]
    assert writer.count_turns(turns) + 20 <= 130
    assert len(answer.sources) < 8
    with pytest.raises(GenerationError, match="writer cannot read the question and one source at once"):
        ask(index, "What is red?", ToyWriter("Red.", context_tokens=40))


def test_a_writer_that_sees_is_shown_the_pictures(index, colours):
    writer = ToyWriter("Red [2].", sees=True)
    answer, _ = ask(index, "What is red?", writer, image=colours / "blue.png", k=4)
    seen = [source.number for source in answer.sources if source.seen]
    assert seen == [source.number for source in answer.sources if source.item.modality == "image"]
    images = writer.asked[0][-1].images
    assert len(images) == len(seen) + 1
    assert [image.getpixel((3, 3)) for image in images] == [
        *(COLOURS[answer.sources[number - 1].item.uri[7:-4]] for number in seen),
        COLOURS["blue"],
    ]


def test_a_picture_is_looked_for_too(index, colours):
    asked = {"image": colours / "blue.png", "k": 3, "where": "width > 0"}
    answer, _ = ask(index, "What is this?", "So.", **asked)
    assert answer.sources[0].item.uri == "images/blue.png"
    others, _ = ask(index, "Which other pictures show this?", "So.", **asked)
    assert "images/blue.png" not in {source.item.uri for source in others.sources}


def test_a_writer_that_does_not_see_is_told_what_a_model_says_of_the_picture(index, colours):
    for caption, told in (("teller:1", "a model says of it"), ("", None)):
        options = {"pipeline": recipe(caption=caption), "image": colours / "blue.png", "k": 3}
        _, writer = ask(index, "What is this?", "So.", **options)
        assert (told or "Question") in writer.asked[0][-1].text
        assert ("a model says of it" in writer.asked[0][-1].text) == bool(told)


def test_cancelling_keeps_what_was_written(index):
    cancel = threading.Event()
    written = []
    writer = ToyWriter()
    for event in mmrag.ask(index, "What is red?", generator=writer, pipeline=recipe(), cancel=cancel, stream=True):
        if isinstance(event, Wrote):
            written.append(event.text)
            cancel.set()
    assert event.answer.end == "cancelled"
    assert event.answer.text == "".join(written)
    assert writer.written < 5


def test_length_ends_it(index):
    answer, _ = ask(index, "What is red?", ToyWriter(), sampling=Sampling(max_tokens=3))
    assert answer.end == "length"
    assert answer.evidence


def test_what_cannot_be_asked(index):
    with pytest.raises(QueryError, match="the question is empty"):
        mmrag.ask(index, " \n", stream=True)
    with pytest.raises(ModelError, match="teller describes pictures only and cannot answer from sources"):
        mmrag.ask(index, "What is red?", generator=ToyTeller())
    with pytest.raises(QueryError, match=r"(?s)nothing here has the fact colour.*\n  colour = .red."):
        mmrag.ask(index, "What is red?", where="colour = 'red'", generator=ToyWriter())


def test_who_writes(index, monkeypatch):
    monkeypatch.setattr(asking, "default_generator", lambda: None)
    assert choose_writer(index, None).name == choose_writer(index, "extractive").name == "extractive"
    writer = ModelWriter(ToyWriter())
    assert choose_writer(index, writer) is writer
    monkeypatch.setattr(asking, "default_generator", lambda: "teller:1")
    with pytest.raises(ModelError, match="describes pictures only"):
        choose_writer(index, None)


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ("What is the dog doing on the beach?", "dog doing beach"),
        ("How many children are there in the pool?", "children pool"),
        ("Which other pictures show this place?", "place"),
        ("What is it?", ""),
        ("海滩上有什么？", "海滩上有什么？"),
    ],
)
def test_what_only_makes_a_question_is_not_looked_for(question, words):
    assert asked_words(question) == words


def test_a_recipe_says_how_questions_are_answered(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[answer]\nk = 3\ngenerator = "extractive"\nattribute = false\n')
    assert load_pipeline(str(path)).answer == AnswerOptions(k=3, generator="extractive", attribute=False)
    path.write_text("[answer]\nk = 0\n")
    with pytest.raises(QueryError.__mro__[1], match="k is a whole number of at least 1, not 0"):
        load_pipeline(str(path))


def test_pictures_are_set_into_the_answer(colours):
    index = mmrag.create(".", model="judge:1")
    index.add("images")
    answer, _ = ask(index, "What is red?", "Nobody knows why. A red wall.", illustrate=True, matcher="judge:1")
    assert [(one.item.uri, one.sentence) for one in answer.placements] == [("images/red.png", 1)]
    assert (answer.steps[-1].kind, answer.steps[-1].found) == ("illustrate", 1)
    assert [one.uri for one in answer.images] == ["images/red.png"]


def test_pictures_stand_while_it_is_written_and_the_last_that_is_told_holds(colours, monkeypatch):
    from mmrag.compose.illustrate import Illustrator

    index = mmrag.create(".", model="judge:1")
    index.add("images")
    feed = Illustrator.feed

    def feed_and_wait(self, sentence, span):
        feed(self, sentence, span)
        self.placements()

    monkeypatch.setattr(Illustrator, "feed", feed_and_wait)
    writer = ToyWriter("A red wall. Nobody knows why. A blue wall. Nor how.")
    options = recipe(illustrate=True, attribute=False)
    events = list(mmrag.ask(index, "What?", generator=writer, pipeline=options, matcher="judge:1", stream=True))
    told = [event for event in events if isinstance(event, Placed | Done)]
    assert [[one.item.uri for one in event.placements] for event in told[:-1]] == [
        ["images/red.png"],
        ["images/red.png", "images/blue.png"],
    ]
    answer = told[-1].answer
    assert told[-2].placements == answer.placements
    assert [answer.text[slice(*one.span)] for one in answer.placements] == ["A red wall.", "A blue wall."]
    assert events.index(told[0]) < max(at for at, event in enumerate(events) if isinstance(event, Wrote))


def test_who_cancels_waits_for_no_captions_and_no_pictures(index):
    cancel = threading.Event()
    cancel.set()
    teller = ToyTeller()
    index.generator(teller)
    answer, writer = ask(
        index, "What is green?", "Green.", cancel=cancel, illustrate=True, pipeline=recipe(caption="teller:1", k=12)
    )
    assert (answer.text, answer.end, answer.placements) == ("", "cancelled", ())
    assert "caption" not in {step.kind for step in answer.steps}
    assert (teller.told, writer.written) == (0, 0)


def test_it_is_searched_again_while_it_is_written(index):
    writer = ToyWriter(["The green wall.", "The green door is old."], unsure={" green"})
    answer, _ = ask(index, "What is red?", writer, k=1, active=True)
    assert "retrieve" in {step.kind for step in answer.steps}
    assert [source.number for source in answer.sources] == list(range(1, len(answer.sources) + 1))
    assert "green.note" in {source.item.uri for source in answer.sources}
    assert len({source.item.id for source in answer.sources}) == len(answer.sources)


def test_sentences_that_say_nothing_are_searched_for_by_nobody(index):
    answer, _ = ask(index, "What is red?", ToyWriter("It is. A red wall.", unsure={"It"}), active=True, illustrate=True)
    assert answer.text.startswith("It is.")
    assert answer.end == "stop"


def test_a_picture_is_looked_for_alone_where_the_words_say_nothing(index, colours):
    answer, _ = ask(index, "But is this so?", "So.", image=colours / "blue.png", k=1, where="width > 0")
    assert [source.item.uri for source in answer.sources] == ["images/blue.png"]
    with pytest.raises(QueryError, match="says nothing by itself"):
        ask(index, "But is this so?", "So.")


def test_words_that_say_nothing_are_searched_for_in_vain_while_it_is_written(index):
    writer = ToyWriter("They sleep.", unsure={"sleep."})
    answer, _ = ask(index, "What is red?", writer, k=1, active=True)
    assert [(step.detail, step.found) for step in answer.steps if step.kind == "retrieve"] == [("They", 0)]
    assert answer.text.startswith("They sleep.")


def test_pictures_that_are_found_while_it_is_written_are_shown(index):
    writer = ToyWriter(["The green wall.", "The green door."], unsure={"wall."}, sees=True)
    answer, _ = ask(index, "What is red?", writer, active=True, pipeline=recipe(k=2))
    seen = [source for source in answer.sources if source.seen]
    assert len(seen) > len(writer.asked[0][-1].images) > 0
    assert len(writer.asked[-1][-1].images) == len(seen)


def test_where_words_cannot_be_indexed_vectors_alone_find(index, monkeypatch, caplog):
    monkeypatch.setattr("mmrag.stores.serving._WAIT_SECONDS", 0.05)
    with write_lock(index.folder):
        hits = Retriever(index, recipe(k=2)).find("red")
    assert [hit.item.uri for hit in hits] == ["red.note", "images/red.png"]
    assert {hit.kind for hit in hits} == {"cosine"}
    assert "the words of items are not looked at" in caplog.text
    assert {hit.kind for hit in Retriever(index, recipe(k=2)).find("red")} == {"rrf"}


@pytest.mark.parametrize(
    ("kind", "text", "chance", "likely"),
    [
        ("cosine", None, 0.1, True),
        ("cosine", None, 0.04, False),
        ("cosine", "Roscoff", 0.6, False),
        ("cosine", "Roscoff", 0.8, True),
        ("match", "Roscoff", 0.6, True),
        ("match", None, 0.4, False),
    ],
)
def test_how_likely_a_picture_must_be_depends_on_who_says_so(kind, text, chance, likely):
    calibration = Calibration(bias=-4, cosine=10, words=0, least=0.05)
    hit = Hit(1, 1.0, kind, Item("a.jpg", text=text), parts={"probability": chance})
    assert seen_likely(hit, calibration) is likely


def test_pictures_far_from_the_one_that_is_asked_about_are_left_out():
    hits = [Hit(n, 1.0, "cosine", Item(f"{n}.jpg"), parts={"cosine": c}) for n, c in ((1, 0.8), (2, 0.5), (3, 0.3))]
    assert [one.number for one in nearest_pictures(as_sources(hits))] == [1, 2]
