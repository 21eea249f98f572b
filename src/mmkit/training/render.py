"""What training would see of a row: its tokens, which are learned, how much they weigh, and what would be cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from mmkit.errors import DataError, LimitError, MissingInputError
from mmkit.training.samples import Refused, Sample

if TYPE_CHECKING:
    from mmkit.models.encoding import Chat, Encoded

Kind = Literal["text", "control", "image"]


@dataclass(frozen=True, slots=True)
class Segment:
    """Tokens in a row that are treated alike.

    `kind` is "text" for what is read as words, "control" for control tokens (a text that spells one is "text") and
    "image" for tokens that stand for images. `text` is what `tokens` (ids; empty for images) stand for, for images
    `<image ×576>`. `cut` ones lie behind the largest length.
    """

    kind: Kind
    text: str
    tokens: tuple[int, ...]
    num_tokens: int
    in_loss: bool
    cut: bool

    def to_wire(self) -> dict[str, Any]:
        """The segment as a JSON object."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Rendering:
    """A row as training would see it, or the `error` for which it could not be trained on.

    `where` is its file and line, `weight` the λ of its learned tokens. A row that is too long and not shortened has
    both segments and error; one that could not be encoded has no segments.
    """

    where: str
    id: str | None = None
    task: str | None = None
    weight: float | None = None
    segments: tuple[Segment, ...] = ()
    error: str | None = None

    @property
    def num_tokens(self) -> int:
        """Its length, without what is cut."""
        return sum(segment.num_tokens for segment in self.segments if not segment.cut)

    @property
    def num_image_tokens(self) -> int:
        """How many of these stand for images."""
        return sum(segment.num_tokens for segment in self.segments if segment.kind == "image" and not segment.cut)

    @property
    def num_loss_tokens(self) -> int:
        """How many of these are learned."""
        return sum(segment.num_tokens for segment in self.segments if segment.in_loss and not segment.cut)

    @property
    def num_cut_tokens(self) -> int:
        """How many tokens are cut."""
        return sum(segment.num_tokens for segment in self.segments if segment.cut)

    def to_wire(self) -> dict[str, Any]:
        """The row as a JSON object; without segments its counts are null."""
        counts = ("num_tokens", "num_image_tokens", "num_loss_tokens", "num_cut_tokens")
        return {
            **{name: getattr(self, name) for name in ("id", "where", "task", "weight")},
            **{name: getattr(self, name) if self.segments else None for name in counts},
            "segments": [segment.to_wire() for segment in self.segments],
            "error": self.error,
        }


def render(row: Sample | Refused, chat: Chat, *, max_length: int | None = None, overlong: str = "reject") -> Rendering:
    """The row as `mmkit.training.rows.Rows` with these arguments would hand it to the trainer."""
    from mmkit.training.rows import encode, fitted

    if isinstance(row, Refused):
        return Rendering(row.where, _id_of(row.record), error=str(row.error))
    segments: tuple[Segment, ...] = ()
    error = None
    try:
        encoded = encode(row, chat)
        segments = _segments(encoded, chat, len(encoded.input_ids))
        kept = len(fitted(encoded, max_length, overlong, row.label).input_ids)
        segments = _segments(encoded, chat, kept)
    except (DataError, MissingInputError, LimitError) as refusal:
        error = str(refusal)
    return Rendering(row.where, row.id, row.task, row.weight, segments, error)


def _id_of(record: Mapping[str, Any] | str) -> str | None:
    return None if isinstance(record, str) else record.get("id")


def _segments(encoded: Encoded, chat: Chat, kept: int) -> tuple[Segment, ...]:
    """The runs of tokens that are alike, cut from number `kept` on."""

    def treatment(at: int) -> tuple[Kind, bool, bool]:
        kind: Kind = "control" if encoded.input_ids[at] in chat.control_ids else "text"
        return "image" if encoded.is_image[at] else kind, encoded.in_loss[at], at >= kept

    segments = []
    for (kind, in_loss, cut), run in groupby(range(len(encoded.input_ids)), key=treatment):
        places = list(run)
        ids = encoded.input_ids[places[0] : places[-1] + 1]
        if kind == "image":
            segments.append(Segment(kind, f"<image ×{len(ids)}>", (), len(ids), in_loss, cut))
        else:
            before = encoded.input_ids[max(0, places[0] - 1) : places[0]]
            segments.append(Segment(kind, _text(chat, before, ids), tuple(ids), len(ids), in_loss, cut))
    return tuple(segments)


def _text(chat: Chat, before: Sequence[int], ids: Sequence[int]) -> str:
    """What `ids` stand for behind the token `before`: some tokenizers drop the space at the start of a text."""
    head, whole = (
        chat.tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        for tokens in (before, [*before, *ids])
    )
    return str(whole.removeprefix(head))
