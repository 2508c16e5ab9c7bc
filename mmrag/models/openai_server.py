"""Models on any server that speaks as OpenAI's does: vLLM, Ollama, llama.cpp, hosted ones."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Generator as Writing
from collections.abc import Sequence
from io import BytesIO
from threading import Event
from typing import TYPE_CHECKING, Any

from PIL import Image as Pictures

from mmrag.errors import GenerationError
from mmrag.models.cards import Card
from mmrag.models.chatting import ChattingGenerator, check_turns
from mmrag.models.hub import is_offline
from mmrag.models.relay import Listener, run_until_left
from mmrag.models.server_card import ServerCard, server_named
from mmrag.models.server_connection import Connection
from mmrag.models.server_events import read_pieces
from mmrag.roles import Identity, Piece, Sampling, Turn, most_tokens

if TYPE_CHECKING:
    from PIL.Image import Image

_TURN_TOKENS = 8
_TEMPLATE_TOKENS = 32
"""What stands between turns, at most; and what a model says to itself where there is no system turn."""


def open_openai(reference: str) -> OpenAIGenerator:
    """Open ``openai:MODEL@URL``, ``openai:MODEL`` on the server in OPENAI_BASE_URL, or a server card, a TOML file.

    The server is not asked anything yet.

    Raises
    ------
    ModelError
        If it names no server.
    """
    return OpenAIGenerator(server_named(reference))


class OpenAIGenerator(ChattingGenerator):
    """A model on an OpenAI-compatible server.

    Pictures are sent only if the server's card says ``vision``, and without what cameras write into files. No
    redirect is followed, and a key is read from the environment for each request, and kept nowhere.

    Parameters
    ----------
    server : ServerCard
        Which server, and which of its models.
    """

    def __init__(self, server: ServerCard) -> None:
        self.server = server
        self.card = Card(
            name=server.model,
            family="openai",
            revision="",
            dimension=0,
            roles=("generator",),
            modalities=("image", "text") if server.vision else ("text",),
            max_tokens=server.context,
            summary=f"On the server {server.url}; what is asked is sent there.",
            licence_weights=server.licence,
        )
        self.identity = Identity(server.model, "", server.url, "", 0)
        self._connection = Connection(server)

    @property
    def image_tokens(self) -> int:  # noqa: D102
        return self.server.image_tokens if self.sees else 0

    def count_turns(self, turns: Sequence[Turn]) -> int:
        """Count the tokens of a conversation, without asking the server: rather more than there are."""
        check_turns(self, turns)
        words = sum(_tokens(turn.text) for turn in turns)
        pictures = sum(len(turn.images) for turn in turns)
        return _TEMPLATE_TOKENS + words + words // 10 + _TURN_TOKENS * len(turns) + pictures * self.image_tokens

    def _write(self, turns: Sequence[Turn], sampling: Sampling, cancel: Event | None) -> Writing[Piece]:
        key = self._permit()
        request = self._request(turns, sampling)

        def receive(listener: Listener[Any]) -> None:
            run_until_left(self._connection.receive(request, key, listener.give), listener)

        with contextlib.closing(self._relayed(receive, sampling, cancel)) as events:
            yield from read_pieces(events, self.server.host, sampling.max_tokens, cancel)

    def _permit(self) -> str:
        """Check that the server may be asked, and give the key for it."""
        if is_offline() and not self.server.is_here:
            raise GenerationError(
                f"{self.server.host} is not this machine, and the network is switched off (--offline, HF_HUB_OFFLINE); "
                "take a model that is here, such as smollm2"
            )
        return self.server.key()

    def _request(self, turns: Sequence[Turn], sampling: Sampling) -> dict[str, Any]:
        room = max(1, self.context_tokens - self.count_turns(turns))  # servers refuse to be asked for more
        return {
            "model": self.server.model,
            "messages": [self._message(turn) for turn in turns],
            "stream": True,
            "max_tokens": min(sampling.max_tokens, room),
            "temperature": sampling.temperature,
            "top_p": sampling.nucleus,
            "seed": sampling.seed,
            "logprobs": True,
        }

    def _message(self, turn: Turn) -> dict[str, Any]:
        text = turn.text.encode(errors="replace").decode()  # a file's name may hold half a sign, which no server takes
        if not turn.images:
            return {"role": turn.who, "content": text}
        pictures = [
            {"type": "image_url", "image_url": {"url": _data_url(image, self.server.max_image_side)}}
            for image in turn.images
        ]
        return {"role": turn.who, "content": [*pictures, {"type": "text", "text": text}]}


def _tokens(text: str) -> int:
    """Count more than words, as models cut finer: at digits, at lines, and at signs of languages they know little."""
    finer = sum(sign.isdigit() or sign == "\n" or not sign.isascii() for sign in text)
    return most_tokens(text) + finer + sum(sign > "\uffff" for sign in text)


def _data_url(image: Image, side: int) -> str:
    """Write the pixels of a picture, and nothing else that it carries, into an address."""
    pixels = Pictures.new("RGB", image.size)
    pixels.paste(image)
    pixels.thumbnail((side, side))
    with contextlib.closing(BytesIO()) as file:
        pixels.save(file, "JPEG", quality=90)
        return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
