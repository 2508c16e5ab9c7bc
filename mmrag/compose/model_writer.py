"""A language model as a writer: it reads the sources as quotations."""

from __future__ import annotations

from collections.abc import Iterator
from threading import Event

from mmrag.compose.prompt import Prompt
from mmrag.compose.quoting import render, resume
from mmrag.compose.writer import Writer
from mmrag.errors import ModelError
from mmrag.roles import Generator, Piece, Sampling


class ModelWriter(Writer):
    """Has a generator that chats write an answer.

    Raises
    ------
    ModelError
        If the generator does not chat.
    """

    def __init__(self, generator: Generator) -> None:
        if not generator.chats:
            raise ModelError(
                f"{generator.card.name} describes pictures only and cannot answer from sources; take a language model, "
                "such as smollm2 (mmrag models pull smollm2), or 'extractive', which quotes"
            )
        self.name = generator.card.name
        self.sees = generator.sees
        self._generator = generator

    def fits(self, prompt: Prompt, sampling: Sampling) -> bool:
        """Tell whether the conversation and all that may be written fit into the generator's context."""
        tokens = self._generator.count_turns(render(prompt, sees=self.sees))
        return tokens + sampling.max_tokens <= self._generator.context_tokens

    def write(self, prompt: Prompt, sampling: Sampling, *, cancel: Event | None = None) -> Iterator[Piece]:
        """Have it written, piece by piece."""
        pieces = self._generator.generate(render(prompt, sees=self.sees), sampling, cancel=cancel)
        return resume(pieces, prompt.written)
