"""What a model folder holds of a Miniature: its size, how it is used, its files. No torch is needed to read them.

``miniature.toml`` holds `MiniatureSettings`, ``tokenizer_words.json`` the tokenizer of what it reads and writes. Under
``onnx/``, ``look_model.onnx`` makes keys and values of what the image tower keeps of a picture, once for each picture,
and ``words_model.onnx`` reads texts with them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mmrag.errors import RecipeError

SETTINGS_NAME = "miniature.toml"
TOKENIZER_NAME = "tokenizer_words.json"
LOOK_NAME = "onnx/look_model.onnx"
WORDS_NAME = "onnx/words_model.onnx"

PAD, START, END, UNKNOWN = "[PAD]", "[CLS]", "[SEP]", "[UNK]"
"""What fills a text up (token 0), begins it, ends it, and stands for what is not in the vocabulary."""


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
        if min(sizes) < 1 or self.max_tokens < 3 or self.width % self.heads:
            raise RecipeError("sizes are at least 1, max_tokens at least 3, and heads divides width")


@dataclass(frozen=True)
class Judging:
    """What makes a judgement's logit; pairs are ranked by this plus the cosine, so that the cosine weighs 1.

    Attributes
    ----------
    match : float
        Weight of the logit of "match".
    likelihood : float
        Weight of the mean log-likelihood of a text's tokens, given the picture.
    """

    match: float = 1.0
    likelihood: float = 0.0


@dataclass(frozen=True)
class Writing:
    """How beam search chooses among texts.

    Attributes
    ----------
    length_power : float
        A text's log-probability is divided by its number of tokens to this power: the higher, the longer texts are.
    no_repeat : int
        No sequence of so many tokens occurs twice in a text; 0 allows all.
    """

    length_power: float = 1.0
    no_repeat: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be done."""
        if self.length_power < 0 or self.no_repeat < 0:
            raise RecipeError("length_power and no_repeat are at least 0")


@dataclass(frozen=True)
class MiniatureSettings:
    """Content of ``miniature.toml``: the network's size, and how it judges and writes."""

    network: MiniatureConfig
    judging: Judging = field(default_factory=Judging)
    writing: Writing = field(default_factory=Writing)
