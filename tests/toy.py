"""A model that can be checked by hand: a picture is its mean colour, a text is the colour it names."""

from __future__ import annotations

import random
import re
import time
from dataclasses import replace
from itertools import cycle, islice

import numpy as np

from mmrag.models.cards import Calibration, Card
from mmrag.models.chatting import check_turns, too_long, too_slow
from mmrag.roles import Encoder, Generator, Identity, Judgement, Matcher, Piece, Sampling, TokenHeat

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 128, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
}


class ToyEncoder(Encoder):
    """Unit vectors ``(r, g, b, 0.5)`` of colours from 0 to 1."""

    decode_at_least = 8

    def __init__(self, revision: str = "1") -> None:
        self.card = Card(name="toy", family="toy", revision=revision, dimension=4, max_tokens=8, languages=("en",))
        self.identity = Identity("toy", revision, "none", "mean colour", 4)
        self.embedded = 0

    def preprocess(self, image):
        return np.asarray(image.resize((8, 8)), dtype=np.float32).transpose(2, 0, 1) / 255

    def _embed_pixels(self, pixels):
        self.embedded += len(pixels)
        return _unit(pixels.mean(axis=(2, 3)))

    def _embed_text(self, texts):
        return _unit(_named(texts) / 255)


class ToyJudge(ToyEncoder, Matcher):
    """Looks at 64 pixels: the logit is 8 times the share of those that have the colour of the text, less 4.

    Attributes
    ----------
    looked, judged, compared : int
        How many pictures it has looked at, pairs it has judged, and calls that asked for its own cosines.
    """

    feature_shape = (64, 3)

    def __init__(self, revision: str = "1") -> None:
        super().__init__(revision)
        self.card = replace(self.card, roles=("encoder", "matcher"))
        self.looked = self.judged = self.compared = 0

    def features(self, items):
        self.looked += len(items)
        return np.stack([self.preprocess(item) for item in items]).reshape(len(items), 3, 64).transpose(0, 2, 1)

    def match(self, texts, features, wanted=None, *, cosines=True):
        assert features.dtype == np.float32
        wanted = np.ones((len(texts), len(features)), bool) if wanted is None else wanted
        self.judged += int(wanted.sum())
        self.compared += cosines
        near = np.abs(features[None] * 255 - _named(texts)[:, None, None]).max(axis=3) < 40  # (texts, items, 64)
        logits = np.where(wanted, 8 * near.mean(axis=2) - 4, np.nan).astype(np.float32)
        own = np.where(wanted, self.encode_text(texts) @ _unit(features.mean(axis=1)).T, np.nan)
        return Judgement(logits, 1 / (1 + np.exp(-logits)), own.astype(np.float32) if cosines else None)

    def explain_match(self, text, image):
        tokens = tuple(word for word in text.split() if word in COLOURS)
        if not tokens:
            return super().explain_match(text, image)
        pixels = self.preprocess(image).transpose(1, 2, 0) * 255
        near = np.abs(pixels - _named(tokens)[:, None, None]).max(axis=3) < 40
        return TokenHeat(tokens, near.astype(np.float32))


class ExplainingEncoder(ToyEncoder):
    """Tells the cosine of every pixel, of 8 × 8."""

    def __init__(self) -> None:
        super().__init__("explained")

    def explain(self, image, query_vector):
        pixels = self.preprocess(image).transpose(1, 2, 0).reshape(64, 3)
        return (_unit(pixels) @ query_vector).reshape(8, 8)


class ToyReader(Matcher):
    """Reads texts only: the logit is the number of words that two texts share."""

    def __init__(self) -> None:
        self.card = Card(
            "toy-reader", "toy-reader", "1", dimension=1, roles=("matcher",), modalities=("text",), languages=("en",)
        )
        self.identity = Identity("toy-reader", "1", "none", "words", 1)

    def features(self, items):
        return items

    def match(self, texts, features, wanted=None, *, cosines=True):
        shared = [[len(set(text.split()) & set(item.split())) for item in features] for text in texts]
        logits = np.array(shared, dtype=np.float32)
        return Judgement(logits, 1 / (1 + np.exp(-logits)))


class ToyTeller(ToyEncoder, Generator):
    """Names the colour of a picture in beam search; sampling, it is right with an even seed and says "green" else.

    Attributes
    ----------
    told : int
        How many pictures it has described.
    """

    def __init__(self, revision: str = "1") -> None:
        super().__init__(revision)
        self.card = replace(self.card, name="teller", roles=("generator",))
        self.told = 0

    def caption(self, images, *, prompt="", beams=3, nucleus=None, max_tokens=30, seed=None):
        self.told += len(images)
        means = [self.preprocess(image).mean(axis=(1, 2)) * 255 for image in images]
        names = [min(COLOURS, key=lambda name: np.abs(np.array(COLOURS[name]) - mean).sum()) for mean in means]
        return [f"{prompt} {'green' if nucleus and (seed or 0) % 2 else name}".strip() for name in names]

    def answer(self, images, questions, *, beams=3, max_tokens=10):
        raise NotImplementedError

    def rank_answers(self, images, questions, answers):
        raise NotImplementedError


class ToyWriter(Generator):
    """Says what it is told to, a word at a time; by default the words of the last turn, over and over.

    A token is a word with the white space before it; a turn has two more, and a picture four. With a temperature the
    words come in an order that depends on the seed.

    Parameters
    ----------
    says : str, list of str, or callable
        All that it says; or what it says each time it is asked, the last for ever; or what makes that of the turns.
    pause : float
        Seconds before each piece.
    sees : bool
        Whether turns may have pictures.
    unsure : set of str
        Words whose logprob is -5; that of others is -.1.

    Attributes
    ----------
    asked : list
        The turns that it was given, each time.
    written : int
        How many pieces it has written in all.
    """

    chats = True
    image_tokens = 4

    def __init__(self, says=None, *, pause=0.0, sees=False, context_tokens=2048, unsure=()):
        modalities = ("image", "text") if sees else ("text",)
        self.card = Card(
            *("writer", "writer", "1"), dimension=0, roles=("generator",), modalities=modalities,
            max_tokens=context_tokens, languages=("en",),
        )  # fmt: skip
        self.identity = Identity("writer", "1", "none", "words", 0)
        self._says, self._pause, self._unsure = says, pause, frozenset(unsure)
        self.asked, self.written = [], 0

    def count_turns(self, turns):
        check_turns(self, turns)
        return sum(len(_tokens(turn.text)) + 2 + self.image_tokens * len(turn.images) for turn in turns)

    def generate(self, turns, sampling=None, *, cancel=None):
        sampling = sampling or Sampling()
        check_turns(self, turns)
        self.asked.append(list(turns))
        count = self.count_turns(turns)
        if count >= self.context_tokens:
            raise too_long(self, count)
        tokens, room = self._reply(turns), min(sampling.max_tokens, self.context_tokens - count)
        if sampling.temperature:
            random.Random(sampling.seed).shuffle(tokens)  # noqa: S311
        length = room if self._says is None else len(tokens)
        yield from self._write(list(islice(cycle(tokens), length)), room, sampling, cancel)

    def _reply(self, turns):
        if callable(self._says):
            return _tokens(self._says(turns))
        if isinstance(self._says, list):
            return _tokens(self._says[min(len(self.asked), len(self._says)) - 1])
        return _tokens(self._says if self._says is not None else f" {turns[-1].text}")

    def _write(self, tokens, room, sampling, cancel):
        whole = "".join(tokens[:room])
        cuts = [whole.index(stop) for stop in sampling.stop if stop in whole]
        end, start = min(cuts, default=len(whole)), time.monotonic()
        at = 0
        for token in tokens[:room]:
            time.sleep(self._pause)
            if cancel is not None and cancel.is_set():
                yield Piece("", None, "cancelled")
                return
            if time.monotonic() - start > sampling.seconds:
                raise too_slow(self, sampling.seconds)
            piece, at = token[: max(end - at, 0)], at + len(token)
            self.written += 1
            if piece:
                yield Piece(piece, -5.0 if token.strip() in self._unsure else -0.1)
            if at >= end:
                break
        yield Piece("", None, "stop" if cuts or (self._says is not None and len(tokens) <= room) else "length")


class HalvesEncoder(ToyEncoder):
    """A picture has two vectors: those of its left half and of its right half."""

    def __init__(self) -> None:
        super().__init__("halves")
        self.card = replace(self.card, vectors=2)
        self.identity = replace(self.identity, vectors=2)

    def _embed_pixels(self, pixels):
        self.embedded += len(pixels)
        return np.stack([_unit(pixels[..., :4].mean(axis=(2, 3))), _unit(pixels[..., 4:].mean(axis=(2, 3)))], axis=1)


def _tokens(text):
    return re.findall(r"\s*\S+|\s+$", text)


def _named(texts):
    grey = (128, 128, 128)
    named = [next((COLOURS[word] for word in text.lower().split() if word in COLOURS), grey) for text in texts]
    return np.array(named, dtype=np.float32)


def _unit(rgb):
    vectors = np.concatenate([rgb, np.full((len(rgb), 1), 0.5)], axis=1).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class CalibratedEncoder(ToyEncoder):
    """Whose hits are more likely to match than not from a cosine of .8 on."""

    def __init__(self) -> None:
        super().__init__("calibrated")
        self.card = replace(self.card, calibration=Calibration(bias=-20, cosine=25, words=0, least=0.5))


def open_toy(reference: str) -> ToyEncoder:
    kinds = {"calibrated": CalibratedEncoder, "explained": ExplainingEncoder, "halves": HalvesEncoder}
    return kinds[reference]() if reference in kinds else ToyEncoder(reference or "1")


def open_judge(reference: str) -> ToyJudge:
    return ToyJudge(reference or "1")


def open_reader(reference: str) -> ToyReader:
    return ToyReader()


def open_teller(reference: str) -> ToyTeller:
    return ToyTeller(reference or "1")


def open_writer(reference: str) -> ToyWriter:
    return ToyWriter(reference or None)
