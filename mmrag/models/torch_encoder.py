"""An encoder that torch computes: preprocessing, tokens, and vectors back as arrays."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mmrag.models.network import TorchModel, as_array
from mmrag.models.preprocess import Preprocessing
from mmrag.models.tokens import Tokens
from mmrag.roles import Encoder, Pixels, Vectors

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

logger = logging.getLogger("mmrag")


class TorchEncoder(TorchModel, Encoder):
    """Pictures and texts → unit vectors, computed by torch.

    A family implements `load_network`, `image_vectors`, `tokenize` and `text_vectors`. In single precision
    every pixel is the reference's; otherwise pictures take the fast way.

    Attributes
    ----------
    preprocessing : Preprocessing
        What the image tower expects of a picture.
    """

    preprocessing: Preprocessing

    @abstractmethod
    def image_vectors(self, network: Any, pixels: Tensor) -> Tensor:
        """Embed ``(n, 3, height, width)`` into ``(n, dimension)``, of any length."""

    @abstractmethod
    def text_vectors(self, network: Any, tokens: dict[str, Tensor]) -> Tensor:
        """Embed tokens ``(n, t)`` into ``(n, dimension)``, of any length."""

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> dict[str, Tokens]:
        """Make the arrays ``(n, t)`` that the text tower takes; what is too long is cut, with a warning in the log."""

    @property
    def exact(self) -> bool:
        """Whether every pixel is the reference's."""
        return self.precision == "fp32"

    @property
    def decode_at_least(self) -> int | None:  # type: ignore[override]
        """The side, in pixels, that pictures may be shrunk to while they are decoded; None: not at all."""
        return None if self.exact else self.preprocessing.needed_side

    @property
    def batch(self) -> int:  # type: ignore[override]
        """How many pictures or texts go through the network at once."""
        return 16 if self.device == "cpu" else 128

    def preprocess(self, image: Image) -> Pixels:
        """Turn an upright RGB picture into the network's input, float32 ``(3, height, width)``."""
        return self.preprocessing(image, exact=self.exact)

    def _embed_pixels(self, pixels: Pixels) -> Vectors:
        with self.running() as network:
            vectors: Vectors = as_array(self.image_vectors(network, self.tensor(pixels)))
        return vectors

    def _embed_text(self, texts: Sequence[str]) -> Vectors:
        tokens = self.tokenize(texts)
        with self.running() as network:
            arrays = {name: self.tensor(array) for name, array in tokens.items()}
            vectors: Vectors = as_array(self.text_vectors(network, arrays))
        return vectors
