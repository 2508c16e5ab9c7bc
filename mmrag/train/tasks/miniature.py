"""The built-in model's words: one small decoder learns to judge and to describe what the image tower sees."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmrag.errors import InputError
from mmrag.models.miniature import Miniature, MiniatureConfig
from mmrag.models.miniature_files import END, PAD, START
from mmrag.recipe import build
from mmrag.sources.pairs import Pair
from mmrag.train.augmentation import Augmentation
from mmrag.train.concepts import class_names
from mmrag.train.start import Start, load_start
from mmrag.train.task import Batch, Figures, Layer, Losses, Moment, Task
from mmrag.train.texts import encode_texts, filled, texts_of
from mmrag.train.views import Views

LAST_STAGE = 8
STRIDE = 32  # pixels of a cell
UNKNOWN = "[UNK]"


@dataclass(frozen=True)
class MiniatureSettings:
    """How the built-in matcher and generator are trained.

    Attributes
    ----------
    width, layers, heads, hidden : int
        Size of the decoder.
    vocabulary : int
        Size of its vocabulary at most, learned from the texts.
    max_tokens : int
        Longer texts are cut.
    dropout : float from 0 to 1
        Share of what each layer adds that is dropped.
    captions, negatives : int
        For each picture of a batch: how many of its own texts, and of others' that resemble it, it is read with.
    match_weight : float
        Of the judgement's loss beside the description's.
    label_smoothing : float from 0 to 1
        Share of the next word's target spread over the vocabulary.
    sharpness : float
        How much more likely what resembles a picture is drawn as a negative: cosines are multiplied by it.
    views : int
        How many views of each picture go through the image tower, once.
    augmentation : Augmentation
        How they differ.
    """

    width: int = 256
    layers: int = 3
    heads: int = 8
    hidden: int = 1024
    vocabulary: int = 4000
    max_tokens: int = 40
    dropout: float = 0.2
    captions: int = 3
    negatives: int = 3
    match_weight: float = 1.0
    label_smoothing: float = 0.1
    sharpness: float = 10.0
    views: int = 4
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if min(self.captions, self.negatives, self.views) < 1 or self.width % self.heads:
            raise InputError("captions, negatives and views must be at least 1, and heads must divide width")


def learn_vocabulary(texts: Sequence[str], size: int, max_tokens: int) -> Tokenizer:
    """Learn the pieces of words that texts, and the names of classes, are made of."""
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=size, special_tokens=[PAD, UNKNOWN, START, END], show_progress=False)
    tokenizer.train_from_iterator([*texts, *(name for names in class_names() for name in names)], trainer)
    marks = [(mark, tokenizer.token_to_id(mark)) for mark in (START, END)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{START} $A {END}", special_tokens=marks)
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


class MiniatureTask(Task):
    """Learn to write each picture's texts, and to tell them from others' texts that resemble it.

    LM and ITM of BLIP (https://arxiv.org/abs/2201.12086, section 3.2), with hard negatives drawn within the batch by
    the encoder's cosines; one causal decoder serves both, and the image tower stays as it is.

    Parameters
    ----------
    start : Start
        The encoder whose image tower is looked through.
    settings : MiniatureSettings
        How to train.
    """

    network: Miniature

    def __init__(self, start: Start, settings: MiniatureSettings) -> None:
        self.start = start
        self.settings = settings
        self._encoder = start.network.eval().requires_grad_(False)
        self._views = self._seen(settings.views)
        self._held_out = self._seen(1)
        self._texts: dict[str, tuple[Tensor, list[int]]] = {}  # vector and tokens

    def _seen(self, count: int) -> Views:
        augmentation = self.settings.augmentation
        return Views(self._look, self.start.preprocessing, count=count, augmentation=augmentation, threads=2)

    @torch.no_grad()
    def _look(self, pixels: Tensor) -> Tensor:
        """Give what the last stage, which widens it fourfold, starts from."""
        device = next(self._encoder.parameters()).device
        with torch.autocast(device.type, torch.bfloat16):
            seen: Tensor = self._encoder.image(pixels.to(device, memory_format=torch.channels_last), stop=LAST_STAGE)
        return seen

    def meet(self, pairs: Sequence[Pair]) -> None:
        """Learn a vocabulary, which says how large the decoder is."""
        settings, texts = self.settings, [text for some in texts_of(pairs) for text in some]
        self.tokenizer = learn_vocabulary(texts, settings.vocabulary, settings.max_tokens)
        config = MiniatureConfig(
            vocabulary=self.tokenizer.get_vocab_size(),
            width=settings.width,
            layers=settings.layers,
            heads=settings.heads,
            hidden=settings.hidden,
            grid_features=self._encoder.image.config.features,
            cells=self._cells(),
            max_tokens=settings.max_tokens,
        )
        self.network = Miniature(config, dropout=settings.dropout)

    def begin(self, pairs: Sequence[Pair]) -> None:
        """Compute what the encoder gives."""
        self._encoder.to(self._device)
        self._views.fill(pairs)
        self._read(self._views)

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def _cells(self) -> int:
        size = self.start.preprocessing
        return math.ceil(size.height / STRIDE) * math.ceil(size.width / STRIDE)

    def _read(self, views: Views) -> None:
        """Embed and tokenize all texts of pictures that were seen."""
        texts = list(dict.fromkeys(text for some in views.texts.values() for text in some))
        vectors = encode_texts(self._encoder, self.start.tokenizer, texts).cpu()
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        self._texts |= dict(zip(texts, zip(vectors, ids, strict=True), strict=True))

    def prepare(self, pair: Pair, rng: np.random.Generator) -> Mapping[str, Any]:
        """Choose one of the views of a picture, and some of its texts."""
        row, count = self._views.row(pair), len(pair.texts)
        chosen = rng.permutation(count)[: self.settings.captions]
        chosen = np.resize(chosen, self.settings.captions)  # again from the first, where there are fewer
        read = [self._texts[pair.texts[text]] for text in chosen]
        return {
            "row": row,
            "view": rng.integers(self.settings.views),
            "ids": [ids for _, ids in read],
            "texts": torch.stack([vector for vector, _ in read]),
        }

    def collate(self, samples: Sequence[Mapping[str, Any]]) -> Batch:
        """Lay out the views of n pictures and the tokens and vectors of ``n · captions`` texts."""
        rows = [sample["row"] for sample in samples]
        seen = self._views.stored[rows, [sample["view"] for sample in samples]]
        return {
            "seen": torch.from_numpy(seen).float(),
            "texts": torch.cat([sample["texts"] for sample in samples]),
            "ids": filled([ids for sample in samples for ids in sample["ids"]]),
            "groups": torch.tensor(rows),
        }

    def losses(self, batch: Batch, moment: Moment) -> Losses:  # noqa: ARG002
        """Read each picture's own texts and hard negatives together, in one go."""
        settings, ids = self.settings, batch["ids"]
        with torch.no_grad():
            cells, image_vectors = self.see(batch["seen"])
            negatives = self._hard_texts(image_vectors, batch["texts"], batch["groups"])  # (n, negatives)
        own = torch.arange(len(ids), device=ids.device).view(-1, settings.captions)  # (n, captions)
        read = ids[torch.cat([own, negatives], dim=1)]  # (n, captions + negatives, t)
        with torch.autocast(ids.device.type, torch.bfloat16), plain_attention(ids.device):
            hidden = self.network(read.flatten(0, 1), self.network.look(cells))
            hidden = hidden.view(*read.shape, -1)
            description = self._description_loss(hidden[:, : settings.captions, :-1], read[:, : settings.captions, 1:])
            judgement = judgement_loss(self._match_logits(hidden, read).float(), settings.captions)
        loss = description + settings.match_weight * judgement
        return {"loss": loss, "description": description.detach(), "judgement": judgement.detach()}

    def see(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Turn views into cells ``(n, cells, features)`` and vectors ``(n, d)``."""
        with torch.autocast(seen.device.type, torch.bfloat16):
            grid = self._encoder.image(seen, start=LAST_STAGE).float()
        return grid.flatten(2).transpose(1, 2), F.normalize(self._encoder.head(grid), dim=-1)

    def _hard_texts(self, image_vectors: Tensor, text_vectors: Tensor, groups: Tensor) -> Tensor:
        """Draw texts of other pictures, those that resemble a picture more often, ``(n, negatives)``."""
        scores = self.settings.sharpness * image_vectors @ text_vectors.T  # (n, n · captions)
        own = groups[:, None] == groups.repeat_interleave(self.settings.captions)[None, :]
        possible = int((~own).sum(dim=1).min())
        if not possible:
            raise InputError("a batch of one picture has no other's text to tell from its own; raise data.batch_size")
        shares = scores.masked_fill(own, -torch.inf).softmax(dim=1).cpu()
        again = possible < self.settings.negatives  # of few, some have to be drawn twice
        return torch.multinomial(shares, self.settings.negatives, replacement=again).to(scores.device)

    def _description_loss(self, hidden: Tensor, following: Tensor) -> Tensor:
        real = following != 0
        logits = self.network.next_logits(hidden[real])
        return F.cross_entropy(logits.float(), following[real], label_smoothing=self.settings.label_smoothing)

    def layers(self) -> Sequence[Layer]:
        """Name the decoder, all of it new."""
        return [Layer("miniature", self.network, fresh=True)]

    @torch.no_grad()
    def measure(self, pairs: Sequence[Pair]) -> Figures:
        """Measure on held-out pairs: the loss of a word, and how often a picture's text is told from hard ones."""
        if not len(self._held_out.stored):
            self._held_out.fill(pairs)
            self._read(self._held_out)
        network, rows = self.network.eval(), list(self._held_out.texts)
        words, found, count = 0.0, 0, 0
        for first in range(0, len(rows), 32):
            some = rows[first : first + 32]
            seen = torch.from_numpy(self._held_out.stored[some, 0]).float().to(self._device)
            cells, vectors = self.see(seen)
            read = [self._texts[self._held_out.texts[row][0]] for row in some]
            ids = filled([ids for _, ids in read]).to(self._device)
            texts = torch.stack([vector for vector, _ in read]).to(self._device)
            memory = network.look(cells)
            hidden = network(ids, memory)
            real = ids[:, 1:] != 0
            log_shares = network.next_logits(hidden[:, :-1][real]).log_softmax(dim=-1)
            words -= float(log_shares.gather(1, ids[:, 1:][real][:, None]).sum())
            count += int(real.sum())
            found += self._told_apart(network, memory, ids, vectors @ texts.T)
        return {"word_loss": round(words / count, 4), "told_apart": round(100 * found / len(rows), 2)}

    def _told_apart(self, network: Miniature, memory: Tensor, ids: Tensor, cosines: Tensor) -> int:
        """Count the pictures whose own text beats the three others of the batch that resemble them most."""
        order = cosines.fill_diagonal_(torch.inf).topk(min(4, len(ids)), dim=1).indices  # its own comes first
        read = ids[order]
        hidden = network(read.flatten(0, 1), memory).view(*read.shape, -1)
        return int((self._match_logits(hidden, read).argmax(dim=1) == 0).sum())

    def _match_logits(self, hidden: Tensor, read: Tensor) -> Tensor:
        """Judge by the last real token: ``(n, texts, t, w)`` of tokens ``(n, texts, t)`` → ``(n, texts)``."""
        ends = (read != 0).sum(dim=2) - 1  # (n, texts)
        at_end = hidden.gather(2, ends[:, :, None, None].expand(-1, -1, 1, hidden.shape[-1])).squeeze(2)
        return self.network.match_logits(at_end)

    def score(self, figures: Figures) -> float:
        """Give how little a word surprises, in nats; judging follows it."""
        return -float(figures["word_loss"])

    def save(self, folder: Path) -> None:
        """Write the decoder beside the encoder that it looks through."""
        self.start.miniature, self.start.words = self.network, self.tokenizer
        self.start.write(folder)


def plain_attention(device: torch.device) -> AbstractContextManager[None]:
    """Keep CPUs from the fused attention, whose gradients take them three times as long as the plain one's."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def judgement_loss(logits: Tensor, captions: int) -> Tensor:
    """Tell a picture's own texts from others': each against 0, and each against all the others' together.

    Parameters
    ----------
    logits : float ``(n, captions + negatives)``
        Of n pictures; its own texts first.
    captions : int
        How many are its own.
    """
    own, others = logits[:, :captions], logits[:, captions:]
    alone = (F.softplus(-own).mean() + F.softplus(others).mean()) / 2
    rest = others.logsumexp(dim=1, keepdim=True)  # (n, 1)
    together = F.softplus(rest - own).mean()
    return alone + together


def open_miniature(start: str, settings: Mapping[str, Any], *, where: str) -> MiniatureTask:
    """Open the task of the built-in model's words: see `mmrag.train.tasks.open_task`."""
    return MiniatureTask(load_start(start), build(MiniatureSettings, settings, where=where))
