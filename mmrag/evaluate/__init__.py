"""How well a model finds, R@k, and how well it describes, BLEU and CIDEr, on pairs of pictures and texts."""

from mmrag.evaluate.captions import CaptionMetrics, caption_metrics, evaluate_captions
from mmrag.evaluate.pairs import evaluate_pairs
from mmrag.evaluate.retrieval import RetrievalMetrics, retrieval_metrics

__all__ = [
    "CaptionMetrics",
    "RetrievalMetrics",
    "caption_metrics",
    "evaluate_captions",
    "evaluate_pairs",
    "retrieval_metrics",
]
