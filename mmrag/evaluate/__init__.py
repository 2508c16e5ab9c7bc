"""How well a model finds: R@k on pairs of pictures and texts."""

from mmrag.evaluate.pairs import evaluate_pairs
from mmrag.evaluate.retrieval import RetrievalMetrics, retrieval_metrics

__all__ = ["RetrievalMetrics", "evaluate_pairs", "retrieval_metrics"]
