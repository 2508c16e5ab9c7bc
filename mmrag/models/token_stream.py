"""What a network of transformers' writes, token by token: chosen by our own chance, and stopped at any of them."""

from __future__ import annotations

import contextlib
import threading
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

import numpy as np

from mmrag.errors import GenerationError, MmragError
from mmrag.models.chatting import ChattingGenerator
from mmrag.models.network import TorchModel, import_torch
from mmrag.models.relay import LeftError, Listener
from mmrag.roles import Piece, Sampling, Turn

if TYPE_CHECKING:
    from torch import Tensor

_BROKEN = "\N{REPLACEMENT CHARACTER}"  # what decoders give for a part of a character


class Reading(NamedTuple):
    """What is to be written on from.

    Attributes
    ----------
    network : GenerationMixin of transformers'
        What writes.
    inputs : dict
        For its `generate`: a batch of one.
    max_tokens : int
        How many tokens it has room for.
    """

    network: Any
    inputs: dict[str, Any]
    max_tokens: int


class _Token(NamedTuple):
    id: int
    logprob: float


_Told: TypeAlias = _Token | Literal["stop", "length"]


class _Pen:
    """Chooses the tokens within transformers' `generate`, as a logits processor, and hands each on.

    Where nobody wants more, it leaves `generate` by raising `LeftError`.
    """

    def __init__(self, sampling: Sampling, listener: Listener[_Told]) -> None:
        self._sampling = sampling
        self._listener = listener
        self._random = np.random.default_rng(sampling.seed)
        self._ends: tuple[int, ...] = ()
        self._ended = False

    def run(self, generator: TokenGenerator, turns: Sequence[Turn]) -> None:
        """Write all."""
        try:
            with generator.running() as network:
                self._write(generator.prepare(network, turns, self._listener.check))
        except (LeftError, MmragError):
            raise
        except Exception as error:  # of torch, transformers and chat templates
            raise GenerationError(f"{generator.card.name} failed while it wrote: {error}") from error
        self._listener.give("stop" if self._ended else "length")

    def _write(self, reading: Reading) -> None:
        from transformers import LogitsProcessorList

        self._listener.check()
        ends = reading.network.generation_config.eos_token_id
        self._ends = tuple(ends) if isinstance(ends, (list, tuple)) else (ends,)
        reading.network.generate(
            **reading.inputs,
            do_sample=False,  # what is sampled is chosen here: torch has one chance for all threads
            num_beams=1,
            use_cache=True,
            max_new_tokens=min(self._sampling.max_tokens, reading.max_tokens),
            logits_processor=LogitsProcessorList([self]),  # behind those that the model's own settings ask for
        )

    def __call__(self, _: Tensor, scores: Tensor) -> Tensor:
        """Choose the token that follows, of ``(1, vocabulary)``."""
        self._listener.check()
        token = self._choose(scores[0])
        self._ended = token in self._ends
        if not self._ended:
            self._listener.give(_Token(token, float(scores[0].log_softmax(-1)[token])))
        if not self._sampling.temperature:
            return scores
        only: Tensor = import_torch().full_like(scores, -float("inf"))
        only[0, token] = 0
        return only

    def _choose(self, scores: Tensor) -> int:
        if not self._sampling.temperature:
            return int(scores.argmax())
        chances, tokens = (
            (scores.cpu().double() / self._sampling.temperature).softmax(-1).sort(descending=True, stable=True)
        )
        sums = chances.cumsum(-1)
        kept = sums[: 1 + int((sums < self._sampling.nucleus).sum())]
        place = int((kept <= self._random.random() * float(kept[-1])).sum())
        return int(tokens[min(place, len(kept) - 1)])


class Characters:
    """Tokens → text as it becomes certain; no character is ever cut.

    Parameters
    ----------
    decode : callable
        Tokens → text, without special tokens.
    begun : sequence of int
        Tokens of a text that they go on with; without one, white space that they begin with is left out.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], begun: Sequence[int] = ()) -> None:
        self._decode = decode
        self._ids = list(begun)
        self._before = 0  # from here on tokens are decoded: a token may read otherwise behind another
        self._told = len(begun)  # up to here their text is given
        self._begun = bool(begun)

    def add(self, token: int) -> str:
        """Give the text that a token completes, if any."""
        self._ids.append(token)
        text = self._rest()
        if not text or text.endswith(_BROKEN):
            return ""
        self._before, self._told = self._told, len(self._ids)
        return self._without_margin(text)

    def finish(self) -> str:
        """Give what was held back, without a part of a character."""
        return self._without_margin(self._rest().rstrip(_BROKEN))

    def _rest(self) -> str:
        known = self._decode(self._ids[self._before : self._told])
        return self._decode(self._ids[self._before :])[len(known) :]

    def _without_margin(self, text: str) -> str:
        text = text if self._begun else text.lstrip()
        self._begun = self._begun or bool(text)
        return text


class TokenGenerator(TorchModel, ChattingGenerator):
    """A generator that writes with a network of transformers', in a thread of its own.

    A family implements `count_turns`, `prepare` and `tokenizer`. No other thread uses the network in the meantime; the
    time that it takes to load does not count.
    """

    @abstractmethod
    def prepare(self, network: Any, turns: Sequence[Turn], check: Callable[[], None]) -> Reading:
        """Make of a conversation what the loaded network reads.

        Parameters
        ----------
        network : Module
            What `load_network` gave.
        turns : sequence of Turn
            That were checked.
        check : callable
            To be called between long steps: it leaves at once where nobody wants more.
        """

    @property
    @abstractmethod
    def tokenizer(self) -> Any:
        """The tokenizer of what it writes, of transformers'."""

    def encode(self, text: str) -> list[int]:
        """Turn a text into tokens, without those that begin or end one."""
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Turn tokens into text, without special tokens."""
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def _write(self, turns: Sequence[Turn], sampling: Sampling, cancel: threading.Event | None) -> Generator[Piece]:
        if "network" not in vars(self):
            with self.running():
                pass

        def write(listener: Listener[_Told]) -> None:
            _Pen(sampling, listener).run(self, turns)

        with contextlib.closing(self._relayed(write, sampling, cancel)) as told:
            yield from _pieces(told, Characters(self.decode, self.encode(begun_text(turns))))


def begun_text(turns: Sequence[Turn]) -> str:
    """Give the beginning of what is to be written: the last turn, if it is the assistant's."""
    return turns[-1].text.strip() if turns[-1].who == "assistant" else ""


def _pieces(told: Iterable[_Told], characters: Characters) -> Generator[Piece]:
    """Make pieces of tokens; where they end without saying why, nobody wanted more."""
    logprob = 0.0  # of tokens whose text is not complete
    end: Literal["stop", "length", "cancelled"] = "cancelled"
    for one in told:
        if not isinstance(one, _Token):
            end = one
            break
        logprob += one.logprob
        if text := characters.add(one.id):
            yield Piece(text, logprob)
            logprob = 0.0
    yield Piece(characters.finish(), logprob or None, end=end)
