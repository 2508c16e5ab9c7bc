"""Two linear towers that learn to name drawn pictures, and a loss that is a plain mean."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F

from mmrag.evaluate.retrieval import retrieval_metrics
from mmrag.sources.pairs import Pair
from mmrag.train import distributed
from mmrag.train.loader import picture_group
from mmrag.train.task import ContrastiveTask, Layer, Task

COLOURS = {"red": (250, 30, 20), "green": (20, 200, 40), "blue": (20, 40, 240), "yellow": (240, 230, 30)}
PLACES = {"left": (0, 0, 4, 8), "right": (4, 0, 8, 8), "top": (0, 0, 8, 4)}
WORDS = ["a", "area", *COLOURS, *PLACES]


def picture(colour, place, shade):
    image = Image.new("RGB", (8, 8), (shade, shade, shade))
    image.paste(colour, place)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def drawn(shade=128):
    """One pair for every colour and place."""
    return [
        Pair(f"{colour}-{place}-{shade}", picture(rgb, box, shade), (f"{colour} {place}", f"a {colour} area {place}"))
        for colour, rgb in COLOURS.items()
        for place, box in PLACES.items()
    ]


PAIRS = [pair for shade in (60, 100, 140, 180) for pair in drawn(shade)]
HELD_OUT = drawn(120)


class Sides(nn.Module):
    """Towers and a temperature; `normed` puts a batch norm, whose buffers must be kept, into the first."""

    def __init__(self, dropout, normed):
        super().__init__()
        norm = nn.BatchNorm1d(24) if normed else nn.Identity()
        self.image = nn.Sequential(nn.Linear(192, 24), norm, nn.GELU(), nn.Dropout(dropout), nn.Linear(24, 16))
        self.text = nn.Sequential(nn.Linear(len(WORDS), 24), nn.GELU(), nn.Dropout(dropout), nn.Linear(24, 16))
        self.temperature = nn.Module()
        self.temperature.log_scale = nn.Parameter(torch.tensor(2.0))


class ToyTask(ContrastiveTask):
    def __init__(self, *, dropout=0.0, normed=False, objective="info_nce", seed=1):
        torch.manual_seed(seed)
        self.network = Sides(dropout, normed)
        self.objective = objective
        self.largest_part = 0
        self.poison_from = None

    def prepare(self, pair, rng):
        pixels = np.asarray(Image.open(io.BytesIO(pair.image)), np.float32).ravel() / 255 - 0.5
        words = np.zeros(len(WORDS), np.float32)
        for word in pair.texts[rng.integers(len(pair.texts))].split():
            words[WORDS.index(word)] = 1
        pixels += rng.normal(0, 0.02, pixels.shape).astype(np.float32)
        return {"pixels": pixels, "words": words, "id": pair.id, "group": picture_group(pair)}

    def collate(self, samples):
        return {
            "pixels": torch.from_numpy(np.stack([sample["pixels"] for sample in samples])),
            "text": {"words": torch.from_numpy(np.stack([sample["words"] for sample in samples]))},
            "ids": [sample["id"] for sample in samples],
            "groups": torch.tensor([sample["group"] for sample in samples]),
        }

    def embed(self, batch):
        self.largest_part = max(self.largest_part, len(batch["pixels"]))
        assert len(batch["ids"]) == len(batch["pixels"]) == len(batch["groups"])
        image, text = self.network.image(batch["pixels"]), self.network.text(batch["text"]["words"])
        return F.normalize(image.float(), dim=-1), F.normalize(text.float(), dim=-1)

    def contrast(self, image_vectors, text_vectors, batch, moment):
        if self.poison_from is not None and moment.step >= self.poison_from:
            image_vectors = image_vectors * float("nan")
        n, first = len(image_vectors), distributed.rank() * len(image_vectors)
        images, texts = distributed.gather(image_vectors), distributed.gather(text_vectors)
        scale = self.network.temperature.log_scale.exp()
        wanted = torch.arange(first, first + n, device=images.device)
        if self.objective == "info_nce":  # local loss: this process's rows against everybody's columns
            loss = F.cross_entropy(scale * image_vectors @ texts.T, wanted) / 2
            loss = loss + F.cross_entropy(scale * text_vectors @ images.T, wanted) / 2
        else:
            signs = 2 * F.one_hot(wanted, len(texts)) - 1
            loss = -F.logsigmoid(signs * (scale * image_vectors @ texts.T - 5)).sum() / n
        return {"loss": loss}

    def layers(self):
        return [
            Layer("image head", self.network.image[4], fresh=True),
            Layer("image", self.network.image, depth=1),
            Layer("text", self.network.text, depth=1),
            Layer("temperature", self.network.temperature),
        ]

    @torch.no_grad()
    def measure(self, pairs):
        batch = self.collate([self.prepare(pair, np.random.default_rng(0)) for pair in pairs])
        images, texts = (vectors.cpu().numpy() for vectors in self.embed(batch))
        return retrieval_metrics(texts, images, np.arange(len(pairs))).as_dict()

    def score(self, figures):
        return (figures["text_to_image"]["R@1"] + figures["image_to_text"]["R@1"]) / 2

    def save(self, folder):
        save_file(
            {name: tensor.contiguous() for name, tensor in self.network.state_dict().items()},
            folder / "model.safetensors",
        )

    def logged(self):
        return {"temperature": (-self.network.temperature.log_scale).exp().item()}


class RegressionTask(Task):
    """A loss that is a mean over samples, and no contrast: words from pixels."""

    def __init__(self):
        self._toy = ToyTask()
        torch.manual_seed(1)
        self.network = nn.Sequential(nn.Linear(192, 16), nn.GELU(), nn.Linear(16, len(WORDS)))

    def prepare(self, pair, rng):
        return self._toy.prepare(pair, rng)

    def collate(self, samples):
        return self._toy.collate(samples)

    def losses(self, batch, moment):
        error = F.mse_loss(self.network(batch["pixels"]), batch["text"]["words"])
        return {"loss": error, "half": error / 2}

    def layers(self):
        return [Layer("all", self.network)]

    def measure(self, pairs):
        batch = self.collate([self.prepare(pair, np.random.default_rng(0)) for pair in pairs])
        return {"loss": self.losses(batch, None)["loss"].item()}

    def score(self, figures):
        return -figures["loss"]

    def save(self, folder):
        save_file(self.network.state_dict(), folder / "model.safetensors")


def open_toy(start, settings, *, where):
    return ToyTask(**settings)
