"""Training: pairs → better models. Needs torch, and nothing of the rest of mmrag that is heavy."""

from mmrag.train.data import Augmentation
from mmrag.train.loop import TrainReport, train
from mmrag.train.losses import OBJECTIVES
from mmrag.train.recipe import TrainRecipe
from mmrag.train.start import Start, load_start

__all__ = ["OBJECTIVES", "Augmentation", "Start", "TrainRecipe", "TrainReport", "load_start", "train"]
