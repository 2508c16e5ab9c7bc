"""A server that speaks as OpenAI's does: where it is, which of its models is meant, and what may be sent to it."""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from mmrag import recipe
from mmrag.errors import ModelError, RecipeError

_NAME = re.compile(r"(?P<model>.+?)@(?P<url>https?://.*)", re.DOTALL)
_KEY_VARIABLE = re.compile(r"([A-Z][A-Z0-9_]*_)?API_KEY")


@dataclass(frozen=True)
class ServerCard:
    """A model on an OpenAI-compatible server; as a TOML file, a name for it wherever a generator is asked for.

    Attributes
    ----------
    model : str
        What the server calls the model.
    url : str
        What comes before ``/chat/completions``, such as "http://localhost:11434/v1".
    vision : bool
        Whether pictures may be sent to it; without this, none ever are.
    context : int
        How many tokens the model reads and writes at once, as the server was started.
    max_image_side : int
        The side, in pixels, that pictures are shrunk to before they are sent.
    image_tokens : int
        How many tokens a picture of that size counts at most.
    key_variable : str
        The environment variable with the key for this server, whose name ends in API_KEY; empty to send none. A key
        itself stands nowhere but in the environment.
    licence : str
        Of the model, in words.
    """

    model: str
    url: str
    vision: bool = False
    context: int = 4096
    max_image_side: int = 768
    image_tokens: int = 800
    key_variable: str = "OPENAI_API_KEY"
    licence: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be asked, and what would give away more than a key for a server."""
        if not self.model.strip():
            raise RecipeError("model is what the server calls it, such as 'qwen2.5', and not empty")
        if min(self.context, self.max_image_side) < 16 or self.image_tokens < 1:
            raise RecipeError("context and max_image_side are at least 16, and image_tokens at least 1")
        if self.key_variable and not _KEY_VARIABLE.fullmatch(self.key_variable):
            raise RecipeError(
                f"key_variable names an environment variable that ends in API_KEY, such as LAB_API_KEY, so that no "
                f"other secret is ever sent, not {self.key_variable!r}"
            )
        _check_address(self.url)

    @property
    def is_encrypted(self) -> bool:
        """Whether nobody on the way to the server can read what is sent."""
        return urlsplit(self.url).scheme == "https"

    @property
    def host(self) -> str:
        """The server, as errors name it: host and port."""
        return urlsplit(self.url).netloc

    @property
    def is_here(self) -> bool:
        """Whether the server is this machine."""
        name = urlsplit(self.url).hostname or ""
        try:
            return ipaddress.ip_address(name).is_loopback
        except ValueError:
            return name == "localhost"

    def key(self) -> str:
        """Give the key out of the environment; empty if there is none.

        Raises
        ------
        ModelError
            If it is no key, or anyone on the way to the server could read it.
        """
        key = os.environ.get(self.key_variable, "") if self.key_variable else ""
        if not re.fullmatch(r"[!-~]*", key):
            raise ModelError(f"{self.key_variable} is no key: it has blanks, or characters that no key has")
        if key and not self.is_encrypted and not self.is_here:
            raise ModelError(
                f"the key in {self.key_variable} would go to {self.host} unencrypted; name the server by https://, or "
                'send no key: key_variable = "" in a server card'
            )
        return key


def server_named(reference: str) -> ServerCard:
    """Give the server that stands behind ``openai:``, without asking it anything.

    Parameters
    ----------
    reference : str
        ``MODEL@URL``; ``MODEL`` alone on the server in OPENAI_BASE_URL; or the path of a server card, which ends in
        ``.toml``.

    Raises
    ------
    ModelError
        If it names no server.
    RecipeError
        If it is a card with something wrong in it.
    """
    if reference.endswith(".toml"):
        return recipe.load(Path(reference).expanduser(), ServerCard)
    named = _NAME.fullmatch(reference)
    model, url = named.group("model", "url") if named else (reference, os.environ.get("OPENAI_BASE_URL", ""))
    if not url or not model:
        raise ModelError(
            "which model of which server? Give openai:MODEL@URL, such as openai:qwen2.5@http://localhost:11434/v1; "
            "or openai:MODEL, with the URL in OPENAI_BASE_URL; or the path of a server card, CARD.toml"
        )
    return ServerCard(model, url)


def _check_address(url: str) -> None:
    """Check an address; what is wrong with it is said without repeating it, since it may hold a secret."""
    try:
        parts = urlsplit(url)
        valid = (
            url.startswith(("http://", "https://")) and parts.hostname and parts.port != 0 and not re.search(r"\s", url)
        )
    except ValueError:  # a port that is no number, …
        valid = False
    if not valid:
        raise RecipeError("url is an address such as http://localhost:11434/v1 or https://example.org/v1")
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise RecipeError(
            "url is an address alone, without a user, password, question mark or #: a key stands in an environment "
            "variable, OPENAI_API_KEY or the one that the key_variable of a server card names"
        )
