"""The models that an index has loaded: each once, and one network where it plays both roles."""

from __future__ import annotations

import threading
from pathlib import Path

from mmrag.errors import IndexModelError
from mmrag.models.registry import from_home, load_encoder, load_generator, load_matcher
from mmrag.roles import Encoder, Generator, Identity, Matcher


class LoadedModels:
    """Loads the encoder that wrote an index, matchers and generators; threads may share it.

    Parameters
    ----------
    home : path
        Of the index: what names of models may be relative to.
    precision, device
        As for `mmrag.load_encoder`.
    """

    def __init__(self, home: Path, *, precision: str | None = None, device: str = "auto") -> None:
        self._home = home
        self._precision, self._device = precision, device
        self._loading = threading.Lock()
        self._encoder: Encoder | None = None
        self._matchers: dict[str, Matcher] = {}
        self._generators: dict[str, Generator] = {}

    def compute(self, *, precision: str | None, device: str) -> None:
        """Load what is loaded from now on in another precision or elsewhere."""
        self._precision, self._device = precision, device

    def open_encoder(self, name: str, model: str, identity: Identity) -> None:
        """Load the encoder by another name than the one that the index has for it, as where a folder has moved."""
        with self._loading:
            self._encoder = self._load_encoder(name, model, identity)

    def encoder(self, model: str, identity: Identity) -> Encoder:
        """Give the encoder that wrote an index, loaded when it is first needed.

        Parameters
        ----------
        model : str
            Its name in the index's manifest.
        identity : Identity
            What it must be.

        Raises
        ------
        IndexModelError
            If what goes by that name is another one.
        """
        with self._loading:
            return self._encoder_of(model, identity)

    def matcher(self, matcher: str | Matcher, model: str, identity: Identity) -> Matcher:
        """Load a matcher once; if it is an encoder too, and the one that wrote the vectors, one network does both.

        `model` and `identity` are those of the encoder.
        """
        with self._loading:
            if not isinstance(matcher, str):
                self._adopt(matcher, model, identity)
                return matcher
            if matcher not in self._matchers:
                self._matchers[matcher] = self._load_matcher(matcher, identity)
            return self._matchers[matcher]

    def generator(self, generator: str | Generator) -> Generator:
        """Load a generator once."""
        if not isinstance(generator, str):
            return generator
        with self._loading:
            if generator not in self._generators:
                self._generators[generator] = load_generator(generator, precision=self._precision, device=self._device)
            return self._generators[generator]

    def _encoder_of(self, model: str, identity: Identity) -> Encoder:
        if self._encoder is None or self._encoder.identity != identity:
            self._encoder = None  # another model writes the index now: its predecessor makes room first
            self._encoder = self._load_encoder(from_home(model, self._home), model, identity)
        return self._encoder

    def _has_encoder(self, identity: Identity) -> bool:
        return self._encoder is not None and self._encoder.identity == identity

    def _load_encoder(self, name: str, model: str, identity: Identity) -> Encoder:
        encoder = load_encoder(name, precision=self._precision, device=self._device)
        difference = identity.difference(encoder.identity)
        if difference:
            raise IndexModelError(
                f"the index in {self._home} was written by the model {model!r}, and its "
                f"vectors do not compare with those of {encoder.card.name!r} ({difference}). Search it "
                "with its own model, or make a new index elsewhere: --index OTHER_FOLDER"
            )
        return encoder

    def _load_matcher(self, name: str, identity: Identity) -> Matcher:
        matcher = load_matcher(name, precision=self._precision, device=self._device)
        if not isinstance(matcher, Encoder) or matcher.identity != identity:
            return matcher
        if not self._has_encoder(identity):
            self._encoder = matcher
        return self._encoder if isinstance(self._encoder, Matcher) else matcher

    def _adopt(self, matcher: Matcher, model: str, identity: Identity) -> None:
        """Encode with a matcher that was given, if it wrote the vectors and computes as this index was opened to."""
        if self._has_encoder(identity) or not isinstance(matcher, Encoder) or matcher.identity != identity:
            return
        writer = self._encoder_of(model, identity)
        if (writer.device, writer.precision) == (matcher.device, matcher.precision):
            self._encoder = matcher
