"""A tiny model of the kind that ships, with random weights: two text towers, an image tower, and a Miniature."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from mmrag.models.cards import Card
from mmrag.models.export import export_folder
from mmrag.models.miniature import Miniature, MiniatureConfig
from mmrag.models.miniature_export import export_miniature
from mmrag.models.preprocess import Preprocessing
from mmrag.models.towers import BertConfig, BertTextTower, DualEncoder, EfficientNetLite, EfficientNetLiteConfig
from tests.models.shaken import shaken
from tests.models.tiny_blip import SPECIAL, VOCABULARY, tokenizer_json

SIDE = 96  # pixels: a grid of 3 by 3
CHINESE = [*SPECIAL, *"一只狗在雪地里海滩上的两个孩子红色汽车"]
CONFIG = MiniatureConfig(
    vocabulary=len(VOCABULARY), width=32, layers=3, heads=4, hidden=64, grid_features=64, cells=9, max_tokens=24
)
CARD = Card(
    name="tiny-miniature",
    family="onnx",
    revision="",
    dimension=64,
    roles=("encoder", "matcher", "generator"),
    max_tokens=40,
    languages=("en", "zh"),
)
PREPROCESSING = Preprocessing(SIDE, SIDE, 3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def halved(network):
    """With weights that half precision holds, as the files store them."""
    return network.half().float().eval()


def chinese_tokenizer_json():
    """A token for each character."""
    vocabulary = {token: number for number, token in enumerate(dict.fromkeys(CHINESE))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return tokenizer.to_str()


def text_tower(vocabulary, seed):
    """Says different things of different texts."""
    size = {"dimension": 64, "layers": 2, "heads": 4, "hidden": 128, "max_tokens": 48}
    return halved(shaken(BertTextTower(BertConfig(vocabulary=vocabulary, **size)), seed))


def networks(config=CONFIG):
    """The encoder, the Chinese text tower and the Miniature."""
    torch.manual_seed(0)
    image = EfficientNetLite(EfficientNetLiteConfig(width=0.25, depth=0.5, features=config.grid_features))
    encoder = DualEncoder(image, text_tower(len(VOCABULARY), 1))
    shaken(encoder.image, 2)
    shaken(encoder.head, 3)
    return halved(encoder), text_tower(len(set(CHINESE)), 4), halved(shaken(Miniature(config), 5))


def write_miniature(folder, made, *, settings=None, card=CARD):
    """Write a model folder of the three networks."""
    encoder, chinese, miniature = made
    export_miniature(miniature, folder, tokenizer=tokenizer_json(), settings=settings)
    export_folder(
        encoder,
        folder,
        card=card,
        tokenizer=tokenizer_json(),
        preprocessing=PREPROCESSING,
        miniature=miniature,
        chinese=chinese,
        chinese_tokenizer=chinese_tokenizer_json(),
    )


@cache
def _written():
    folder = TemporaryDirectory()
    write_miniature(Path(folder.name), networks())
    return folder


def make_miniature(folder):
    """Write the same folder each time; gives its name."""
    shutil.copytree(_written().name, folder, dirs_exist_ok=True)
    return str(folder)
