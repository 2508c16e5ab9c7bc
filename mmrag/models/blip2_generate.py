"""BLIP-2 and InstructBLIP: a language model that reads a picture as 32 soft tokens before the words.

A conversation is written down as section 4.1 of the paper does: "Question: … Answer: …. Question: … Answer:". Only
one picture goes before the words; of several, each is asked about alone, and the language model composes the answers.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrag.errors import InputError, ModelError
from mmrag.models.blip2_network import Blip2Network
from mmrag.models.blip_words import check_questions, seeded, writing
from mmrag.models.chatting import check_turns
from mmrag.models.network import as_array, import_torch, import_transformers
from mmrag.models.pretrained import HERE
from mmrag.models.token_stream import Reading, TokenGenerator, begun_text
from mmrag.models.tokens import Tokens, tell_cut
from mmrag.roles import Scores, Turn

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

_PARAGRAPH = "\n\n"
_TRAINED_WITH = 512


class Blip2Generator(Blip2Network, TokenGenerator):
    """BLIP-2's second stage, with OPT or Flan-T5 (https://arxiv.org/abs/2301.12597).

    Parameters
    ----------
    checkpoint : Checkpoint
        A `Blip2ForConditionalGeneration` as transformers saves it.
    """

    architecture = "Blip2ForConditionalGeneration"
    roles = ("generator",)
    summary = "BLIP-2: describes pictures and answers questions about them."
    pictures_at_once = 8
    answers_at_once = 64
    instruction = ""  # what a caption is asked for with
    keeps_prompt = True  # whether it begins with what it was asked for with

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
        """Describe pictures; parameters as those of `Generator.caption`."""
        options = writing(beams, max_tokens, nucleus)
        prompts = [prompt or self.instruction] * len(images)
        with self.running(), seeded(seed, self.device):
            return self._generate(images, prompts, options, keep_prompt=self.keeps_prompt)

    def answer(
        self, images: Sequence[Image], questions: Sequence[str], *, beams: int = 3, max_tokens: int = 10
    ) -> list[str]:
        """Answer a question about each picture; short answers are preferred, as in section 4.1 of the paper."""
        options = {**writing(beams, max_tokens), "length_penalty": -1.0}
        return self._generate(images, self._asked(images, questions), options)

    def rank_answers(self, images: Sequence[Image], questions: Sequence[str], answers: Sequence[str]) -> Scores:
        """Tell how likely each of a list of answers is for each picture and its question.

        Parameters
        ----------
        images : sequence of PIL images
            Upright RGB pictures.
        questions : sequence of str
            One for each picture.
        answers : sequence of str
            The same list for all pictures.

        Returns
        -------
        float32 ``(pictures, answers)``
            The natural logarithm of the probability that the language model says an answer, and then ends.
        """
        if not all(answer.strip() for answer in answers):
            raise InputError("an answer is empty; give words to rank")
        prompts = self._asked(images, questions)
        scores = np.empty((len(images), len(answers)), dtype=np.float32)
        with self.running() as network:
            read = _causal if network.config.use_decoder_only_language_model else _encoded
            for rows, contexts in self._contexts(network, images, prompts):
                for row, context in zip(rows, contexts, strict=True):
                    continued = read(network.language_model, context[None])
                    for columns, ids in self._continuations(network, prompts[row], answers):
                        scores[row, columns] = _likelihoods(continued, self.tensor(ids))
        return scores

    def prompt(self, question: str) -> str:
        """Put a question as the model was asked while it was evaluated (section 4.1)."""
        answer = "Answer" if self.section("text_config")["model_type"] == "opt" else "Short answer"
        return f"Question: {question} {answer}:"

    def tokenize(self, text: str) -> dict[str, list[int]]:
        """Make the tokens that go into the network beside a picture; what is too long is cut, with a warning."""
        return {"input_ids": self._cut(self.tokenizer, text), **self.instructed(text)}

    def instructed(self, text: str) -> dict[str, list[int]]:  # noqa: ARG002
        """Make the tokens that the Q-Former reads: none."""
        return {}

    @property
    def context_tokens(self) -> int:
        """How many positions the language model has; of Flan-T5, which has none, as many as it was trained with."""
        return int(self.section("text_config").get("max_position_embeddings", _TRAINED_WITH))

    @property
    def image_tokens(self) -> int:
        """How many soft tokens a picture is."""
        return int(self.checkpoint.config.get("num_query_tokens", self.queries))

    def count_turns(self, turns: Sequence[Turn]) -> int:
        """Count the tokens of a conversation; a picture of several is told in fewer words than it counts."""
        check_turns(self, turns)
        pictures = sum(len(turn.images) for turn in turns)
        begun = begun_text(turns)
        said = turns[:-1] if turns[-1].who == "assistant" else turns
        words = self.tokenizer(f"{written_down(said)} {begun}".strip()).input_ids
        return len(words) + pictures * self.image_tokens

    def prepare(self, network: Any, turns: Sequence[Turn], check: Callable[[], None]) -> Reading:
        """Embed a conversation behind its picture; of several, ask about each first."""
        images = [image for turn in turns for image in turn.images]
        begun = begun_text(turns)
        said = turns[:-1] if turns[-1].who == "assistant" else turns
        seen: list[str] = []
        for image in images if len(images) > 1 else ():
            check()
            seen += self.answer([image], [_question(said[-1])])
        text = written_down(said, seen)
        inputs: dict[str, Any] = {}
        if network.config.use_decoder_only_language_model:
            text = f"{text} {begun}".strip()
        elif begun:
            start = network.language_model.generation_config.decoder_start_token_id
            inputs["decoder_input_ids"] = self.tensor(np.array([[start, *self.encode(begun)]]))
        context = self._conversation(network, images if len(images) == 1 else [], text)
        inputs["attention_mask"] = import_torch().ones(
            context.shape[:2], dtype=import_torch().long, device=context.device
        )
        room = self.context_tokens - self.count_turns(turns)
        return Reading(network.language_model, {"inputs_embeds": context, **inputs}, room)

    def _conversation(self, network: Any, images: Sequence[Image], text: str) -> Tensor:
        """Embed a text ``(1, t, width)``, which nothing cuts, behind a picture if there is one."""
        tokens = {"input_ids": self.tokenizer(text).input_ids, **self.instructed(text)}
        if images:
            return self._embed(network, images, [tokens])
        words: Tensor = network.language_model.get_input_embeddings()(self.tensor(np.array([tokens["input_ids"]])))
        return words

    def _asked(self, images: Sequence[Image], questions: Sequence[str]) -> list[str]:
        check_questions(images, questions)
        return [self.prompt(question) for question in questions]

    def _generate(
        self,
        images: Sequence[Image],
        prompts: Sequence[str],
        options: dict[str, Any],
        *,
        keep_prompt: bool = False,
    ) -> list[str]:
        written = [""] * len(images)
        with self.running() as network:
            causal = network.config.use_decoder_only_language_model
            for rows, contexts in self._contexts(network, images, prompts):
                mask = import_torch().ones(contexts.shape[:2], dtype=import_torch().long, device=contexts.device)
                output = network.language_model.generate(inputs_embeds=contexts, attention_mask=mask, **options)
                words = self.tokenizer.batch_decode(output, skip_special_tokens=True)
                for row, one in zip(rows, words, strict=True):
                    before = prompts[row] if keep_prompt else ""
                    written[row] = f"{before}{'' if causal else ' '}{one}".strip()
        return written

    def _contexts(
        self, network: Any, images: Sequence[Image], prompts: Sequence[str]
    ) -> Iterator[tuple[list[int], Tensor]]:
        """Embed pictures and prompts ``(n, queries + t, width)``, equally long ones together: none is padded."""
        groups = defaultdict(list)
        for row, tokens in enumerate(map(self.tokenize, prompts)):
            groups[tuple(map(len, tokens.values()))].append((row, tokens))
        for group in groups.values():
            for start in range(0, len(group), self.pictures_at_once):
                part = group[start : start + self.pictures_at_once]
                rows = [row for row, _ in part]
                yield rows, self._embed(network, [images[row] for row in rows], [tokens for _, tokens in part])

    def _embed(self, network: Any, images: Sequence[Image], tokens: Sequence[dict[str, list[int]]]) -> Tensor:
        """Embed n pictures, each before its tokens, which are equally many: ``(n, queries + t, width)``."""
        # an empty prompt is no token at all for some tokenizers, and an array of nothing would be of floats
        given = {name: self.tensor(np.array([one[name] for one in tokens], dtype=np.int64)) for name in tokens[0]}
        words = network.language_model.get_input_embeddings()(given.pop("input_ids"))
        seen = network.get_image_features(pixel_values=self.tensor(self.pixels(images)), **given).pooler_output
        context: Tensor = import_torch().cat([seen.to(words.dtype), words], dim=1)
        return context

    def _continuations(self, network: Any, prompt: str, answers: Sequence[str]) -> Iterator[tuple[list[int], Tokens]]:
        """Give answers as tokens ``(n, t)`` with the end token, those that are equally long together."""
        groups = defaultdict(list)
        for column, answer in enumerate(answers):
            ids = self._continuation(network, prompt, answer.strip())
            groups[len(ids)].append((column, ids))
        for group in groups.values():
            for start in range(0, len(group), self.answers_at_once):
                part = group[start : start + self.answers_at_once]
                yield [column for column, _ in part], np.array([ids for _, ids in part])

    def _continuation(self, network: Any, prompt: str, answer: str) -> list[int]:
        if not network.config.use_decoder_only_language_model:
            return list(self.tokenizer(answer).input_ids)  # ends itself
        before = len(self.tokenizer(prompt).input_ids)
        end = network.language_model.generation_config.eos_token_id
        ids = self.tokenizer(f"{prompt} {answer}").input_ids[before:]
        return [*ids, end[0] if isinstance(end, list) else end]

    def _cut(self, tokenizer: Any, text: str) -> list[int]:
        ids: list[int] = tokenizer(text).input_ids
        if len(ids) <= self.card.max_tokens:
            return ids
        tell_cut(text, self.card.max_tokens)
        return list(tokenizer(text, truncation=True, max_length=self.card.max_tokens).input_ids)

    @cached_property
    def tokenizer(self) -> Any:  # noqa: D102
        return _read_tokenizer(self.checkpoint.path)


class InstructBlip(Blip2Generator):
    """BLIP-2 whose queries read the instruction too (Dai et al. 2023, https://arxiv.org/abs/2305.06500).

    `caption` takes its prompt as the instruction, and captions do not repeat it.
    """

    architecture = "InstructBlipForConditionalGeneration"
    summary = "InstructBLIP: describes pictures and answers questions about them."
    instruction = "A short image description."  # appendix C of the paper
    keeps_prompt = False

    def prompt(self, question: str) -> str:
        """Put a question as the model was asked while it was trained (appendix C)."""
        return f"Question: {question} Short answer:"

    def instructed(self, text: str) -> dict[str, list[int]]:
        """Make the tokens that the Q-Former reads, with its own tokenizer; what is too long is cut, with a warning."""
        return {"qformer_input_ids": self._cut(self._instructions, text)}

    @cached_property
    def _instructions(self) -> Any:
        return _read_tokenizer(self.checkpoint.path / "qformer_tokenizer")


def written_down(turns: Sequence[Turn], seen: Sequence[str] = ()) -> str:
    """Write a conversation down as BLIP-2 was shown to answer it (section 4.1).

    What the system says comes first, then what was seen in pictures, if there are several, and the paragraphs of the
    user's last turn before its last one, which is the question: its sources.

    >>> written_down([Turn("user", "What is it?"), Turn("assistant", "A dog."), Turn("user", "What colour?")])
    'Question: What is it? Answer: A dog. Question: What colour? Answer:'
    """
    *before, last = turns
    said = [turn.text.strip() for turn in before if turn.who == "system"]
    said += [f"Picture {number}: {_without_stop(text)}." for number, text in enumerate(seen, start=1)]
    said += [part.strip() for part in last.text.split(_PARAGRAPH)[:-1] if part.strip()]
    for turn in before:
        if turn.who == "user":
            said.append(f"Question: {turn.text.strip()}")
        elif turn.who == "assistant":
            said.append(f"Answer: {_without_stop(turn.text)}.")
    return " ".join([*said, f"Question: {_question(last)} Answer:"])


def _question(turn: Turn) -> str:
    return turn.text.rpartition(_PARAGRAPH)[2].strip()


def _without_stop(text: str) -> str:
    return text.strip().removesuffix(".")


def _read_tokenizer(folder: Path) -> Any:
    transformers = import_transformers()
    try:
        return transformers.AutoTokenizer.from_pretrained(folder, **HERE)
    except Exception as error:  # tokenizers and transformers each raise their own
        raise ModelError(f"{folder} has no tokenizer that can be read: {error}") from error


Continue = Callable[["Tensor"], "Tensor"]  # tokens (n, t) → the logits (n, t, vocabulary) that foretell them


def _causal(language_model: Any, context: Tensor) -> Continue:
    """Let a decoder read a context ``(1, s, width)`` once, for all that may follow."""
    torch = import_torch()
    read = language_model(inputs_embeds=context, use_cache=True)

    def continued(ids: Tensor) -> Tensor:
        cache = copy.deepcopy(read.past_key_values)
        cache.batch_repeat_interleave(len(ids))
        mask = torch.ones(len(ids), context.shape[1] + ids.shape[1] - 1, dtype=torch.long, device=ids.device)
        rest = language_model(input_ids=ids[:, :-1], attention_mask=mask, past_key_values=cache).logits
        logits: Tensor = torch.cat([read.logits[:, -1:].expand(len(ids), -1, -1), rest], dim=1)
        return logits

    return continued


def _encoded(language_model: Any, context: Tensor) -> Continue:
    """Let an encoder read a context ``(1, s, width)`` once, for all that the decoder may say."""
    read = language_model.get_encoder()(inputs_embeds=context).last_hidden_state

    def continued(ids: Tensor) -> Tensor:
        before = language_model.prepare_decoder_input_ids_from_labels(ids)
        memory = (read.expand(len(ids), -1, -1),)
        logits: Tensor = language_model(encoder_outputs=memory, decoder_input_ids=before).logits
        return logits

    return continued


def _likelihoods(continued: Continue, ids: Tensor) -> Scores:
    """Tell the log-probabilities of n answers ``(n, t)``."""
    foretold = continued(ids).float().log_softmax(dim=-1)  # (n, t, vocabulary)
    likelihoods: Scores = as_array(foretold.gather(2, ids[..., None]).sum(dim=(1, 2)))
    return likelihoods
