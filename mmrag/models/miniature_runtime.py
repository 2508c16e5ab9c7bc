"""The model that ships, in all its roles, on ONNX Runtime: it embeds, and by its Miniature judges and describes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from mmrag import recipe
from mmrag.errors import InputError, ModelError
from mmrag.models.blip_words import check_questions
from mmrag.models.engines import OnnxRuntimeSession
from mmrag.models.miniature_files import (
    END,
    LOOK_NAME,
    PAD,
    SETTINGS_NAME,
    START,
    TOKENIZER_NAME,
    UNKNOWN,
    WORDS_NAME,
    MiniatureSettings,
)
from mmrag.models.onnx import OnnxEncoder, pixel_input
from mmrag.models.tokens import Tokens, encode, read_tokenizer
from mmrag.models.writing import NextScores, beam_search, check_writing, sample, without
from mmrag.roles import Generator, Judgement, Matcher, Scores, Vectors, Wanted

if TYPE_CHECKING:
    from PIL.Image import Image
    from tokenizers import Tokenizer

TOKENS_AT_ONCE = 768
"""How many tokens of texts go through the network at once."""

PICTURES_AT_ONCE = 16
"""How many pictures are judged at once, where few texts are judged with each."""

A = TypeVar("A")
B = TypeVar("B")


class MiniatureRuntime(OnnxEncoder, Matcher, Generator):
    """An encoder whose image tower also gives what a Miniature looks at.

    A picture's features are what the Miniature keeps of its cells, and behind them its vector, filled up to whole
    rows: ``(cells + rows, width)``.

    Parameters
    ----------
    folder : path
        A model folder, as `mmrag.models.folder` and `mmrag.models.miniature_files` describe it.
    precision, text_precision
        As for `OnnxEncoder`; judging and describing is in single precision.

    Raises
    ------
    ModelError
        If a file is missing or damaged, or the precision cannot be had.
    """

    feature_shape: tuple[int, int]

    def __init__(self, folder: Path, *, precision: str | None = None, text_precision: str | None = None) -> None:
        super().__init__(folder, precision=precision, text_precision=text_precision)
        self.settings = recipe.load(folder / SETTINGS_NAME, MiniatureSettings)
        self._cells, self._width = self.settings.network.cells, self.settings.network.width
        self.feature_shape = (self._cells + -(-self.card.dimension // self._width), self._width)

    def features(self, items: Sequence[Image]) -> Vectors:  # type: ignore[override]
        """See pictures: float32 ``(n, *feature_shape)``."""
        return self._in_batches(items, self._features, self.feature_shape)

    def _features(self, images: Sequence[Image]) -> Vectors:
        session = self._towers["vision"].session
        pixels = np.stack([self.preprocess(image) for image in images])
        vectors, grid = session.outputs(pixel_input(session, pixels), ["image_embeds", "image_grid"])
        if grid.shape[1:] != (self._cells, self._width):
            raise ModelError(
                f"the image tower of {self.card.name} gives {grid.shape[1:]} of a picture, and {SETTINGS_NAME} says "
                f"{(self._cells, self._width)}; export or install the model again"
            )
        rows = np.zeros((len(images), self.feature_shape[0] - self._cells, self._width), dtype=np.float32)
        rows.reshape(len(images), -1)[:, : self.card.dimension] = self._checked(
            vectors, (len(images), self.card.dimension)
        )
        return np.concatenate([grid, rows], axis=1)

    def match(
        self, texts: Sequence[str], features: Sequence[Vectors], wanted: Wanted | None = None, *, cosines: bool = True
    ) -> Judgement:
        """Judge pairs of texts and pictures; parameters and result as those of `Matcher.match`.

        The logit is the calibrated one of ``miniature.toml``, the probability that of the network's "match" alone.
        Of a text in which it knows no word, the logit is 0 for every picture: the cosine then decides.
        """
        wanted = self._pairs(texts, features, wanted)
        matches, likelihoods = (np.full(wanted.shape, np.nan, dtype=np.float32) for _ in range(2))
        seen = self._seen(features)
        ids = self._ids(texts)
        known = np.array([any(token != self._token(UNKNOWN) for token in one[1:-1]) for one in ids], dtype=bool)
        judge = partial(self._judge, ids, seen, matches, likelihoods)
        self._each(judge, _blocks(wanted & known[:, None], [len(one) for one in ids]))
        for values in (matches, likelihoods):
            values[wanted & ~known[:, None]] = 0
        judging = self.settings.judging
        logits = judging.match * matches + (judging.likelihood * likelihoods if judging.likelihood else 0)
        probabilities = 1 / (1 + np.exp(-matches.astype(np.float64)))
        itc = np.where(wanted, self._cosines(texts, seen), np.nan).astype(np.float32) if cosines else None
        return Judgement(logits.astype(np.float32), probabilities.astype(np.float32), itc)

    def _seen(self, features: Sequence[Vectors]) -> Vectors:
        wrong = {np.shape(one) for one in features} - {self.feature_shape}
        if wrong:
            raise InputError(
                f"features have the shape {wrong.pop()}, not {self.feature_shape}; "
                f"make them with `features` of {self.card.name}"
            )
        return np.asarray(features, dtype=np.float32).reshape(len(features), *self.feature_shape)

    def _cosines(self, texts: Sequence[str], seen: Vectors) -> Scores:
        room = (self.feature_shape[0] - self._cells) * self._width
        vectors = seen[:, self._cells :].reshape(len(seen), room)[:, : self.card.dimension]
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)  # kept on the disk, they are rounded
        found: Scores = self.encode_text(texts) @ (vectors / np.maximum(norms, 1e-12)).T
        return found

    def _judge(self, ids: list[list[int]], seen: Vectors, matches: Scores, likelihoods: Scores, block: _Block) -> None:
        memory = self._look(seen[block.pictures, : self._cells])
        names = ["match_logits", "log_likelihoods"][: 2 if self.settings.judging.likelihood else 1]
        for rows in block.turns:  # (pictures, texts), -1 where a picture has fewer
            tokens = _filled([ids[row] if row >= 0 else [] for row in rows.ravel()])
            found = self._words.outputs({"input_ids": tokens.reshape(*rows.shape, -1), "memory": memory}, names)
            at = rows >= 0
            place = rows[at], np.repeat(block.pictures, rows.shape[1]).reshape(rows.shape)[at]
            matches[place] = found[0][at]
            if len(found) > 1:
                written = np.maximum((tokens != 0).sum(axis=1) - 1, 1).reshape(rows.shape)
                likelihoods[place] = (found[1].sum(axis=2) / written)[at]

    def caption(
        self,
        images: Sequence[Image],
        *,
        prompt: str = "",
        beams: int = 3,
        nucleus: float | None = None,
        max_tokens: int = 30,
        seed: int | None = None,
    ) -> list[str]:
        """Describe pictures; parameters and result as those of `Generator.caption`.

        A caption depends on its picture and its place in the list, and not on the other pictures.
        """
        check_writing(beams, max_tokens, nucleus)
        (ids,) = self._ids([prompt])
        start = ids[:-1]
        room = min(max_tokens, self.settings.network.max_tokens - len(start))
        randoms = np.random.default_rng(seed).spawn(len(images))

        def write(number: int) -> str:
            likely, end = self._next_scores(grids[number]), self._token(END)
            if nucleus is None:
                options = self.settings.writing
                found = beam_search(likely, start, end=end, max_tokens=room, beams=beams, writing=options)
            else:
                random = randoms[number]
                found = sample(likely, start, end=end, max_tokens=room, nucleus=nucleus, random=random)
            caption: str = self._word_tokenizer.decode([*start, *found])
            return caption.strip()

        grids = self.features(images)[:, : self._cells]
        return self._each(write, range(len(images)))

    def answer(  # noqa: D102
        self,
        images: Sequence[Image],  # noqa: ARG002
        questions: Sequence[str],  # noqa: ARG002
        *,
        beams: int = 3,  # noqa: ARG002
        max_tokens: int = 10,  # noqa: ARG002
    ) -> list[str]:
        raise ModelError(f"{self.card.name} describes pictures and answers nothing; blip:Salesforce/blip-vqa-base does")

    def rank_answers(self, images: Sequence[Image], questions: Sequence[str], answers: Sequence[str]) -> Scores:
        """Tell how likely each of a list of answers is to follow a question, as the end of a caption.

        Parameters and result as those of `Generator.rank_answers`; a question may be empty.
        """
        check_questions(images, questions)
        if not answers or not images:
            return np.empty((len(images), len(answers)), dtype=np.float32)
        endings = [one[1:] for one in self._ids(answers)]
        grids = self.features(images)[:, : self._cells]

        def rank(number: int) -> Scores:
            (ids,) = self._ids([questions[number]])
            tokens = _filled([[*ids[:-1], *ending] for ending in endings])
            if tokens.shape[1] > self.settings.network.max_tokens:
                raise InputError(f"{self.card.name} reads {self.settings.network.max_tokens} tokens; ask less")
            memory = self._look(grids[number : number + 1])
            (found,) = self._words.outputs({"input_ids": tokens[None], "memory": memory}, ["log_likelihoods"])
            likelihoods: Scores = found[0, :, len(ids) - 2 :].sum(axis=1)  # of what comes after the question
            return likelihoods

        return np.stack(self._each(rank, range(len(images))))

    def _next_scores(self, grid: Vectors) -> NextScores:
        """Tell what may follow given tokens in a text about a picture; no special token but the end."""
        memory = self._look(grid[None])

        def scores(ids: Tokens) -> Scores:
            given: dict[str, npt.NDArray[Any]] = {"input_ids": ids[None], "memory": memory}
            found: Scores = self._words.outputs(given, ["next_log_probabilities"])[0][0]
            return found

        return without(scores, [self._token(name) for name in (PAD, START, UNKNOWN)])

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [one.ids for one in encode(self._word_tokenizer, texts)] if texts else []

    def _token(self, name: str) -> int:
        number = self._word_tokenizer.token_to_id(name)
        if number is None:
            raise ModelError(f"{self.folder / TOKENIZER_NAME} has no token {name}; export or install the model again")
        return int(number)

    def _each(self, work: Callable[[A], B], things: Iterable[A]) -> list[B]:
        """Do as many pieces of work at a time as there are cores; a network keeps to one of them."""
        with ThreadPoolExecutor(self.streams, thread_name_prefix="mmrag-words") as pool:
            return list(pool.map(work, things))

    def _look(self, grids: Vectors) -> npt.NDArray[np.float32]:
        """(pictures, cells, width) → keys and values."""
        return self._looking.outputs({"image_grid": grids}, ["memory"])[0]

    @cached_property
    def _looking(self) -> OnnxRuntimeSession:
        return OnnxRuntimeSession(self.folder / LOOK_NAME, quick=False)

    @cached_property
    def _words(self) -> OnnxRuntimeSession:
        return OnnxRuntimeSession(self.folder / WORDS_NAME, quick=False, outputs=["match_logits"])

    @cached_property
    def _word_tokenizer(self) -> Tokenizer:
        tokenizer = read_tokenizer(self.folder, self.settings.network.max_tokens, name=TOKENIZER_NAME)
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # "[SEP]" in a text is a word, and no command
        return tokenizer


@dataclass(frozen=True)
class _Block:
    """Pictures that are looked at together, and which texts to judge with each.

    Attributes
    ----------
    pictures : list of int
        Their numbers.
    turns : list of int64 ``(pictures, texts)``
        Numbers of texts, -1 where a picture has fewer.
    """

    pictures: list[int]
    turns: list[npt.NDArray[np.int64]]


def _blocks(wanted: Wanted, lengths: Sequence[int]) -> Iterator[_Block]:
    """Divide pairs so that no turn has more than `TOKENS_AT_ONCE` tokens, filled up ones counted."""
    by_length = np.argsort(lengths, kind="stable")
    texts = [by_length[wanted[by_length, picture]] for picture in range(wanted.shape[1])]
    some: list[int] = []
    for picture in sorted((n for n, mine in enumerate(texts) if len(mine)), key=lambda n: len(texts[n])):
        longest = max(lengths[texts[one][-1]] for one in [*some, picture])
        if some and (len(some) == PICTURES_AT_ONCE or (len(some) + 1) * len(texts[picture]) * longest > TOKENS_AT_ONCE):
            yield _block(some, texts, lengths)
            some = []
        some.append(picture)
    if some:
        yield _block(some, texts, lengths)


def _block(pictures: list[int], texts: Sequence[npt.NDArray[np.int64]], lengths: Sequence[int]) -> _Block:
    most = len(texts[pictures[-1]])
    rows = np.full((len(pictures), most), -1, dtype=np.int64)
    for row, picture in enumerate(pictures):
        rows[row, : len(texts[picture])] = texts[picture]
    longest = max(lengths[texts[picture][-1]] for picture in pictures)
    at_once = most if len(pictures) > 1 else max(1, TOKENS_AT_ONCE // longest)
    return _Block(pictures, [rows[:, first : first + at_once] for first in range(0, most, at_once)])


def _filled(ids: Sequence[Sequence[int]]) -> Tokens:
    """Lay tokens out as int64 ``(n, t)``, filled up on the right with 0."""
    filled = np.zeros((len(ids), max(len(one) for one in ids)), dtype=np.int64)
    for row, one in enumerate(ids):
        filled[row, : len(one)] = one
    return filled
