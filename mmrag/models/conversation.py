"""What every family that goes on with conversations checks before it writes."""

from __future__ import annotations

from collections.abc import Sequence

from mmrag.errors import GenerationError, InputError
from mmrag.roles import Generator, Turn


def check_turns(generator: Generator, turns: Sequence[Turn]) -> None:
    """Check that a generator can go on with a conversation.

    Raises
    ------
    InputError
        If there are no turns, the last is the system's, what the assistant has begun stands behind no user's turn, one
        after the first is the system's, or pictures are given to what does not see.
    """
    if not turns or turns[-1].who == "system":
        last = f"the last of {len(turns)} turns is the {turns[-1].who}'s" if turns else "there are no turns"
        raise InputError(f"{last}; a conversation ends with a turn of the user, or with what the assistant has begun")
    if turns[-1].who == "assistant" and (len(turns) < 2 or turns[-2].who != "user" or not turns[-1].text.strip()):
        raise InputError(
            "what the assistant has begun has words, and stands behind the turn of the user that it answers"
        )
    if any(turn.who == "system" for turn in turns[1:]):
        raise InputError("a system turn stands behind others; it comes first, or there is none")
    pictures = sum(len(turn.images) for turn in turns)
    if pictures and not generator.sees:
        raise InputError(
            f"{generator.card.name} sees no pictures, and was given {pictures}; give it words only, or take a "
            "generator that sees: mmrag models"
        )


def begun(turns: Sequence[Turn]) -> str:
    """Give what the assistant has begun to say, and what is written goes on from; empty if the user spoke last."""
    return turns[-1].text if turns[-1].who == "assistant" else ""


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
