"""A tokenizer that tells the template's words from a record's, so that only the former hold control tokens."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from mmkit.errors import DataError
from mmkit.models.templates import Piece


@dataclass(frozen=True, slots=True)
class Stretch:
    """A piece of the conversation with its real text: the record's, or all that stands for an image."""

    kind: Literal["template", "text", "image"]
    text: str
    in_loss: bool

    @classmethod
    def of(cls, piece: Piece, texts: Sequence[str], replacements: Sequence[str]) -> Stretch:
        if piece.kind == "template":
            return cls("template", piece.text, piece.in_loss)
        if piece.kind == "image":
            return cls("image", replacements[piece.index], piece.in_loss)
        text = texts[piece.index]
        text = text.lstrip() if piece.strip_left else text
        return cls("text", text.rstrip() if piece.strip_right else text, piece.in_loss)


class CarefulTokenizer:
    """A fast transformers tokenizer, used so that no text of a record becomes a control token.

    `controls` maps the id of each added token to its spelling. Runs of white space, which some vocabularies add, are
    not among them, nor is the token for unknown words, which ordinary text may give.
    """

    def __init__(self, name: str, tokenizer: Any) -> None:
        if not tokenizer.is_fast:
            raise DataError(f"{name} has a tokenizer that gives no character positions; a fast one is needed")
        self._name = name
        self._tokenizer = tokenizer
        self.controls: dict[int, str] = {
            token_id: token.content
            for token_id, token in tokenizer.added_tokens_decoder.items()
            if not token.content.isspace() and token_id != tokenizer.unk_token_id
        }

    def tokenise(self, stretches: Sequence[Stretch], *, wrap: bool) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids, and for each token the range of stretches that it lies in.

        The whole string is tokenised at once, as the family's processor does it, unless that makes a control token of
        a record's text.
        """
        whole = "".join(stretch.text for stretch in stretches)
        made = self._tokenizer(whole, add_special_tokens=wrap, return_offsets_mapping=True, verbose=False)
        ids, offsets = list(made["input_ids"]), made["offset_mapping"]
        cover = list(_cover(offsets, stretches))
        for token_id, (first, last) in zip(ids, cover, strict=True):
            if token_id in self.controls and any(stretch.kind == "text" for stretch in stretches[first:last]):
                ids, offsets = self._tokenise_apart(stretches, wrap=wrap)
                return ids, list(_cover(offsets, stretches))
        return ids, cover

    def _tokenise_apart(self, stretches: Sequence[Stretch], *, wrap: bool) -> tuple[list[int], list[tuple[int, int]]]:
        """As the tokenizer would, but only the template's own control tokens are control tokens."""
        before, after = self._added_around if wrap else ([], [])
        ids, offsets = list(before), [(0, 0)] * len(before)
        position, pending = 0, ""
        for text, is_control in self._at_controls(stretches):
            if not is_control:
                pending += text
                continue
            for token_id, start, end in self._plain_tokens(pending):
                ids.append(token_id)
                offsets.append((position + start, position + end))
            position += len(pending)
            if text:
                ids.append(self._tokenizer.convert_tokens_to_ids(text))
                offsets.append((position, position + len(text)))
            position, pending = position + len(text), ""
        return [*ids, *after], [*offsets, *[(0, 0)] * len(after)]

    def _at_controls(self, stretches: Sequence[Stretch]) -> Iterator[tuple[str, bool]]:
        """The string in order, cut at control tokens of the template; the last one is empty, to end what is pending."""
        for stretch in stretches:
            if stretch.kind == "text":
                yield stretch.text, False
                continue
            position = 0
            for control in self.control_pattern.finditer(stretch.text):
                yield stretch.text[position : control.start()], False
                yield control.group(), True
                position = control.end()
            yield stretch.text[position:], False
        yield "", True

    def _plain_tokens(self, text: str) -> list[tuple[int, int, int]]:
        if not text:
            return []
        made = self._plain.encode(text, add_special_tokens=False)
        if not self.controls.keys().isdisjoint(made.ids):
            raise DataError(f"a text spells a control token that the tokenizer of {self._name} cannot keep as text")
        return [(token_id, start, end) for token_id, (start, end) in zip(made.ids, made.offsets, strict=True)]

    @cached_property
    def _plain(self) -> Any:
        """The same tokenizer without control tokens. Made only when a text spells one: it takes a second."""
        from tokenizers import Tokenizer

        parts = json.loads(self._tokenizer.backend_tokenizer.to_str())
        parts["added_tokens"] = [token for token in parts["added_tokens"] if token["content"].isspace()]
        parts["post_processor"] = parts["padding"] = parts["truncation"] = None
        return Tokenizer.from_str(json.dumps(parts))

    @cached_property
    def _added_around(self) -> tuple[list[int], list[int]]:
        """What the tokenizer itself adds before and after a text."""
        made = self._tokenizer("a", return_special_tokens_mask=True)
        ids, own = list(made["input_ids"]), [i for i, added in enumerate(made["special_tokens_mask"]) if not added]
        return ids[: own[0]], ids[own[-1] + 1 :]

    @cached_property
    def control_pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self.controls.values(), key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def ids_of(self, template_text: str) -> list[int]:
        return list(self._tokenizer(template_text, add_special_tokens=False)["input_ids"])

    def with_marks(self, ids: Sequence[int]) -> str:
        """The text of `ids`, each control token as two lone surrogates, which no decoded text can hold."""
        text, run = [], list[int]()
        for token_id in (*ids, None):
            if token_id is not None and token_id not in self.controls:
                run.append(token_id)
                continue
            if run:
                text.append(self._tokenizer.decode(run, skip_special_tokens=False))
                run = []
            if token_id is not None:
                text.append(chr(0xD800 + token_id // 1024) + chr(0xDC00 + token_id % 1024))
        return "".join(text)


def _cover(offsets: Sequence[tuple[int, int]], stretches: Sequence[Stretch]) -> Iterator[tuple[int, int]]:
    """For each token the range of stretches that its characters lie in; empty for a token that stands for none."""
    ends, total = [], 0
    for stretch in stretches:
        total += len(stretch.text)
        ends.append(total)
    first = reached = 0
    for start, end in offsets:
        # Some tokenizers report white space as zero characters wide; it begins where the token before it ended.
        start = reached if start == end else start
        if end <= start:
            yield first, first
            continue
        while ends[first] <= start:
            first += 1
        last = first
        while ends[last] < end:
            last += 1
        reached = end
        yield first, last + 1
