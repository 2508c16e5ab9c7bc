"""BLIP's words: captions, answers, and how likely given answers are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from mmrag.errors import ModelError
from mmrag.models.blip_network import BlipNetwork, picture_states
from mmrag.models.blip_words import check_questions, seeded, writing
from mmrag.models.cards import Role
from mmrag.models.network import as_array, import_torch
from mmrag.roles import Generator, Scores

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

BATCH = 8
"""How many pictures are described, or questions answered, at once."""

ANSWERS = 64
"""How many answers to one question are judged at once."""


class BlipGenerator(BlipNetwork, Generator):
    """What a checkpoint cannot do is refused, with the name of one that can."""

    roles: ClassVar[tuple[Role, ...]] = ("generator",)

    def caption(  # noqa: D102
        self,
        images: Sequence[Image],  # noqa: ARG002
        *,
        prompt: str = "",  # noqa: ARG002
        beams: int = 3,  # noqa: ARG002
        nucleus: float | None = None,  # noqa: ARG002
        max_tokens: int = 30,  # noqa: ARG002
        seed: int | None = None,  # noqa: ARG002
    ) -> list[str]:
        raise ModelError(
            f"{self.card.name} answers questions and describes nothing; blip:Salesforce/blip-image-captioning-base does"
        )

    def answer(  # noqa: D102
        self,
        images: Sequence[Image],  # noqa: ARG002
        questions: Sequence[str],  # noqa: ARG002
        *,
        beams: int = 3,  # noqa: ARG002
        max_tokens: int = 10,  # noqa: ARG002
    ) -> list[str]:
        raise self._answers_nothing()

    def rank_answers(  # noqa: D102
        self,
        images: Sequence[Image],  # noqa: ARG002
        questions: Sequence[str],  # noqa: ARG002
        answers: Sequence[str],  # noqa: ARG002
    ) -> Scores:
        raise self._answers_nothing()

    def _answers_nothing(self) -> ModelError:
        return ModelError(f"{self.card.name} describes and answers nothing; blip:Salesforce/blip-vqa-base does")

    def _write(self, network: Any, start: Sequence[int], states: Tensor, options: dict[str, Any]) -> list[str]:
        """Go on writing from the tokens `start`, once for each of ``(n, …, width)`` that is described or answered."""
        torch = import_torch()
        written = network.text_decoder.generate(
            input_ids=torch.tensor([start] * len(states), device=states.device),
            encoder_hidden_states=states,
            eos_token_id=self.text["sep_token_id"],
            pad_token_id=self.text["pad_token_id"],
            **options,
        )
        return [self.tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in written.tolist()]


class BlipCaptioner(BlipGenerator):
    """Describes pictures."""

    architecture = "BlipForConditionalGeneration"
    summary = "BLIP: describes pictures."

    def caption(
        self,
        images: Sequence[Image],
        *,
        prompt: str = "",
        beams: int = 3,
        nucleus: float | None = None,
        max_tokens: int = 30,
        seed: int | None = None,
    ) -> list[str]:
        """Describe pictures; parameters and result as those of `Generator.caption`.

        What is sampled depends on the pictures of the same call.
        """
        options = writing(beams, max_tokens, nucleus)
        (ids,) = self.token_ids([prompt], "[CLS]")
        start = [self.text["bos_token_id"], *ids[1:-1]]  # without the token that ends a text
        captions: list[str] = []
        with self.running() as network, seeded(seed, self.device):
            for first in range(0, len(images), BATCH):
                states = picture_states(network, self.tensor(self.pixels(images[first : first + BATCH])))
                captions += self._write(network, start, states, options)
        return captions


class BlipAnswerer(BlipGenerator):
    """Answers questions about pictures, in its own words or out of a list."""

    architecture = "BlipForQuestionAnswering"
    summary = "BLIP: answers questions about pictures."

    def answer(
        self, images: Sequence[Image], questions: Sequence[str], *, beams: int = 3, max_tokens: int = 10
    ) -> list[str]:
        """Answer a question about each picture; parameters and result as those of `Generator.answer`."""
        options = writing(beams, max_tokens)
        written = [""] * len(images)
        with self.running() as network:
            for rows, states in self._questions(network, images, questions):
                words = self._write(network, [self.text["bos_token_id"]], states, options)
                for row, word in zip(rows, words, strict=True):
                    written[row] = word
        return written

    def rank_answers(self, images: Sequence[Image], questions: Sequence[str], answers: Sequence[str]) -> Scores:
        """Tell how likely each of a list of answers is; parameters and result as those of `Generator.rank_answers`.

        Every answer is judged in full, also those whose first token is unlikely.
        """
        scores = np.empty((len(images), len(answers)), dtype=np.float32)
        ids = [[self.text["bos_token_id"], *one[1:]] for one in self.token_ids(answers, "[CLS]")] if answers else []
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        with self.running() as network:
            for rows, states in self._questions(network, images, questions):
                for first in range(0, len(order), ANSWERS):
                    columns = order[first : first + ANSWERS]
                    some = [ids[column] for column in columns]
                    for row, state in zip(rows, states, strict=True):
                        scores[row, columns] = as_array(_log_likelihood(network.text_decoder, some, state))
        return scores

    def _questions(
        self, network: Any, images: Sequence[Image], questions: Sequence[str]
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Read questions together with their pictures, some of the same length at a time: ``(some, tokens, width)``.

        Without padding: it would change BLIP's answers, which attend to it.
        """
        check_questions(images, questions)
        torch = import_torch()
        ids = self.token_ids(questions, self.first) if questions else []
        for length in sorted({len(one) for one in ids}):
            alike = [row for row, one in enumerate(ids) if len(one) == length]
            for first in range(0, len(alike), BATCH):
                rows = alike[first : first + BATCH]
                seen = picture_states(network, self.tensor(self.pixels([images[row] for row in rows])))
                tokens = torch.tensor([ids[row] for row in rows], device=seen.device)
                yield rows, network.text_encoder(input_ids=tokens, encoder_hidden_states=seen).last_hidden_state


def _log_likelihood(decoder: Any, ids: Sequence[Sequence[int]], question: Tensor) -> Tensor:
    """Give the log-likelihood ``(n,)`` of n texts after their first tokens, given a question ``(tokens, width)``."""
    torch = import_torch()
    longest = max(len(one) for one in ids)
    padded = torch.tensor([[*one, *[0] * (longest - len(one))] for one in ids], device=question.device)
    real = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in ids], device=question.device)
    logits = decoder(  # what is padded comes last, and no token looks at what comes after it
        input_ids=padded[:, :-1], encoder_hidden_states=question.expand(len(ids), -1, -1)
    ).logits
    chosen = logits.float().log_softmax(-1).gather(-1, padded[:, 1:, None])[..., 0]
    likelihood: Tensor = (chosen * real[:, 1:]).sum(-1)
    return likelihood
