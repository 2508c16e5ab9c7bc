"""An encoder that torch computes: preprocessing, tokens, and vectors back as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrag.errors import ModelError
from mmrag.models.network import TorchModel, as_array
from mmrag.models.preprocess import Preprocessing, Transform
from mmrag.models.tokens import Tokens
from mmrag.roles import Encoder, Pixels, Vectors

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor


class TorchEncoder(TorchModel, Encoder):
    """Pictures and texts → unit vectors, computed by torch.

    A family implements `load_network`, and for each modality of its card: of pictures `image_vectors` and
    `preprocessing`; of texts `tokenize`, `text_vectors`, and `write_tokenizer` for its export to ONNX. In single
    precision every pixel is the reference's; otherwise pictures take the fast way.

    Attributes
    ----------
    preprocessing : Preprocessing or Transform
        What the image tower expects of a picture.
    """

    preprocessing: Preprocessing | Transform

    def image_vectors(self, network: Any, pixels: Tensor) -> Tensor:
        """Embed ``(n, 3, height, width)`` into ``(n, dimension)``, of any length.

        Traced for the export: for any n, without a look at values.
        """
        raise NotImplementedError

    def text_vectors(self, network: Any, tokens: dict[str, Tensor]) -> Tensor:
        """Embed tokens ``(n, t)`` into ``(n, dimension)``, of any length.

        Traced for the export: for any n, and for any t if the card pads to the longest.
        """
        raise NotImplementedError

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tokens]:
        """Make the arrays ``(n, t)`` that the text tower takes; what is too long is cut, with a warning in the log.

        Of "input_ids", "attention_mask" and "token_type_ids" those that the tower takes, as
        `mmrag.models.tokens.laid_out` makes them; with the card's `text_padding`.
        """
        raise NotImplementedError

    def write_tokenizer(self, folder: Path) -> None:  # noqa: ARG002
        """Write ``tokenizer.json`` such that `mmrag.models.tokens.read_tokenizer` gives the ids of `tokenize`.

        Raises
        ------
        ModelError
            If it cannot be written so.
        """
        raise ModelError(f"the tokenizer of {self.card.name} cannot be written as a file; it runs through torch only")

    @property
    def exportable(self) -> bool:
        """Whether `mmrag models export` can write it: its tokenizer and how it prepares pictures fit into files."""
        sees, reads = "image" in self.card.modalities, "text" in self.card.modalities
        prepares = not sees or isinstance(self.preprocessing, Preprocessing)
        writes = not reads or type(self).write_tokenizer is not TorchEncoder.write_tokenizer
        return self.card.vectors == 1 and prepares and writes

    @property
    def exact(self) -> bool:
        """Whether every pixel is the reference's."""
        return self.precision == "fp32"

    @property
    def decode_at_least(self) -> int | None:  # type: ignore[override]
        """The side, in pixels, that pictures may be shrunk to while they are decoded; None: not at all."""
        return None if self.exact or "image" not in self.card.modalities else self.preprocessing.needed_side

    @property
    def batch(self) -> int:  # type: ignore[override]
        """How many pictures or texts go through the network at once."""
        return 16 if self.device == "cpu" else 128

    @property
    def streams(self) -> int:
        """Two batches at once: all cores, or the GPU, compute one, while the other is brought to them and back."""
        return 2

    def preprocess(self, image: Image) -> Pixels:
        """Turn an upright RGB picture into the network's input, float32 ``(3, height, width)``."""
        if "image" not in self.card.modalities:
            return super().preprocess(image)
        return self.preprocessing(image, exact=self.exact)

    def _embed_pixels(self, pixels: Pixels) -> Vectors:
        given = self.tensor(pixels)  # brought there while another batch is computed
        with self.running() as network:
            computed = self.image_vectors(network, given)
        vectors: Vectors = as_array(computed)  # waits for the device, where the next batch may already be begun
        return vectors

    def _embed_text(self, texts: Sequence[str]) -> Vectors:
        if "text" not in self.card.modalities:
            return super()._embed_text(texts)
        given = {name: self.tensor(array) for name, array in self.tokenize(texts).items()}
        with self.running() as network:
            computed = self.text_vectors(network, given)
        vectors: Vectors = as_array(computed)
        return vectors
