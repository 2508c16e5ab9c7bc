"""Asking an OpenAI-compatible server, and what its refusals mean."""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

from mmrag.errors import GenerationError, MissingExtraError, MmragError
from mmrag.models.server_card import ServerCard
from mmrag.models.server_events import in_brief, read_events, told
from mmrag.version import __version__

_LOG = logging.getLogger(__name__)

_CONNECT_SECONDS = 10.0

_OPTIONAL = ("logprobs", "seed", "top_p", "temperature")
"""What a server may refuse to be told: it is asked again without."""

_GOES_ON = {"continue_final_message": True, "add_generation_prompt": False}
"""Says that what the assistant has begun is gone on with, to vLLM and those like it; others do so by themselves."""

_BEGUN = "beginning of its answer"
"""What a server is remembered not to take, beside settings."""

_GO_ON = "Go on exactly where you stopped. Repeat nothing of it."
"""Asks those for it that only answer users."""

_HEADERS = {"host", "accept", "accept-encoding", "connection", "content-type", "content-length", "transfer-encoding"}
"""What a request says. The openai client adds the operating system, and what other variables tell it to add."""


class Connection:
    """Asks one server, by the openai client; remembers which settings it refuses.

    Parameters
    ----------
    server : ServerCard
        Which server. No redirect from it is followed.
    """

    def __init__(self, server: ServerCard) -> None:
        self.server = server
        self._left_out: frozenset[str] = frozenset()

    async def receive(self, request: dict[str, Any], key: str, give: Callable[[Any], None]) -> None:
        """Ask, and give each event as it comes.

        Parameters
        ----------
        request : dict
            Of the API's chat completions: https://platform.openai.com/docs/api-reference/chat.
        key : str
            For the server; empty for none.
        give : callable
            Told each event, as JSON data.

        Raises
        ------
        GenerationError
            If the server cannot be reached, refuses, or breaks off.
        """
        openai = _import_openai()
        try:
            async with self._client(openai, key) as client:
                await self._ask(openai, client, request, give)
        except openai.APIStatusError as error:  # not chained, as the key may stand in what the server says
            raise self._refusal(error, key) from None
        except MmragError:
            raise
        except Exception as error:  # whatever the client, proxies, certificates and names of hosts have to say
            raise self._unreachable(error) from error

    async def _ask(self, openai: Any, client: Any, request: dict[str, Any], give: Callable[[Any], None]) -> None:
        """Ask once more for each setting that the server refuses, without it, and remember those."""
        left_out = self._left_out
        while True:
            try:
                async with await client.chat.completions.create(**_without(request, left_out)) as stream:
                    self._left_out = left_out
                    async for event in read_events(self._bytes(stream.response), self.server.host):
                        give(event)
                    return
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                refused = _refused_setting(_words(error), left_out)
                if refused is None or (refused == _BEGUN and not _is_begun(request)):
                    raise
                _LOG.info("%s takes no %s; asked again without", self.server.host, refused)
                left_out |= {refused}

    async def _bytes(self, response: Any) -> AsyncIterator[bytes]:
        try:
            async for part in response.aiter_bytes():
                yield part
        except Exception as error:  # of httpx or httpx2, whichever the openai client brings
            raise GenerationError(
                f"{self.server.host} broke off in the middle of its answer ({type(error).__name__}); look whether it "
                "still runs, and ask again"
            ) from error

    def _client(self, openai: Any, key: str) -> Any:
        """Make a client for one request: it asks once, one address, and says no more than it must."""

        async def sign(request: Any) -> None:
            for name in set(request.headers) - _HEADERS:
                del request.headers[name]
            request.headers["User-Agent"] = f"mmrag/{__version__}"
            if key:
                request.headers["Authorization"] = f"Bearer {key}"

        unused = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # reading the certificates of all authorities takes 70 ms
        transport = openai.DefaultAsyncHttpxClient(
            follow_redirects=False,  # what is asked goes to whom it was meant for
            event_hooks={"request": [sign]},
            trust_env=not self.server.is_here,  # no proxy stands between this machine and itself
            verify=self.server.is_encrypted or unused,
        )
        return openai.AsyncOpenAI(
            api_key="none",  # `sign` knows it, and nobody else
            base_url=self.server.url,
            http_client=transport,
            max_retries=0,
            timeout=openai.Timeout(None, connect=_CONNECT_SECONDS),
        )

    def _unreachable(self, error: Exception) -> GenerationError:
        reason: BaseException = error.__cause__ or error
        return GenerationError(
            f"{self.server.host} cannot be reached ({str(reason) or type(reason).__name__}); look whether the server "
            "runs, whether its address is right, and at the proxies and certificates of the environment"
        )

    def _refusal(self, error: Any, key: str) -> GenerationError:
        """Say what an answer of 300 and more means."""
        host, status, words = self.server.host, error.status_code, _words(error)
        if status < 400:
            where = in_brief(error.response.headers.get("location", "nowhere"))
            return GenerationError(f"{host} redirects to {where}, which is not followed; name that address instead")
        meaning = {
            401: self._wants_key(key),
            403: self._wants_key(key),
            404: f"has no model {self.server.model!r}, or no chat at this address, which often ends in /v1",
            429: "is asked too much, or the account there is at its limit; try again in a while",
        }
        other = "fails; look at its log, or try again" if status >= 500 else "refuses what it is asked"
        said = in_brief(words.replace(key, "…") if key else words)
        return GenerationError(f"{host} {meaning.get(status, other)} ({status}: {said})")

    def _wants_key(self, key: str) -> str:
        variable = self.server.key_variable
        if key:
            return f"refuses the key in {variable}; set {variable} to one that it takes"
        if variable:
            return f"wants a key; set the environment variable {variable} to it"
        return "wants a key; name the environment variable that holds it as key_variable in the server card"


def _import_openai() -> Any:
    try:
        import openai
    except ImportError as error:
        raise MissingExtraError("openai", "llm") from error
    return openai


def _without(request: dict[str, Any], left_out: frozenset[str]) -> dict[str, Any]:
    """Leave settings out; the newest models of OpenAI's know the number of tokens by another name."""
    kept = {name: value for name, value in request.items() if name not in left_out}
    if "max_tokens" in left_out:
        kept["max_completion_tokens"] = request["max_tokens"]
    if not _is_begun(request):
        return kept
    if _BEGUN in left_out:
        return {**kept, "messages": [*request["messages"], {"role": "user", "content": _GO_ON}]}
    return {**kept, "extra_body": _GOES_ON}


def _is_begun(request: dict[str, Any]) -> bool:
    return bool(request["messages"][-1]["role"] == "assistant")


def _refused_setting(words: str, left_out: frozenset[str]) -> str | None:
    """Find the setting that a server names in its refusal."""
    if "max_completion_tokens" in words and "instead" in words and "max_tokens" not in left_out:
        return "max_tokens"
    if _BEGUN not in left_out and any(name in words for name in ("prefill", *_GOES_ON)):
        return _BEGUN
    return next((name for name in _OPTIONAL if name in words and name not in left_out), None)


def _words(error: Any) -> str:
    return told(error.body) if error.body is not None else ""
