"""What a model promises in each role it plays.

Encoder: pictures or words → unit vectors. Matcher: (text, item) pairs → how well they match. Generator: pictures and
words → words. One model may play several roles, with one network.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt

from mmrag.errors import InputError, ModelError
from mmrag.machine import usable_cores

if TYPE_CHECKING:
    from threading import Event

    from PIL.Image import Image

    from mmrag.models.cards import Card

PRECISIONS = ("fp32", "bf16", "fp16", "int8")
DEVICES = ("auto", "cpu", "cuda", "mps")

_READS_ONLY = "reads texts only; a model that sees pictures is needed: mmrag models"
_SEES_ONLY = "sees pictures only; search by a picture (--image FILE), or take a model that reads words: mmrag models"

_DESCRIBES_ONLY = "describes pictures only; a language model is needed, such as smollm2: mmrag models pull smollm2"
_SEES_NOTHING = "sees no pictures; a generator that does is needed, such as builtin or blip2-opt-2.7b: mmrag models"

_ASCII_WORDS = re.compile(r"[A-Za-z0-9]+")
_SIGNS = re.compile(r"\S")

Vectors = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.float32]
Scores = npt.NDArray[np.float32]
Wanted = npt.NDArray[np.bool_]
Heat = npt.NDArray[np.float32]
"""How much each cell of a picture has to do with something, ``(rows, columns)``, over the whole picture."""


@dataclass(frozen=True)
class Identity:
    """Who wrote a vector: two vectors compare only if all of these are equal."""

    name: str
    revision: str
    weights: str
    preprocessing: str
    dimension: int
    vectors: int = 1

    def difference(self, other: Identity) -> str | None:
        """Name the first field in which `other` differs, with both values; None if none does."""
        for one in fields(self):
            mine, theirs = getattr(self, one.name), getattr(other, one.name)
            if mine != theirs:
                return f"{one.name} {mine!r} against {theirs!r}"
        return None


class Model(ABC):
    """A network, whatever its roles. Every method may be called from several threads at once.

    Attributes
    ----------
    card : Card
        What the model is.
    identity : Identity
        What must be equal for two sets of results to be comparable.
    elsewhere : mapping of str to str
        For roles that only other models of its family play: a name of one that does.
    batch : int
        How many pictures or texts go through the network at once.
    decode_at_least : int or None
        The side, in pixels, that pictures are shrunk to; decoders may then skip finer detail.
    """

    card: Card
    identity: Identity
    elsewhere: ClassVar[Mapping[str, str]] = MappingProxyType({})
    batch: int = 16
    decode_at_least: int | None = None

    @property
    def engine(self) -> str:
        """What computes. Not part of the identity: ways that agree are interchangeable."""
        return self.card.family

    @property
    def precision(self) -> str:
        """What it computes in: one of `PRECISIONS`."""
        return "fp32"

    @property
    def device(self) -> str:
        """Where it computes: "cpu", "cuda" or "mps"."""
        return "cpu"

    def verify(self) -> None:  # noqa: B027
        """Check that the model's files are the ones its card describes; asked before indexing.

        Raises
        ------
        ModelError
            If they are not.
        """

    def at_precision(self, precision: str) -> Self:
        """Give this model computing in one of `PRECISIONS`.

        Raises
        ------
        ModelError
            If it cannot be done with this model, or on this machine.
        """
        if precision != self.precision:
            raise ModelError(f"{self.card.name} runs in {self.precision} only, not in {precision}")
        return self

    def on_device(self, device: str) -> Self:
        """Give this model computing on "auto", "cpu", "cuda" or "mps".

        Raises
        ------
        ModelError
            If it cannot be done with this model, or on this machine.
        """
        if device not in ("auto", self.device):
            raise ModelError(f"{self.card.name} runs on {self.device} only, not on {device}")
        return self


class Encoder(Model):
    """Pictures and texts → unit vectors in one space.

    A family implements `preprocess`, `_embed_pixels` and `_embed_text`, or those of them that the modalities
    of its card need, and `_count_tokens` where it knows its tokens; batching and checks are here.
    """

    @property
    def streams(self) -> int:
        """How many batches go through the network at the same time: by default, each core computes one."""
        return usable_cores()

    def check_modality(self, modality: str) -> None:
        """Check that pictures ("image"), or texts ("text"), can be encoded.

        Raises
        ------
        ModelError
            If they cannot, with what can.
        """
        if modality not in self.card.modalities:
            raise ModelError(f"{self.card.name} {_READS_ONLY if modality == 'image' else _SEES_ONLY}")

    def prepare(self, *, words: bool) -> None:
        """Begin to load, beside the caller, what encoding will need: of words, or else of pictures."""

    def preprocess(self, image: Image) -> Pixels:  # noqa: ARG002
        """Turn an upright RGB picture into the network's input, float32 ``(3, height, width)``."""
        raise ModelError(f"{self.card.name} {_READS_ONLY}")

    def _embed_pixels(self, pixels: Pixels) -> Vectors:
        """Embed ``(n, 3, height, width)`` into ``(n, dimension)``, or ``(n, vectors, dimension)``; n ≤ `batch`."""
        raise NotImplementedError

    def _embed_text(self, texts: Sequence[str]) -> Vectors:  # noqa: ARG002
        """Embed n texts into ``(n, dimension)``, at most `batch` at once."""
        raise ModelError(f"{self.card.name} {_SEES_ONLY}")

    def _embed_query(self, texts: Sequence[str]) -> Vectors:
        """Embed n texts that are asked, where a model reads those in another way than what is stored."""
        return self._embed_text(texts)

    def encode_image(self, images: Sequence[Image]) -> Vectors:
        """Embed pictures.

        Parameters
        ----------
        images : sequence of PIL images
            Upright RGB pictures, as `mmrag.sources.image.read_image` gives them.

        Returns
        -------
        float32 ``(n, dimension)``
            Of unit length. ``(n, vectors, dimension)`` if the card says that a picture has several.
        """
        return self._in_batches(
            images,
            lambda some: self._encode_pixels(np.stack([self.preprocess(one) for one in some])),
            self._picture_shape,
        )

    def encode_pixels(self, pixels: Pixels) -> Vectors:
        """Embed preprocessed pictures ``(n, 3, height, width)`` as `encode_image` does."""
        return self._in_batches(pixels, self._encode_pixels, self._picture_shape)

    def encode_text(self, texts: Sequence[str]) -> Vectors:
        """Embed texts.

        Texts go through the network sorted by length, so that short ones are not padded to long ones.

        Parameters
        ----------
        texts : sequence of str
            What is longer than the card's `max_tokens` is cut, with a warning in the log.

        Returns
        -------
        float32 ``(n, dimension)``
            Of unit length, in the order given.
        """
        return self._encode_words(texts, self._embed_text)

    def encode_query(self, texts: Sequence[str]) -> Vectors:
        """Embed texts that are asked; most models read them as they read any text.

        Parameters and result as those of `encode_text`.
        """
        return self._encode_words(texts, self._embed_query)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens that `encode_text` would read of each text if none were cut, special ones included.

        A text of no more than the card's `max_tokens` is read whole.

        Raises
        ------
        InputError
            If it is one text, and no list.
        ModelError
            If the model reads no texts.
        """
        if isinstance(texts, str):
            raise InputError("count_tokens takes a list of texts; put the one text into a list")
        self.check_modality("text")
        return self._count_tokens(texts)

    def _count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Count tokens, or give more than there are: by default, about as many as any tokenizer could make."""
        return [most_tokens(text) for text in texts]

    def explain(self, image: Image, query_vector: Vectors) -> Heat:  # noqa: ARG002
        """Tell which cells of a picture are similar to what is asked, where a model can.

        Parameters
        ----------
        image : PIL image
            Upright RGB.
        query_vector : float32 ``(dimension,)``
            Of unit length, as `encode_query` gives it.

        Returns
        -------
        float32 ``(rows, columns)``
            Cosines of the cells with the query. They need not average to that of the whole picture.

        Raises
        ------
        ModelError
            If this model cannot tell.
        """
        raise ModelError(
            f"{self.card.name} does not tell where in a picture it finds something; the built-in model does, and so "
            "does a matcher of the family blip: --rerank blip-itm-base"
        )

    @property
    def _picture_shape(self) -> tuple[int, ...]:
        shape = (self.card.vectors, self.card.dimension)
        return shape if self.card.vectors > 1 else shape[1:]

    def _encode_words(self, texts: Sequence[str], embed: Callable[[Sequence[str]], Vectors]) -> Vectors:
        if isinstance(texts, str):
            raise InputError("encode_text takes a list of texts; put the one text into a list")
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        shape = (self.card.dimension,)
        vectors = np.empty((len(texts), *shape), dtype=np.float32)
        vectors[order] = self._in_batches(
            [texts[i] for i in order], lambda some: self._checked(embed(some), (len(some), *shape)), shape
        )
        return vectors

    def _encode_pixels(self, pixels: Pixels) -> Vectors:
        return self._checked(self._embed_pixels(pixels), (len(pixels), *self._picture_shape))

    def _in_batches(self, inputs: Any, encode: Callable[[Any], Vectors], shape: tuple[int, ...]) -> Vectors:
        """Encode as many batches at a time as `streams` says."""
        batches = [inputs[i : i + self.batch] for i in range(0, len(inputs), self.batch)]
        if len(batches) < 2:
            return encode(inputs) if batches else np.empty((0, *shape), dtype=np.float32)
        with ThreadPoolExecutor(self.streams, thread_name_prefix="mmrag-encode") as pool:
            return np.concatenate(list(pool.map(encode, batches)))

    def _checked(self, vectors: Vectors, shape: tuple[int, ...]) -> Vectors:
        if vectors.shape != shape:
            raise ModelError(f"{self.card.name} gave vectors of shape {vectors.shape}, not {shape} as its card says")
        if not np.isfinite(vectors).all():
            raise ModelError(f"{self.card.name} gave vectors that are not finite numbers")
        norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
        return np.asarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)


def most_tokens(text: str) -> int:
    """Count a token for each four letters or digits of a word and for every other sign, and one at either end."""
    words = _ASCII_WORDS.findall(text)
    others = len(_SIGNS.findall(_ASCII_WORDS.sub("", text)))
    return 2 + others + sum(-(-len(word) // 4) for word in words)


@dataclass(frozen=True)
class Judgement:
    """How well each of some texts matches each of some items; not a number where nobody asked.

    Attributes
    ----------
    logits : float32 ``(texts, items)``, or ``(pairs,)`` from `mmrag.search.judge.judge_pairs`
        The raw logit of "match".
    probabilities : float32, the same shape
        That they match, from 0 to 1.
    cosines : float32, the same shape, or None
        Of the model's own encoder, if it has one and somebody asked.
    """

    logits: Scores
    probabilities: Scores
    cosines: Scores | None = None

    @property
    def scores(self) -> Scores:
        """What items are ranked by: the logit, plus the cosine where there is one.

        As BLIP's and LAVIS's evaluation of retrieval rank (Li et al. 2022, section 5.1).
        """
        return self.logits if self.cosines is None else self.logits + self.cosines


@dataclass(frozen=True)
class TokenHeat:
    """How much each cell of a picture has to do with each token of a text.

    Attributes
    ----------
    tokens : tuple of str
        As the model reads them, without special ones.
    heats : float32 ``(tokens, rows, columns)``
        From 0; those of one text and picture compare.
    """

    tokens: tuple[str, ...]
    heats: npt.NDArray[np.float32]

    @property
    def whole(self) -> Heat:
        """Of the whole text: the mean over its tokens, ``(rows, columns)``."""
        return np.asarray(self.heats.mean(axis=0), dtype=np.float32)


class Matcher(Model):
    """(text, item) pairs → whether they match.

    What depends on an item alone is computed once, by `features`, and judged with any number of texts.

    Attributes
    ----------
    feature_shape : tuple of int or None
        Of one item's features, float32, worth keeping; None if an item is its own features.
    """

    feature_shape: tuple[int, ...] | None = None

    @abstractmethod
    def features(self, items: Sequence[Any]) -> Sequence[Any]:
        """Compute what texts are matched with: of pictures (upright RGB), or of texts, as the card's modalities say.

        Returns
        -------
        float32 ``(n, *feature_shape)``, or the texts themselves
        """

    @abstractmethod
    def match(
        self, texts: Sequence[str], features: Sequence[Any], wanted: Wanted | None = None, *, cosines: bool = True
    ) -> Judgement:
        """Judge pairs of texts and items.

        Parameters
        ----------
        texts : sequence of str
            What is longer than the card's `max_tokens` is cut, with a warning in the log.
        features : sequence
            n entries, as `features` gives them.
        wanted : bool ``(texts, n)`` or None
            Which pairs to judge; by default all.
        cosines : bool
            Whether to tell the cosines of its own encoder too; false where they are known already.

        Raises
        ------
        InputError
            If one text is given instead of a list, or `wanted` has another shape.
        """

    def explain_match(self, text: str, image: Image) -> TokenHeat:  # noqa: ARG002
        """Tell which cells of a picture make it match a text, token by token, where a model can.

        Raises
        ------
        ModelError
            If this model cannot tell.
        """
        raise ModelError(
            f"{self.card.name} does not tell why a picture matches; a matcher of the family blip does: "
            "--rerank blip-itm-base"
        )

    def _pairs(self, texts: Sequence[str], features: Sequence[Any], wanted: Wanted | None) -> Wanted:
        """Check what `match` was given, and say which pairs to judge, bool ``(texts, n)``."""
        if isinstance(texts, str):
            raise InputError("match takes a list of texts; put the one text into a list")
        shape = (len(texts), len(features))
        wanted = np.ones(shape, dtype=bool) if wanted is None else np.asarray(wanted, dtype=bool)
        if wanted.shape != shape:
            raise InputError(f"wanted has the shape {wanted.shape}, and not {shape}: a row per text, a column per item")
        return wanted


@dataclass(frozen=True)
class Turn:
    """What somebody has said in a conversation.

    Attributes
    ----------
    who : {"system", "user", "assistant"}
        A "system" turn tells the generator how to answer, and comes first if there is one.
    text : str
        The words.
    images : tuple of PIL images
        Upright RGB pictures that belong to them, in order; only a generator whose card says "image" takes any.
    """

    who: Literal["system", "user", "assistant"]
    text: str
    images: tuple[Image, ...] = ()


@dataclass(frozen=True)
class Sampling:
    """How words are chosen, and when to stop.

    Attributes
    ----------
    max_tokens : int
        How many tokens are written at most.
    temperature : float
        0 takes the likeliest token each time.
    nucleus : float
        Sample from the smallest set of tokens whose probabilities sum up to this (Holtzman et al. 2020).
    seed : int
        Decides what is sampled: the same seed gives the same words on the same machine.
    stop : tuple of str
        Texts that end the writing; they are not given.
    seconds : float
        How long it may take in all; a `GenerationError` then.
    """

    max_tokens: int = 256
    temperature: float = 0.0
    nucleus: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    seconds: float = 120.0

    def __post_init__(self) -> None:
        """Refuse what nothing can be written by."""
        bounds = (
            ("max_tokens", self.max_tokens, self.max_tokens >= 1, "at least 1"),
            ("temperature", self.temperature, self.temperature >= 0, "at least 0"),
            ("nucleus", self.nucleus, 0 < self.nucleus <= 1, "above 0 and at most 1"),
            ("seconds", self.seconds, self.seconds > 0, "above 0"),
        )
        for name, given, allowed, bound in bounds:
            if not allowed:
                raise InputError(f"{name} is {bound}, not {given:g}")
        if any(not text for text in self.stop):
            raise InputError("a stop text is empty, and would end the writing before it begins")


@dataclass(frozen=True)
class Piece:
    """Some words of what a generator writes, as they come.

    Attributes
    ----------
    text : str
        Whole characters; empty in a last piece that only tells the end.
    logprob : float or None
        The natural logarithm of the probability of its tokens, summed; None if the generator does not tell.
    end : {"stop", "length", "cancelled"} or None
        In the last piece alone, why it is the last: the generator was done (or met a stop text), `max_tokens` were
        written, or the caller wanted no more.
    """

    text: str
    logprob: float | None = None
    end: Literal["stop", "length", "cancelled"] | None = None


class Generator(Model):
    """Pictures and words → words.

    A family implements what it can do: `generate` if it `chats`; `caption`, `answer` and `rank_answers` if it sees.
    """

    @property
    def chats(self) -> bool:
        """Whether it can `generate`: go on from any conversation, as language models do."""
        return False

    @property
    def sees(self) -> bool:
        """Whether turns may have pictures."""
        return "image" in self.card.modalities

    @property
    def context_tokens(self) -> int:
        """How many tokens a conversation and what is written may have together; a picture counts `image_tokens`."""
        return self.card.max_tokens

    @property
    def image_tokens(self) -> int:
        """How many tokens a picture counts at most; 0 for what does not see."""
        return 0

    def count_turns(self, turns: Sequence[Turn]) -> int:  # noqa: ARG002
        """Count the tokens of a conversation as the network reads it, pictures and what stands between turns included.

        Raises
        ------
        ModelError
            If it does not chat.
        """
        raise ModelError(f"{self.card.name} {_DESCRIBES_ONLY}")

    def generate(
        self,
        turns: Sequence[Turn],  # noqa: ARG002
        sampling: Sampling | None = None,  # noqa: ARG002
        *,
        cancel: Event | None = None,  # noqa: ARG002
    ) -> Iterator[Piece]:
        """Go on with a conversation, piece by piece, as it is written. Leaving the iterator stops the writing.

        Parameters
        ----------
        turns : sequence of Turn
            The last one is the user's; or the assistant's, if that is how what is written begins.
        sampling : Sampling or None
            By default `Sampling()`.
        cancel : Event or None
            Once set, by any thread, the writing ends soon, with a last piece that says "cancelled".

        Yields
        ------
        Piece
            The last one, and no other, has an `end`.

        Raises
        ------
        InputError
            If there are no turns, the last is the system's, none is the user's, or pictures are given to what does not
            see.
        GenerationError
            If the conversation is longer than `context_tokens`, the writing takes too long, or a server is gone.
        ModelError
            If it does not chat.
        """
        raise ModelError(f"{self.card.name} {_DESCRIBES_ONLY}")

    def caption(
        self,
        images: Sequence[Image],  # noqa: ARG002
        *,
        prompt: str = "",  # noqa: ARG002
        beams: int = 3,  # noqa: ARG002
        nucleus: float | None = None,  # noqa: ARG002
        max_tokens: int = 30,  # noqa: ARG002
        seed: int | None = None,  # noqa: ARG002
    ) -> list[str]:
        """Describe pictures.

        Parameters
        ----------
        images : sequence of PIL images
            Upright RGB pictures.
        prompt : str
            What each caption begins with.
        beams : int
            Of beam search.
        nucleus : float or None
            Instead of beam search, sample from the smallest set of tokens whose probabilities sum up to
            this (Holtzman et al. 2020).
        max_tokens : int
            How many tokens are generated at most.
        seed : int or None
            Decides what is sampled.

        Raises
        ------
        ModelError
            If it does not see.
        """
        raise ModelError(f"{self.card.name} {_SEES_NOTHING}")

    def answer(
        self,
        images: Sequence[Image],  # noqa: ARG002
        questions: Sequence[str],  # noqa: ARG002
        *,
        beams: int = 3,  # noqa: ARG002
        max_tokens: int = 10,  # noqa: ARG002
    ) -> list[str]:
        """Answer a question about each picture, in the model's own words; a ModelError if it cannot."""
        raise ModelError(f"{self.card.name} {_SEES_NOTHING}")

    def rank_answers(self, images: Sequence[Image], questions: Sequence[str], answers: Sequence[str]) -> Scores:  # noqa: ARG002
        """Tell how likely each of a list of answers is for each picture and its question.

        Returns
        -------
        float32 ``(pictures, answers)``
            The natural logarithm of an answer's probability, over all its tokens.

        Raises
        ------
        ModelError
            If it cannot.
        """
        raise ModelError(f"{self.card.name} does not rank answers; BLIP-2 and InstructBLIP do: mmrag models")
