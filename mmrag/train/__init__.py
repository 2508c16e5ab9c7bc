"""Training: pairs → better models. Needs torch, and nothing of the rest of mmrag that is heavy."""

from mmrag.train.augmentation import Augmentation
from mmrag.train.loop import TrainReport, fit
from mmrag.train.recipe import TrainRecipe, load_recipe
from mmrag.train.start import Start, load_start

__all__ = ["Augmentation", "Start", "TrainRecipe", "TrainReport", "fit", "load_recipe", "load_start"]
