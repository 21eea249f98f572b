"""What a chat template puts around the texts and images of a conversation, and where each turn begins and ends.

The template never sees a record's text. It renders marks in the texts' places, so that its own words (and with them
its control tokens) are told from the record's for certain, and so that one rendering serves every conversation of the
same shape: same roles, same parts. Turn spans come from rendering prefixes of the conversation, which works with any
template whose output for a prefix is a prefix of its output for the whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from mmkit.errors import DataError


@dataclass(frozen=True, slots=True)
class Turn:
    """The shape of one message: whose it is, "text" or "image" for each part, and whether it is learned."""

    role: str
    parts: tuple[str, ...]
    train: bool = False


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the rendered conversation, in order.

    "template": the template's own words, `text`. "text": the place of record text number `index`, less the white space
    that the template strips on the left or right. "image": the place of image number `index`.
    """

    kind: Literal["template", "text", "image"]
    in_loss: bool
    text: str = ""
    index: int = -1
    strip_left: bool = False
    strip_right: bool = False


Shape = tuple[Turn, ...]
# Lone surrogates: a template passes them through, and no text that can be tokenised holds one. The space in front and
# behind (not one that templates write) shows whether the template strips its texts.
_SPACE = "\u2003"
_MARK = re.compile(f"({_SPACE}?)\udc00(\\d+)\udc01({_SPACE}?)")
_MAX_LAYOUTS = 4096


class ChatTemplate:
    """The chat template of one tokenizer or processor.

    `image_token` is what the template writes for an image, one for each; None for a text model.
    """

    def __init__(self, name: str, tokenizer: Any, source: str | None, image_token: str | None) -> None:
        self._name = name
        self._tokenizer = tokenizer
        self._source = source
        self._image_token = image_token
        self._layouts: dict[tuple[Shape, str | None, bool], tuple[Piece, ...]] = {}
        self._as_parts: bool | None = None
        self._openings: dict[str, str] = {}

    def layout(
        self, shape: Shape, open_turn: str | None, end_of_text: str | None = None, *, turns_end: bool = True
    ) -> tuple[Piece, ...]:
        """The pieces of a conversation of this shape.

        With `open_turn` None the trained turns are in the loss: of an assistant turn what follows the generation
        prompt, of another turn its header too, always up to the end of turn and without the white space after it. A
        conversation with a trained turn that is not the assistant's is one that the model continues by itself: from
        the first trained turn on, the headers of trained turns and what stands between two of them are in the loss as
        well, and `end_of_text` closes it. Where the template closes no turn (`turns_end` False), `end_of_text` also
        follows a trained last turn, or a model would never learn to stop. Else "assistant" appends the generation
        prompt and "user" the opening of a user turn, and nothing is in the loss.
        """
        free = any(turn.train and turn.role != "assistant" for turn in shape) and open_turn is None
        key = (shape, open_turn, free)
        found = self._layouts.get(key)
        if found is None:
            if len(self._layouts) >= _MAX_LAYOUTS:
                self._layouts.clear()
            rendered = self._rendered(shape, open_turn)
            spans = [] if open_turn is not None else self._spans(shape, rendered, free)
            if free or (spans and shape[-1].train and not turns_end):
                rendered = rendered if turns_end else rendered.rstrip()
                rendered = self._ended(rendered, spans, end_of_text, is_learned=shape[-1].train)
            found = self._layouts[key] = self._cut(shape, rendered, spans)
        return found

    def _ended(self, rendered: str, spans: list[tuple[int, int]], end_of_text: str | None, *, is_learned: bool) -> str:
        """`rendered` with the end of text, which is added to the last span if its turn is learned, else to `spans`."""
        if end_of_text is None:
            raise DataError(
                f"{self._name} has no end-of-text token (beside its end of turn, if any), so it cannot learn where "
                "such a conversation ends"
            )
        begin = spans.pop()[0] if is_learned else len(rendered)
        spans.append((begin, len(rendered) + len(end_of_text)))
        return rendered + end_of_text

    def opening(self, role: str) -> str:
        """What the template writes between the end of the turn before and the first part of a `role` turn."""
        if role not in self._openings:
            before = (Turn("user", ("text",)),) if role == "assistant" else (Turn("user", ("text",)), _ANSWER)
            whole, head = self._render((*before, Turn(role, ("text",)))), self._render(before)
            self._check_prefix(whole, head)
            self._openings[role] = whole[len(head) : self._mark_start(whole, len(before))]
        return self._openings[role]

    def closing(self, role: str) -> str:
        """What the template writes after the last part of a `role` turn, up to the next turn."""
        turns = (Turn("user", ("text",)), _ANSWER)[: 2 if role == "assistant" else 1]
        rendered = self._render(turns)
        return rendered[[mark.end() for mark in _MARK.finditer(rendered)][-1] :]

    def _mark_start(self, rendered: str, index: int) -> int:
        return next(mark.start() for mark in _MARK.finditer(rendered) if int(mark[2]) == index)

    def _rendered(self, shape: Shape, open_turn: str | None) -> str:
        if open_turn != "user":
            return self._render(shape, prompt=open_turn == "assistant")
        if shape:
            opened = self._render(shape) + self.opening("user")
        else:
            first = self._render((Turn("user", ("text",)),))
            opened = first[: self._mark_start(first, 0)]
        return opened.rstrip(" ")  # byte-level tokenizers join a space to the word after it

    def _spans(self, shape: Shape, rendered: str, free: bool) -> list[tuple[int, int]]:
        spans: list[tuple[int, int]] = []
        for number, turn in enumerate(shape):
            if not turn.train:
                continue
            until = self._render(shape[: number + 1])
            self._check_prefix(rendered, until)
            start = self._start(shape, number, rendered, with_header=free)
            if free and spans and shape[number - 1].train:
                start = spans.pop()[0]
            spans.append((start, len(until.rstrip())))
        return spans

    def _start(self, shape: Shape, number: int, rendered: str, *, with_header: bool) -> int:
        before = shape[:number]
        if before:
            head = self._render(before, prompt=shape[number].role == "assistant" and not with_header)
            self._check_prefix(rendered, head)
            return len(head)
        # What stands before the first turn (a start token, a default system text) is not the turn's own.
        own = self._render(shape[:1])
        marks = [mark.start() for mark in _MARK.finditer(own)]
        place = marks[0] if marks else 0
        header = self.opening(shape[0].role) if with_header else ""
        start = own.rfind(header, 0, place)
        return start if start >= 0 else place

    def _check_prefix(self, whole: str, prefix: str) -> None:
        if not whole.startswith(prefix):
            raise DataError(
                f"the chat template of {self._name} is not prefix-stable (it writes a turn differently once others "
                "follow), so turns cannot be told apart for the loss"
            )

    def _cut(self, shape: Shape, rendered: str, spans: Sequence[tuple[int, int]]) -> tuple[Piece, ...]:
        edges = sorted({edge for span in spans for edge in span})
        pieces: list[Piece] = []
        images = 0

        def in_loss(at: int) -> bool:
            return any(start <= at < end for start, end in spans)

        def literal(start: int, end: int) -> None:
            nonlocal images
            cuts = [start, *(edge for edge in edges if start < edge < end), end]
            for left, right in pairwise(cuts):
                for text in self._by_image_token(rendered[left:right]):
                    is_image = text == self._image_token
                    pieces.append(
                        Piece("image" if is_image else "template", in_loss(left), text, images if is_image else -1)
                    )
                    images += is_image

        position = 0
        for mark in _MARK.finditer(rendered):
            literal(position, mark.start())
            pieces.append(
                Piece("text", in_loss(mark.start(2)), "", int(mark[2]), strip_left=not mark[1], strip_right=not mark[3])
            )
            position = mark.end()
        literal(position, len(rendered))
        self._check_places(shape, pieces, images)
        return tuple(pieces)

    def _by_image_token(self, text: str) -> list[str]:
        if self._image_token is None:
            return [text] if text else []
        return [part for part in re.split(f"({re.escape(self._image_token)})", text) if part]

    def _check_places(self, shape: Shape, pieces: Sequence[Piece], images: int) -> None:
        kinds = [kind for turn in shape for kind in turn.parts]
        if images != (expected := kinds.count("image")):
            raise DataError(f"the chat template of {self._name} writes {images} images where there are {expected}")
        if any(piece.kind == "image" and piece.in_loss for piece in pieces):
            raise DataError(f"the chat template of {self._name} writes an image into a turn that is learned")
        if [piece.index for piece in pieces if piece.kind == "text"] != list(range(kinds.count("text"))):
            raise DataError(f"the chat template of {self._name} leaves out texts of a conversation or repeats them")

    def _render(self, shape: Shape, *, prompt: bool = False) -> str:
        if self._source is None:
            raise DataError(f"{self._name} has no chat template, so it takes plain prompts and no messages")
        if self._as_parts is None:
            self._as_parts = self._takes_parts()
        if not self._as_parts and any("image" in turn.parts for turn in shape):
            raise DataError(f"{self._name} is a text model and takes no images")
        return self._jinja(_marked(shape, as_parts=self._as_parts), prompt)

    def _takes_parts(self) -> bool:
        """Whether contents may be lists of parts; templates of text models take plain strings."""
        probe = (Turn("user", ("text",)),)
        try:
            rendered = self._jinja(_marked(probe, as_parts=True), prompt=False)
        except DataError:
            return False
        return len(_MARK.findall(rendered)) == 1 and "'type'" not in rendered and '"type"' not in rendered

    def _jinja(self, messages: list[dict[str, Any]], prompt: bool) -> str:
        from jinja2 import TemplateError

        try:
            rendered: str = self._tokenizer.apply_chat_template(
                messages, chat_template=self._source, tokenize=False, add_generation_prompt=prompt
            )
        except (TemplateError, TypeError, ValueError, IndexError, KeyError) as error:
            raise DataError(f"the chat template of {self._name} refuses this conversation: {error}") from error
        return rendered


_ANSWER = Turn("assistant", ("text",))


def _marked(shape: Shape, *, as_parts: bool) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    texts = 0
    for turn in shape:
        parts: list[dict[str, str]] = []
        for kind in turn.parts:
            if kind == "image":
                parts.append({"type": "image"})
            else:
                parts.append({"type": "text", "text": f"{_SPACE}\udc00{texts}\udc01{_SPACE}"})
                texts += 1
        content: Any = parts if as_parts else "".join(part["text"] for part in parts)
        messages.append({"role": turn.role, "content": content})
    return messages
