"""From a conversation to what a model takes: token ids, loss mask, image tensors; and back from ids to turns.

Text of records is never read as anything but text. A literal `<image>` or `<|im_end|>` in a caption neither becomes a
control token nor moves an image, because the template renders without the records' texts (see `templates`), image
placeholders are expanded in the template's words only, and where a text holds the spelling of a control token, it is
tokenised with these switched off.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from mmkit.errors import DataError
from mmkit.images import LoadedImage
from mmkit.models import collating
from mmkit.models.families import CROSS_ATTENTION
from mmkit.models.templates import ChatTemplate, Piece, Turn
from mmkit.models.tokens import CarefulTokenizer, Stretch
from mmkit.models.turns import TurnCutter, WrittenTurn
from mmkit.records import ROLES

if TYPE_CHECKING:
    import os

    from PIL.Image import Image
    from torch import Tensor

_TEXT_KEYS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "text_replacement_offsets")


@dataclass(frozen=True, slots=True)
class Encoded:
    """One conversation, not padded.

    `input_ids`, `in_loss` and `is_image` have one entry a token, image placeholders expanded: whether it is learned (a
    prompt has nothing in the loss), and whether it stands for an image. `image_inputs` is what the family's image
    processor made of this conversation's images, empty for text alone.
    """

    input_ids: list[int]
    in_loss: list[bool]
    is_image: list[bool]
    image_inputs: dict[str, Tensor]

    @property
    def num_image_tokens(self) -> int:
        """How many of the tokens stand for images."""
        return sum(self.is_image)

    @property
    def instruction(self) -> list[int]:
        """The tokens before the first one that is learned, those of images left out: of a conversation for training
        what it has in common with the prompt of its first answer, of a prompt all of its text."""
        end = self.in_loss.index(True) if any(self.in_loss) else len(self.input_ids)
        pairs = zip(self.input_ids[:end], self.is_image[:end], strict=True)
        return [token for token, is_image in pairs if not is_image]


class Chat:
    """The processor (for a text model, the tokenizer) of one model, without its weights. Made by `loading.load_chat`.

    `family` is the config's model_type. `end_of_turn_id` closes an assistant turn, None where that is no control
    token. `end_of_text_ids` are the other tokens that end a text, the first being what training writes.
    """

    def __init__(self, name: str, config: Any, processor: Any, generation_config: Any = None) -> None:
        self.name = name
        self.family: str = config.model_type
        self.processor = processor if hasattr(processor, "tokenizer") else None
        self.tokenizer = processor if self.processor is None else processor.tokenizer
        self.image_token: str | None = getattr(self.processor, "image_token", None)
        self._tokens = CarefulTokenizer(name, self.tokenizer)
        self._template = ChatTemplate(name, self.tokenizer, self._template_source(), self.image_token)
        self._generation_config = generation_config

    @cached_property
    def pad_token_id(self) -> int:
        """What batches are filled up with; the end of text where the tokenizer has no padding token."""
        candidates = (self.tokenizer.pad_token_id, *self._ends())
        return next((i for i in candidates if i is not None), 0)

    @property
    def control_ids(self) -> Collection[int]:
        """The control tokens: what no text of a record becomes, whatever it spells."""
        return self._tokens.controls.keys()

    @cached_property
    def end_of_turn_id(self) -> int | None:
        """The control token that closes an assistant turn."""
        if self._template_source() is None:
            return None
        found = self._tokens.control_pattern.match(self._template.closing("assistant").lstrip())
        return self.tokenizer.convert_tokens_to_ids(found.group()) if found else None

    @cached_property
    def end_of_text_ids(self) -> list[int]:
        """The tokens that end a text, without the one that ends a turn."""
        ids = dict.fromkeys((*self._ends(), self.tokenizer.pad_token_id, self.tokenizer.eos_token_id))
        return [i for i in ids if i is not None and i != self.end_of_turn_id]

    def stop_ids(self, open_turn: str) -> list[int]:
        """The tokens at which writing ends: for a model that writes whole conversations ("user"), those that end a
        text; for one that answers ("assistant"), the end of its turn too."""
        turn_end = self.end_of_turn_id if open_turn == "assistant" else None
        return self.end_of_text_ids if turn_end is None else [*self.end_of_text_ids, turn_end]

    def encode(
        self,
        messages: Sequence[Mapping[str, Any]],
        images: Sequence[LoadedImage | Image],
        *,
        open_turn: str | None = None,
    ) -> Encoded:
        """The tokens of a conversation, as the family's own processor would make them from its chat template.

        `open_turn` None is a whole conversation for training: assistant turns are in the loss up to and with their end
        of turn, and a message's `train` says otherwise. A user turn with `train` true is learned with its header; then
        the model is to write the conversation by itself, and learns all between such turns and the end of text too.
        Where a template closes no turn, the end of text is learned after the last one.
        "assistant" appends the generation prompt, "user" the opening of a user turn. Raises DataError where image
        parts and images differ in number, nothing is in the loss or an image is, or the template cannot do it.
        """
        pieces, texts = self._layout(messages, len(images), open_turn)
        image_inputs, replacements = self._process_images(images)
        encoded = self._encoded(pieces, texts, replacements)
        if open_turn is None:
            _require_loss(encoded)
        return replace(encoded, image_inputs=image_inputs)

    def encode_replaced(self, messages: Sequence[Mapping[str, Any]], replacements: Sequence[str]) -> Encoded:
        """The tokens of a whole conversation for training, with `replacements` in the places of its images, which are
        not needed then. `image_inputs` is empty. Errors as in `encode`."""
        pieces, texts = self._layout(messages, len(replacements), None)
        encoded = self._encoded(pieces, texts, replacements)
        _require_loss(encoded)
        return encoded

    def replacements(self, images: Sequence[LoadedImage | Image]) -> list[str]:
        """What stands in the text for each of these images, by the family's processor, which works through their
        pixels. Raises DataError where it refuses one or the model is a text model."""
        if self.processor is None:
            raise DataError(f"{self.name} is a text model and takes no images")
        return self._process_images(images)[1]

    def encode_unexpanded(
        self, messages: Sequence[Mapping[str, Any]], num_images: int, *, open_turn: str
    ) -> tuple[list[int], int]:
        """The tokens of a prompt with one placeholder for each image, for an engine that expands them by itself, and
        how many of the tokens those placeholders are. Arguments and errors as in `encode`."""
        pieces, texts = self._layout(messages, num_images, open_turn)
        stretches = [Stretch.of(piece, texts, [self.image_token or ""] * num_images) for piece in pieces]
        ids, cover = self._tokenise(stretches)
        return ids, sum(any(stretch.kind == "image" for stretch in stretches[first:last]) for first, last in cover)

    def _layout(
        self, messages: Sequence[Mapping[str, Any]], num_images: int, open_turn: str | None
    ) -> tuple[Sequence[Piece], list[str]]:
        """The conversation as the template lays it out, and the texts that go into it."""
        if open_turn not in (None, "assistant", "user"):
            raise ValueError(f"open_turn: {open_turn!r}")
        shape, texts = _read(messages, training=open_turn is None)
        num_parts = sum(turn.parts.count("image") for turn in shape)
        if num_parts != num_images:
            raise DataError(f"messages hold {num_parts} image parts, but there are {num_images} images")
        ends = self.end_of_text_ids
        end_of_text = self.tokenizer.convert_ids_to_tokens(ends[0]) if ends else None
        return self._template.layout(shape, open_turn, end_of_text, turns_end=self.end_of_turn_id is not None), texts

    def _encoded(self, pieces: Sequence[Piece], texts: Sequence[str], replacements: Sequence[str]) -> Encoded:
        """The tokens of a conversation that is laid out, without image inputs."""
        stretches = [Stretch.of(piece, texts, replacements) for piece in pieces]
        ids, cover = self._tokenise(stretches)
        in_loss = _of_tokens([stretch.in_loss for stretch in stretches], cover)
        is_image = _of_tokens([stretch.kind == "image" for stretch in stretches], cover)
        return Encoded(ids, in_loss, is_image, {})

    def _tokenise(self, stretches: Sequence[Stretch]) -> tuple[list[int], list[tuple[int, int]]]:
        bos = self.tokenizer.bos_token
        first = stretches[0] if stretches else None
        starts_itself = bool(bos and first and first.kind == "template" and first.text.startswith(bos))
        return self._tokens.tokenise(stretches, wrap=self.processor is not None and not starts_itself)

    def encode_text(self, text: str) -> list[int]:
        """The tokens of a raw prompt, with the start token that the tokenizer adds; what `text` spells stays text."""
        return self._tokens.tokenise([Stretch("text", _checked(text), False)], wrap=True)[0]

    def collate(self, samples: Sequence[Encoded], *, padding_side: Literal["left", "right"]) -> dict[str, Tensor]:
        """One batch of model inputs: input_ids and attention_mask (rows × longest), and what images need.

        Raises DataError where the family cannot hold these rows in one batch.
        """
        names = () if self.processor is None else self.processor.model_input_names
        return collating.collate(
            [sample.input_ids for sample in samples],
            [sample.image_inputs for sample in samples],
            family=self.family,
            padding_side=padding_side,
            pad_token_id=self.pad_token_id,
            image_token_id=self._image_token_id,
            with_token_types="mm_token_type_ids" in names,
        )

    def decode(self, ids: Sequence[int]) -> str:
        """The text of generated ids, without control tokens and without white space around it."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text.strip()

    def split_turns(self, ids: Sequence[int], first_role: str = "user") -> tuple[list[WrittenTurn], bool]:
        """Cut what a model wrote, beginning inside a `first_role` turn, into turns.

        Turns end at the template's control tokens, never at text that merely spells them. The second value is False
        where the writing stops inside a turn or a header; that last turn is left out.
        """
        return self._turn_cutter.cut(ids, first_role)

    @cached_property
    def _turn_cutter(self) -> TurnCutter:
        return TurnCutter(self._template, self._tokens, self.end_of_text_ids)

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write processor, tokenizer and chat template, so that `directory` loads like the model they came from."""
        (self.processor or self.tokenizer).save_pretrained(directory)

    def _template_source(self) -> str | None:
        for owner in (self.processor, self.tokenizer):
            source = getattr(owner, "chat_template", None)
            if isinstance(source, dict):
                source = source.get("default")
            if source:
                return str(source)
        return None

    def _ends(self) -> list[int]:
        ends = getattr(self._generation_config, "eos_token_id", None)
        if ends is None:
            ends = self.tokenizer.eos_token_id
        return list(ends) if isinstance(ends, list | tuple) else [] if ends is None else [ends]

    @cached_property
    def _image_token_id(self) -> int | None:
        return None if self.image_token is None else self.tokenizer.convert_tokens_to_ids(self.image_token)

    def _process_images(self, images: Sequence[LoadedImage | Image]) -> tuple[dict[str, Tensor], list[str]]:
        """The image tensors, and for each image what stands in its place in the text."""
        if not images:
            return {}, []
        assert self.processor is not None and self.image_token is not None  # the template has refused before
        pictures = [image.rgb() if isinstance(image, LoadedImage) else image.convert("RGB") for image in images]
        crosses = self.family in CROSS_ATTENTION
        options = {} if crosses else {"return_text_replacement_offsets": True}
        try:
            made = dict(
                self.processor(
                    text=[self.image_token * len(images)],
                    images=[pictures],
                    images_kwargs={"return_tensors": "pt"},
                    **options,
                )
            )
        except ValueError as error:
            raise DataError(f"the image processor of {self.name} refuses an image: {error}") from error
        replaced = made.get("text_replacement_offsets")
        inputs = {key: value for key, value in made.items() if key not in _TEXT_KEYS and key != "cross_attention_mask"}
        return inputs, [one["replacement"] for one in replaced[0]] if replaced else [self.image_token] * len(images)


def _of_tokens(of_stretches: Sequence[bool], cover: Sequence[tuple[int, int]]) -> list[bool]:
    """For each token whether any stretch that it lies in has the property; nearly every token lies in one."""
    return [of_stretches[first] if last == first + 1 else any(of_stretches[first:last]) for first, last in cover]


def _require_loss(encoded: Encoded) -> None:
    if not any(encoded.in_loss):
        raise DataError("no turn of this conversation is learned: it has no assistant turn that is trained")


def _read(messages: Sequence[Mapping[str, Any]], *, training: bool) -> tuple[tuple[Turn, ...], list[str]]:
    """The shape of a conversation and its texts in order. Raises DataError, naming the field, for another form."""
    turns, texts = [], []
    for number, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise DataError(f"messages[{number}].role: expected one of {', '.join(ROLES)}, got {role!r}")
        if not isinstance(content, list | tuple):
            raise DataError(f"messages[{number}].content: expected a list of parts")
        for part in content:
            kind = part.get("type")
            if kind == "text" and isinstance(part.get("text"), str):
                texts.append(_checked(part["text"]))
            elif kind != "image":
                raise DataError(f"messages[{number}].content: expected text and image parts, got {kind!r}")
        train = message.get("train")
        learned = training and (role == "assistant" if train is None else bool(train))
        parts = tuple(part["type"] for part in content)
        if learned and "image" in parts:
            raise DataError(
                f"messages[{number}].content: a turn that is learned holds an image, which no model can write"
            )
        turns.append(Turn(role, parts, learned))
    return tuple(turns), texts


def _checked(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError("a text holds half of a surrogate pair, which is no character") from None
    return text
