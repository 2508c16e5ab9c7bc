"""Pictures with their words, for training and measuring, from whatever people keep them in."""

from mmrag.sources.pairs.open import Pairs, open_pairs, read_pairs
from mmrag.sources.pairs.row import TEXT_KEYS, Pair

__all__ = ["TEXT_KEYS", "Pair", "Pairs", "open_pairs", "read_pairs"]
