"""What every family that goes on with conversations does alike: checks before it writes, and stop texts."""

from __future__ import annotations

from collections.abc import Generator as Generating
from collections.abc import Iterator, Sequence
from contextlib import closing

from mmrag.errors import GenerationError, InputError
from mmrag.roles import Generator, Piece, Turn


def check_turns(generator: Generator, turns: Sequence[Turn]) -> None:
    """Check that a generator can go on with a conversation.

    Raises
    ------
    InputError
        If there are no turns, the last is the system's, one after the first is the system's, or pictures are given
        to what does not see.
    """
    if not turns or turns[-1].who == "system":
        last = f"the last of {len(turns)} turns is the {turns[-1].who}'s" if turns else "there are no turns"
        raise InputError(f"{last}; a conversation ends with a turn of the user, or with what the assistant has begun")
    if any(turn.who == "system" for turn in turns[1:]):
        raise InputError("a system turn stands behind others; it comes first, or there is none")
    pictures = sum(len(turn.images) for turn in turns)
    if pictures and not generator.sees:
        raise InputError(
            f"{generator.card.name} sees no pictures, and was given {pictures}; give it words only, or take a "
            "generator that sees: mmrag models"
        )


def too_long(generator: Generator, tokens: int) -> GenerationError:
    """Say that a conversation leaves no room for a word."""
    return GenerationError(
        f"the conversation has {tokens:,} tokens, and {generator.card.name} reads {generator.context_tokens:,}, "
        "what it writes included; give it fewer or shorter sources, or take a generator that reads more"
    )


def too_slow(generator: Generator, seconds: float) -> GenerationError:
    """Say that the writing has taken longer than allowed."""
    return GenerationError(
        f"{generator.card.name} was not done after {seconds:g} s; allow more (Sampling.seconds), or fewer words "
        "(max_tokens), or take a smaller model"
    )


def until_stop(pieces: Generating[Piece, None, None], stop: Sequence[str]) -> Iterator[Piece]:
    """Give pieces up to the first stop text, which may be divided among them, and close them then.

    What may yet become a stop text is held back until that is known. The logprob of a piece is that of all tokens
    that have come since the last.
    """
    held, logprob = "", None
    with closing(pieces):
        for piece in pieces:
            held += piece.text
            logprob = piece.logprob if logprob is None else logprob + (piece.logprob or 0.0)
            cut = min((held.index(text) for text in stop if text in held), default=-1)
            if cut >= 0:
                yield Piece(held[:cut], logprob, "stop")
                return
            ready = len(held) if piece.end else len(held) - _begun(held, stop)
            if ready or piece.end:
                yield Piece(held[:ready], logprob, piece.end)
                held, logprob = held[ready:], None


def _begun(text: str, stop: Sequence[str]) -> int:
    """Count the characters at the end of a text that a stop text may begin with."""
    longest = min(max(map(len, stop), default=0) - 1, len(text))
    return next((length for length in range(longest, 0, -1) if text.endswith(tuple(_heads(stop, length)))), 0)


def _heads(stop: Sequence[str], length: int) -> Iterator[str]:
    return (one[:length] for one in stop if len(one) > length)
