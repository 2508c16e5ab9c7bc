"""A built-in model that is too small to be useful, and pictures that are too simple to be real."""

from __future__ import annotations

import io

import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from mmrag.models.preprocess import Preprocessing
from mmrag.models.towers import (
    BertConfig,
    BertTextTower,
    DualEncoder,
    EfficientNetLite,
    EfficientNetLiteConfig,
)
from mmrag.train import Start

COLOURS = {"red": (250, 30, 20), "green": (20, 200, 40), "blue": (20, 40, 240), "yellow": (240, 230, 30)}
PLACES = {"left": (0, 0, 16, 32), "right": (16, 0, 32, 32), "top": (0, 0, 32, 16)}


def picture(colour, place, ground):
    image = Image.new("RGB", (32, 32), (ground,) * 3)
    image.paste(colour, place)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def small_start(classifier=None):
    torch.manual_seed(1)
    words = ["[UNK]", "a", "area", "photo", "of", *COLOURS, *PLACES]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, words[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    image = EfficientNetLite(EfficientNetLiteConfig(width=0.25, depth=0.5, features=64))
    text = BertTextTower(BertConfig(vocabulary=len(words), dimension=32, layers=1, heads=2, hidden=64))
    for parameter in image.parameters():  # keep the signal alive through layers that nobody has trained
        if parameter.ndim > 1:
            torch.nn.init.kaiming_normal_(parameter)
    for parameter in text.words.parameters():
        parameter.data *= 3
    preprocessing = Preprocessing(32, 32, 3, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    return Start(DualEncoder(image, text), tokenizer.to_str(), preprocessing, max_tokens=8, classifier=classifier)
