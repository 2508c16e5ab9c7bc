"""What BLIP, BLIP-2 and InstructBLIP have in common: their files and card, and for retrieval, features and texts."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from mmrag.errors import InputError, ModelError
from mmrag.models.cards import Card, Role, revision_of
from mmrag.models.checkpoint import Checkpoint
from mmrag.models.network import TorchModel, as_array, import_transformers
from mmrag.models.preprocess import Preprocessing, Transform
from mmrag.models.pretrained import load_pretrained
from mmrag.models.tokens import Tokens, count, encode
from mmrag.models.torch_encoder import TorchEncoder
from mmrag.roles import Identity, Matcher, Pixels, Vectors

if TYPE_CHECKING:
    from PIL.Image import Image
    from tokenizers import Tokenizer
    from torch import Tensor

_REMEMBERED = 1 << 15
"""Of how many texts tokens and vectors are kept: 64 MB at most."""


class BlipBase(TorchModel):
    """A BLIP of any kind, as transformers saves it.

    Attributes
    ----------
    family : str
        Of models: what its names begin with.
    architecture : str
        transformers' class.
    roles : tuple of str
        That such checkpoints play.
    summary : str
        For the card.
    usual : mapping
        What is taken for granted where a part of config.json does not say it.
    reader : str
        The part of config.json that says how long a text may be.
    queries : int
        How many vectors a picture has where config.json does not say it.

    Parameters
    ----------
    checkpoint : Checkpoint
        Its files.

    Raises
    ------
    ModelError
        If a file is missing, damaged or does not fit the others.
    """

    family: ClassVar[str]
    architecture: ClassVar[str]
    roles: ClassVar[tuple[Role, ...]]
    summary: ClassVar[str]
    usual: ClassVar[Mapping[str, Mapping[str, Any]]]
    reader: ClassVar[str]
    queries: ClassVar[int] = 1
    preprocessing: Preprocessing | Transform

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.preprocessing = Preprocessing.find(checkpoint.path)
        seen, side = (self.preprocessing.height, self.preprocessing.width), self.section("vision_config")["image_size"]
        if seen != (side, side):
            raise ModelError(
                f"{checkpoint.path} prepares pictures of {seen} pixels for a network of {side}; fetch it again"
            )
        self.card = self._describe(checkpoint)
        self.identity = Identity(
            name=self.card.name,
            revision=self.card.revision,
            weights=self.card.weights,
            preprocessing=str(self.preprocessing),
            dimension=self.card.dimension,
            vectors=self.card.vectors,
        )

    def _describe(self, checkpoint: Checkpoint) -> Card:
        encodes, weights = "encoder" in self.roles, checkpoint.fingerprint()
        return Card(
            name=checkpoint.name,
            family=self.family,
            revision=revision_of(weights),
            roles=self.roles,
            dimension=checkpoint.config.get("image_text_hidden_size", 256) if encodes else 0,
            vectors=checkpoint.config.get("num_query_tokens", self.queries) if encodes else 1,
            max_tokens=self.section(self.reader)["max_position_embeddings"],
            languages=("en",),
            summary=self.summary,
            weights=weights,
            licence_weights=checkpoint.licence,
            sources=(checkpoint.source,),
        )

    def load_network(self) -> Any:
        """Read the weights, of which every one must be there, into the precision that they are needed in."""
        return load_pretrained(self.checkpoint, getattr(import_transformers(), self.architecture), dtype=self.dtype)

    def pixels(self, images: Sequence[Image]) -> Pixels:
        """Prepare pictures, ``(n, 3, height, width)``."""
        return np.stack([self.preprocessing(image, exact=self.precision == "fp32") for image in images])

    def section(self, name: str) -> dict[str, Any]:
        """Read a part of config.json, where what is not said is as in transformers."""
        section = self.checkpoint.config.get(name) or {}
        if not isinstance(section, dict):
            raise ModelError(f"{self.checkpoint.path / 'config.json'}: {name} is not a table")
        return {**self.usual[name], **section}


class BlipPairs(BlipBase, TorchEncoder, Matcher):
    """A BLIP that embeds pictures and texts (ITC) and judges pairs of them (ITM)."""

    roles: ClassVar[tuple[Role, ...]] = ("encoder", "matcher")

    @property
    @abstractmethod
    def tokenizer(self) -> Tokenizer:
        """BERT's, which fills nothing up, and for which special tokens in a text are words."""

    @abstractmethod
    def picture_states(self, network: Any, pixels: Tensor) -> Tensor:
        """See ``(n, 3, height, width)``: the image tower's last hidden state, ``(n, *feature_shape)``."""

    @property
    def feature_shape(self) -> tuple[int, int]:  # type: ignore[override]
        """Of a picture's features: ``(patches + 1, width)``."""
        vision = self.section("vision_config")
        return (vision["image_size"] // vision["patch_size"]) ** 2 + 1, vision["hidden_size"]

    def features(self, items: Sequence[Image]) -> Vectors:  # type: ignore[override]
        """See pictures: the image tower's last hidden states, float32 ``(n, *feature_shape)``."""
        return self._in_batches(items, self._features, self.feature_shape)

    def _features(self, images: Sequence[Image]) -> Vectors:
        pixels = self.tensor(self.pixels(images))
        with self.running() as network:
            states = self.picture_states(network, pixels)
        features: Vectors = as_array(states)
        return features

    def stacked(self, features: Sequence[Any], numbers: Iterable[int]) -> Vectors:
        """Put some of the features together, ``(some, *feature_shape)``.

        Raises
        ------
        InputError
            If one has another shape.
        """
        chosen = {number: features[number] for number in numbers}
        for number, one in chosen.items():
            if np.shape(one) != self.feature_shape:
                raise InputError(
                    f"features[{number}] has the shape {np.shape(one)}, not {self.feature_shape}; "
                    f"make them with `features` of {self.card.name}"
                )
        return np.stack(list(chosen.values()))

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Turn texts into tokens, not filled up; what is too long is cut, with a warning in the log."""
        return self._remembered("ids", texts, lambda new: [one.ids for one in encode(self.tokenizer, new)])

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tokens]:
        """Make "input_ids" and "attention_mask", ``(n, t)``; what is too long is cut, with a warning in the log."""
        ids = self.ids(texts)
        lengths = np.array([len(one) for one in ids])
        mask = np.arange(lengths.max()) < lengths[:, None]
        filled = np.zeros(mask.shape, dtype=np.int64)
        filled[mask] = np.concatenate(ids)
        return {"input_ids": filled, "attention_mask": mask.astype(np.int64)}

    def _count_tokens(self, texts: Sequence[str]) -> list[int]:
        return count(self.tokenizer, texts)

    def text_side(self, texts: Sequence[str]) -> Vectors:
        """Embed texts as `encode_text` does, ``(n, dimension)``, and those of a short while ago not again."""
        way = f"vectors {self.device} {self.precision}"
        made = self._remembered(way, texts, lambda new: [one.copy() for one in self.encode_text(new)])
        return np.array(made, dtype=np.float32).reshape(len(texts), self.card.dimension)

    @cached_property
    def _remembered(self) -> Remembered:
        return Remembered(2 * _REMEMBERED)  # tokens and vectors


class Remembered:
    """What was made of the last texts: pictures are judged block by block, and most blocks have the same texts.

    Parameters
    ----------
    limit : int
        How much is kept; what was needed the longest ago is forgotten first.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._made, self._lock = limit, dict[tuple[str, str], Any](), threading.Lock()

    def __call__(self, way: str, texts: Sequence[str], make: Callable[[list[str]], Iterable[ArrayLike]]) -> list[Any]:
        """Give what was made of each text in some way; `make` makes it of those of which it is not known."""
        asked = dict.fromkeys(texts)
        with self._lock:
            known = {text: self._made[way, text] for text in asked if (way, text) in self._made}
        new = [text for text in asked if text not in known]
        if new:
            known.update(zip(new, make(new), strict=True))
        with self._lock:
            for text in asked:
                self._made.pop((way, text), None)
                self._made[way, text] = known[text]
            for oldest in list(islice(self._made, max(0, len(self._made) - self._limit))):
                del self._made[oldest]
        return [known[text] for text in texts]
