"""The built-in model's Chinese: a tower of characters learns the space of an encoder that is there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from torch import Tensor, nn

from mmrag.errors import InputError, ItemError
from mmrag.evaluate.retrieval import mean_recall, retrieval_metrics
from mmrag.models.characters import CharacterConfig, CharacterTower
from mmrag.models.tokens import has_han
from mmrag.recipe import build
from mmrag.sources.pairs import Pair
from mmrag.train.augmentation import Augmentation
from mmrag.train.dictionary import read_dictionary
from mmrag.train.objectives.contrastive import multi_positive_nce
from mmrag.train.start import Start, load_start
from mmrag.train.task import Batch, Figures, Layer, Losses, Moment, Task
from mmrag.train.texts import encode_texts, filled, texts_of
from mmrag.train.views import Views

SPECIAL = ("[PAD]", "[UNK]")


@dataclass(frozen=True)
class ChineseSettings:
    """How the tower of characters is trained.

    Attributes
    ----------
    width, layers, heads, hidden : int
        Its size.
    max_tokens : int
        Longer texts are cut.
    dropout : float from 0 to 1
        Share of what each layer adds that is dropped.
    words : int
        Of the dictionary, in every step; 0 reads captions only.
    word_weight : float
        Of their loss beside the captions'.
    rare : int
        Characters in fewer words of the dictionary than this, and in no caption, are not learned.
    scale : float
        One over the temperature, fixed.
    label_smoothing : float from 0 to 1
        Share of the target spread over the batch.
    views : int
        How many views of each picture the encoder sees.
    augmentation : Augmentation
        How they differ.
    """

    width: int = 256
    layers: int = 4
    heads: int = 4
    hidden: int = 1024
    max_tokens: int = 64
    dropout: float = 0.1
    words: int = 256
    word_weight: float = 0.5
    rare: int = 8
    scale: float = 20.0
    label_smoothing: float = 0.05
    views: int = 4
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if min(self.layers, self.views, self.max_tokens, self.rare) < 1 or self.width % self.heads or self.scale <= 0:
            raise InputError(
                "layers, views, max_tokens and rare must be at least 1, heads must divide width, scale be above 0"
            )


def character_tokenizer(characters: Iterable[str], max_tokens: int) -> Tokenizer:
    """Make each known character a token, and every other one [UNK]; full-width forms are read as half-width ones."""
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, *characters])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=SPECIAL[1]))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace("。", "")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split("", "isolated")]
    )
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


class ChineseTask(Task):
    """Read Chinese into the space of an encoder, which stays as it is.

    Captions are pulled towards their pictures, and towards what the encoder's own text tower makes of the English
    captions of the same pictures; words of a dictionary towards what it makes of their meanings. With the image
    tower locked, this is the first of the two stages of Chinese-CLIP (https://arxiv.org/abs/2211.01335, section 3.2).

    Parameters
    ----------
    start : Start
        The encoder.
    settings : ChineseSettings
        How to train.
    """

    network: CharacterTower

    def __init__(self, start: Start, settings: ChineseSettings) -> None:
        self.start = start
        self.settings = settings
        self._encoder = start.network.eval().requires_grad_(False)
        self._views = self._seen(settings.views)
        self._held_out = self._seen(1)
        self._english: dict[str, Tensor] = {}

    def _seen(self, count: int) -> Views:
        augmentation = self.settings.augmentation
        return Views(self._look, self.start.preprocessing, count=count, augmentation=augmentation, threads=2)

    @torch.no_grad()
    def _look(self, pixels: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            grid = self._encoder.image(pixels.to(memory_format=torch.channels_last))
        return nn.functional.normalize(self._encoder.head(grid.float()), dim=-1)

    def meet(self, pairs: Sequence[Pair]) -> None:
        """Learn which characters there are, which says how large the tower is.

        Raises
        ------
        InputError
            If no pair has texts in both languages.
        """
        settings = self.settings
        self._dictionary = list(read_dictionary()) if settings.words else []
        counts = Counter(character for word in self._dictionary for form in set(word[:2]) for character in form)
        both = [texts for texts in texts_of(pairs) if chinese(texts) and english(texts)]
        if not both:
            raise InputError(
                "no pair has texts in Chinese and in another language; name the keys of both: --text-key en,zh"
            )
        read = {character for texts in both for text in chinese(texts) for character in normalize("NFKC", text).lower()}
        common = {character for character, count in counts.items() if count >= settings.rare}
        self.tokenizer = character_tokenizer(sorted((read | common) - set("。 ")), settings.max_tokens)
        config = CharacterConfig(
            vocabulary=self.tokenizer.get_vocab_size(),
            width=settings.width,
            layers=settings.layers,
            heads=settings.heads,
            hidden=settings.hidden,
            max_tokens=settings.max_tokens,
            dimension=self._encoder.text.config.dimension,
        )
        self.network = CharacterTower(config, dropout=settings.dropout)

    def begin(self, pairs: Sequence[Pair]) -> None:
        """Compute what the encoder gives."""
        self._views.fill(pairs)
        texts = list(dict.fromkeys(text for some in self._views.texts.values() for text in english(some)))
        self._english = dict(zip(texts, encode_texts(self._encoder, self.start.tokenizer, texts).cpu(), strict=True))
        self._learn_words([(form, word.meaning) for word in self._dictionary for form in sorted(set(word[:2]))])

    def _learn_words(self, words: Sequence[tuple[str, str]]) -> None:
        """Keep the words whose characters are all known, and the vectors of their meanings."""
        unknown = self.tokenizer.token_to_id(SPECIAL[1])
        encoded = self.tokenizer.encode_batch([word for word, _ in words])
        known = [row for row, encoding in enumerate(encoded) if encoding.ids and unknown not in encoding.ids]
        meanings = sorted({words[row][1] for row in known})
        number = {meaning: index for index, meaning in enumerate(meanings)}
        self._words = [encoded[row].ids for row in known]
        self._meanings = torch.tensor([number[words[row][1]] for row in known])
        self._meaning_vectors = encode_texts(self._encoder, self.start.tokenizer, meanings).cpu() if meanings else None

    def prepare(self, pair: Pair, rng: np.random.Generator) -> Mapping[str, Any]:
        """Choose one of the views of a picture; all of its Chinese texts are read."""
        texts, others = chinese(pair.texts), english(pair.texts)
        if not texts or not others:
            raise ItemError("has no text in Chinese" if not texts else "has texts in Chinese only")
        row = self._views.row(pair)
        meant = torch.stack([self._english[text] for text in others]).mean(dim=0)
        return {
            "row": row,
            "ids": self._ids(texts),
            "picture": self._views.stored[row, rng.integers(self.settings.views)],
            "english": nn.functional.normalize(meant, dim=-1),
            "chance": int(rng.integers(1 << 62)),
        }

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self.tokenizer.encode_batch(list(texts))]

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """Lay out n pictures' vectors and texts, and words of the dictionary drawn at random."""
        words = self.settings.words if self._words else 0
        chances = np.random.default_rng([sample["chance"] for sample in samples])  # the same when a run goes on
        drawn = torch.from_numpy(chances.integers(max(1, len(self._words)), size=words))
        ids = [ids for sample in samples for ids in sample["ids"]]
        groups = torch.tensor([sample["row"] for sample in samples])
        batch = {
            "ids": filled([*ids, *(self._words[word] for word in drawn)]),
            "pictures": torch.from_numpy(np.stack([sample["picture"] for sample in samples])).float(),
            "english": torch.stack([sample["english"] for sample in samples]),
            "groups": groups,
            "text_groups": groups.repeat_interleave(torch.tensor([len(sample["ids"]) for sample in samples])),
            "meanings": self._meanings[drawn],
        }
        if self._meaning_vectors is not None:
            batch["meaning_vectors"] = self._meaning_vectors[batch["meanings"]]
        return batch

    def losses(self, batch: Batch, moment: Moment) -> Losses:  # noqa: ARG002
        """Compare captions with pictures and with English captions, words with their meanings."""
        settings, ids = self.settings, batch["ids"]
        with torch.autocast(ids.device.type, torch.bfloat16):
            vectors = nn.functional.normalize(self.network(ids, (ids != 0).long()).float(), dim=-1)
        groups, text_groups = batch["groups"], batch["text_groups"]
        captions, words = vectors[: len(text_groups)], vectors[len(text_groups) :]

        def loss(targets: Tensor, texts: Tensor, target_groups: Tensor, groups: Tensor) -> Tensor:
            return multi_positive_nce(
                targets,
                texts,
                settings.scale,
                image_groups=target_groups,
                text_groups=groups,
                label_smoothing=settings.label_smoothing,
            )

        pictures = loss(batch["pictures"], captions, groups, text_groups)
        english = loss(batch["english"], captions, groups, text_groups)
        total = pictures + english
        if len(words):
            meanings = batch["meanings"]
            total = total + settings.word_weight * loss(batch["meaning_vectors"], words, meanings, meanings)
        return {"loss": total, "pictures": pictures.detach(), "english": english.detach()}

    def layers(self) -> Sequence[Layer]:
        """Name the tower, all of it new."""
        return [Layer("chinese", self.network, fresh=True)]

    @torch.no_grad()
    def measure(self, pairs: Sequence[Pair]) -> Figures:
        """Measure retrieval in both directions, in Chinese."""
        if not len(self._held_out.stored):
            self._held_out.fill(pairs)
        read = {row: chinese(texts) for row, texts in self._held_out.texts.items() if chinese(texts)}
        if not read:
            raise InputError("no pair to measure on has a text in Chinese; name its key: --text-key en,zh")
        ids = [ids for texts in read.values() for ids in self._ids(texts)]
        network, vectors = self.network.eval(), []
        device = next(network.parameters()).device
        for first in range(0, len(ids), 256):
            some = filled(ids[first : first + 256]).to(device)
            vectors.append(nn.functional.normalize(network(some, (some != 0).long()), dim=-1).cpu())
        owner = np.repeat(np.arange(len(read)), [len(texts) for texts in read.values()])
        pictures = np.asarray(self._held_out.stored[list(read), 0], dtype=np.float32)
        return retrieval_metrics(torch.cat(vectors).numpy(), pictures, owner).as_dict()

    def score(self, figures: Figures) -> float:
        """Give the mean R@1 of both directions."""
        return mean_recall(figures)

    def save(self, folder: Path) -> None:
        """Write the tower beside the encoder whose space it reads into."""
        self.start.chinese, self.start.characters = self.network, self.tokenizer
        self.start.write(folder)


def chinese(texts: Sequence[str]) -> tuple[str, ...]:
    """Take those that are written in Chinese characters."""
    return tuple(text for text in texts if has_han(text))


def english(texts: Sequence[str]) -> tuple[str, ...]:
    """Take the others."""
    return tuple(text for text in texts if not has_han(text))


def open_chinese(start: str, settings: Mapping[str, Any], *, where: str) -> ChineseTask:
    """Open the task of the built-in model's Chinese: see `mmrag.train.tasks.open_task`."""
    return ChineseTask(load_start(start), build(ChineseSettings, settings, where=where))
