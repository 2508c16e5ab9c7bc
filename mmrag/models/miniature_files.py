"""What a model folder holds of a Miniature: its size, and the names of its files. No torch is needed to read them."""

from __future__ import annotations

from dataclasses import dataclass

from mmrag.errors import RecipeError

CONFIG_NAME = "miniature.toml"
TOKENIZER_NAME = "tokenizer_words.json"
LOOK_NAME = "onnx/look_model.onnx"
WORDS_NAME = "onnx/words_model.onnx"

PAD, START, END = "[PAD]", "[CLS]", "[SEP]"
"""What fills a text up, begins it and ends it; the first of them is token 0."""


@dataclass(frozen=True)
class MiniatureConfig:
    """Size of a Miniature.

    Attributes
    ----------
    vocabulary : int
        How many tokens there are; 0 is what fills up.
    width, layers, heads, hidden : int
        Of the transformer; `hidden` is inside its feed-forward part. `heads` divides `width`.
    grid_features, cells : int
        Of what the image tower sees: a vector of so many numbers in each of so many cells.
    max_tokens : int
        Longest text, the tokens that begin and end it counted.
    """

    vocabulary: int
    width: int = 256
    layers: int = 4
    heads: int = 8
    hidden: int = 1024
    grid_features: int = 1280
    cells: int = 81
    max_tokens: int = 64

    def __post_init__(self) -> None:
        """Refuse sizes that no network has."""
        sizes = (self.vocabulary, self.width, self.layers, self.heads, self.hidden, self.grid_features, self.cells)
        if min(sizes) < 1 or self.max_tokens < 2 or self.width % self.heads:
            raise RecipeError("sizes are at least 1, max_tokens at least 2, and heads divides width")
