"""Language models of transformers' that see: LLaVA, SmolVLM, Qwen-VL and whatever it calls image-text-to-text.

How a conversation is put to a model is in its own files, as a chat template. No code of its author's is run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from mmrag.errors import GenerationError, ModelError
from mmrag.models.cards import Card, revision_of
from mmrag.models.chatting import check_turns
from mmrag.models.checkpoint import Checkpoint
from mmrag.models.network import import_transformers
from mmrag.models.pretrained import HERE, load_pretrained, longest_text, read_config
from mmrag.models.token_stream import Reading, TokenGenerator, begun_text
from mmrag.roles import Identity, Turn

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

LONGEST_SIDE = 2048
"""Pictures are shrunk to this, in pixels: some models read more tokens the larger a picture is, without an end."""

_SHAPES = ((2048, 2048), (2048, 1024), (1024, 2048))


def reads_pictures(config: dict[str, Any]) -> bool:
    """Tell by its config.json whether transformers has a model that goes on with pictures and words."""
    auto = import_transformers().models.auto.modeling_auto
    classes: dict[str, str] = auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return classes.get(str(config.get("model_type"))) in (config.get("architectures") or ())


def open_image_text(reference: str) -> ImageTextGenerator:
    """Open a model that is here, by its path or its name on the hub; errors as those of `ImageTextGenerator`."""
    return ImageTextGenerator(Checkpoint.locate(reference))


class ImageTextGenerator(TokenGenerator):
    """A language model that sees, as transformers saves it.

    Parameters
    ----------
    checkpoint : Checkpoint
        Of a class that `AutoModelForImageTextToText` knows.

    Raises
    ------
    ModelError
        If a file is missing or damaged.
    """

    batch = 1  # a picture at a time is enough work
    decode_at_least = LONGEST_SIDE

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._config = read_config(checkpoint)
        weights = checkpoint.fingerprint(also=("chat_template*",))
        self.card = Card(
            name=checkpoint.name,
            family="hf",
            revision=revision_of(weights),
            roles=("generator",),
            dimension=0,
            max_tokens=longest_text(checkpoint, self._config.get_text_config().to_dict()),
            languages=checkpoint.languages or (),
            summary=f"A {self._config.model_type} model, computed by transformers: sees, and goes on in words.",
            weights=weights,
            licence_weights=checkpoint.licence,
            sources=(checkpoint.source,),
        )
        self.identity = Identity(self.card.name, self.card.revision, weights, "its own processor", 0)

    def load_network(self) -> torch.nn.Module:
        """Read the weights, of which every one must be there, into the precision that they are needed in."""
        mapping = import_transformers().models.auto.modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
        return load_pretrained(self._checkpoint, mapping[type(self._config)], dtype=self.dtype)

    @cached_property
    def image_tokens(self) -> int:
        """How many tokens a picture of at most `LONGEST_SIDE` is read as, with what stands around it."""
        from PIL import Image

        return max(self.count_turns([Turn("user", "", (Image.new("RGB", shape),))]) for shape in _SHAPES)

    def count_turns(self, turns: Sequence[Turn]) -> int:
        """Count the tokens of a conversation, with those of its pictures."""
        check_turns(self, turns)
        return int(self._read(turns)["input_ids"].shape[1])

    def prepare(self, network: Any, turns: Sequence[Turn], check: Callable[[], None]) -> Reading:
        """Read a conversation as the model's own processor does."""
        inputs = self._read(turns)
        check()
        room = self.context_tokens - inputs["input_ids"].shape[1]
        return Reading(network, dict(inputs.to(self.device, self.dtype)), room)

    def _read(self, turns: Sequence[Turn]) -> Any:
        """Make the arrays that the network takes: "input_ids" ``(1, t)``, and what it sees of pictures."""
        images = [_shrunk(image) for turn in turns for image in turn.images]
        try:
            text = self._put(turns)
            begins = self.tokenizer.bos_token
            added = not (begins and text.startswith(begins))  # a template may write it itself
            return self._processor(text=text, images=images or None, add_special_tokens=added, return_tensors="pt")
        except Exception as error:  # of templates, processors and tokenizers
            raise GenerationError(f"{self.card.name} cannot read this conversation: {error}") from error

    def _put(self, turns: Sequence[Turn]) -> str:
        """Write a conversation down as the model was taught to read it; without a template, its words alone."""
        said = [(turn, self._plain(turn.text)) for turn in turns]
        if self._processor.chat_template is None:
            picture = getattr(self._processor, "image_token", "")
            return "\n".join(picture * len(turn.images) + text for turn, text in said)
        begun = self._plain(begun_text(turns))
        said = said[:-1] if turns[-1].who == "assistant" else said
        messages = [
            {
                "role": turn.who,
                "content": [*({"type": "image"} for _ in turn.images), {"type": "text", "text": text}],
            }
            for turn, text in said
        ]
        put: str = self._processor.apply_chat_template(messages, add_generation_prompt=True)
        apart = put[-1:].isspace() or put.endswith(tuple(self._signs))
        return put if not begun else f"{put}{begun}" if apart else f"{put} {begun}"

    def _plain(self, text: str) -> str:
        """Break what the tokenizer would read as a sign of its own, such as a picture or the end of a turn."""
        for sign in self._signs:
            text = text.replace(sign, f"{sign[0]} {sign[1:]}")
        return text

    @cached_property
    def _signs(self) -> list[str]:
        added = {str(token) for token in self.tokenizer.added_tokens_decoder.values()}
        signs = {*added, *self.tokenizer.all_special_tokens, getattr(self._processor, "image_token", "")}
        return sorted((sign for sign in signs if len(sign.strip()) > 1), key=len, reverse=True)

    @property
    def tokenizer(self) -> Any:  # noqa: D102
        return self._processor.tokenizer

    @cached_property
    def _processor(self) -> Any:
        transformers = import_transformers()
        try:
            return transformers.AutoProcessor.from_pretrained(self._checkpoint.path, **HERE)
        except Exception as error:  # of transformers, tokenizers, and packages that some processors want
            raise ModelError(
                f"{self._checkpoint.reference} does not say how pictures and words are prepared, or what does it is "
                f"not here: {error}"
            ) from error


def _shrunk(image: Image) -> Image:
    if max(image.size) <= LONGEST_SIDE:
        return image
    image = image.copy()
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return image
