"""Who writes an answer: a language model that reads the sources, or nobody, and the sources speak for themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from threading import Event

from mmrag.compose.prompt import Prompt
from mmrag.roles import Piece, Sampling


class Writer(ABC):
    """A prompt → an answer with citations, piece by piece.

    Attributes
    ----------
    name : str
        What wrote, as `Answer.generator` says it.
    sees : bool
        Whether it wants the pictures of the sources.
    """

    name: str
    sees: bool = False

    @abstractmethod
    def fits(self, prompt: Prompt, sampling: Sampling) -> bool:
        """Tell whether the whole prompt and what is written fit into what it can read at once."""

    @abstractmethod
    def write(self, prompt: Prompt, sampling: Sampling, *, cancel: Event | None = None) -> Iterator[Piece]:
        """Write an answer that cites sources as [1], [2], …; results and errors as those of `Generator.generate`.

        Numbers of sources that do not exist may be among them: who reads it checks.
        """
