"""Tasks and captions become conversations: what `finetune` trains on."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import orjson

from mmkit import __version__, images, seeds
from mmkit.errors import DataError
from mmkit.records import Record, message
from mmkit.streams import Dropped, Kept, Outcome, Rejected, Row, each
from mmkit.streams.rows import Stage
from mmkit.tasks import prompts

Response = Literal["cot", "precise", "informative"]
Messages = list[dict[str, Any]]

_CONCLUDES = re.compile(r"\b(could be|so|thus|therefore|hence|final|answer|result|conclusion)\b", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def captions_stage(*, seed: int = 0) -> Stage:
    """Each caption record becomes a conversation: a varied request to describe the image, and the caption."""

    def change(row: Row) -> Row:
        return row.replaced(_conversation(row.record, _caption_turns(row.record, seed), [row.record]))

    return each(change)


def tasks_stage(*, response: Response = "cot", seed: int = 0) -> Stage:
    """Each task becomes a conversation of one question and its response."""

    def change(row: Row) -> Row:
        return row.replaced(_conversation(row.record, _task_turns(row.record, response, seed), [row.record]))

    return each(change)


def synthesizer_stage(*, seed: int = 0) -> Stage:
    """Each seed task becomes a conversation that tunes a synthesizer.

    Source: AdaMLLM, section 3.1.1 and its Table 1. Turn 1 asks for a description and is answered by the caption, out
    of the loss; then one turn asks for the precise and one for the informative response, in an order drawn by
    (seed, id), user and assistant side both in the loss, since the synthesizer writes both. Deviation: none.
    """

    def change(row: Row) -> Row:
        record = row.record
        caption = _required(record, "caption")
        answers = [
            (prompts.PRECISE_HINT, _required(record, "answer")),
            (prompts.INFORMATIVE_HINT, _required(record, "rationale")),
        ]
        if seeds.uniform(seed, record["id"], "compose.synthesizer-order") < 0.5:
            answers.reverse()
        question = prompts.ask(record)
        turns = [message("user", prompts.CAPTION_HINT), {**message("assistant", caption), "train": False}]
        for hint, answer in answers:
            turns.append({**message("user", f"{hint}\n{question}"), "train": True})
            turns.append({**message("assistant", answer), "train": True})
        return row.replaced(_conversation(record, turns, [record]))

    return each(change)


class TaskIndex:
    """Tasks in memory, found by the caption record they were made from, or by their images."""

    def __init__(self, tasks: Iterable[Record]) -> None:
        self._tasks: list[Record] = []
        self._by_parent: dict[str, list[int]] = {}
        self._by_images: dict[tuple[str, ...], list[int]] = {}
        for i, task in enumerate(tasks):
            self._tasks.append(task)
            for parent in _parents(task):
                self._by_parent.setdefault(parent, []).append(i)
            if task.get("images"):
                self._by_images.setdefault(_paths(task), []).append(i)
        self._free = [True] * len(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def digest(self) -> str:
        """A hash of all tasks: a composition that was killed goes on only with the same ones."""
        state = hashlib.blake2b(digest_size=16)
        for task in self._tasks:
            state.update(orjson.dumps(task, default=repr))
        return state.hexdigest()

    def take(self, caption: Record) -> list[Record]:
        """The tasks that belong to a caption record; each task is given once."""
        found = self._by_parent.get(caption["id"]) or self._by_images.get(_paths(caption), []) if self._tasks else []
        own = [i for i in found if self._free[i]]
        for i in own:
            self._free[i] = False
        return [self._tasks[i] for i in own]

    def left(self) -> list[Record]:
        """The tasks that no caption has taken."""
        return [task for task, free in zip(self._tasks, self._free, strict=True) if free]


def single_stage(tasks: TaskIndex, *, response: Response = "cot", caption_only: bool = True, seed: int = 0) -> Stage:
    """Each caption record becomes one conversation: the captioning turn and the image's tasks, in random order.

    Source: AdaMLLM, section 3.2. With one task the order is a coin flip. An image without a task keeps the captioning
    turn alone (the paper); with `caption_only` false it is dropped (the released code leaves it out). Tasks that
    match no caption record come last, as conversations of their own, in the place of the last row. Deviation: several
    tasks of one image join one conversation, where the paper has at most one task an image.
    """

    def stage(rows: Iterator[Row]) -> Iterator[Outcome]:
        last: Row | None = None
        for row in rows:
            last = row
            own = tasks.take(row.record)
            if not own and not caption_only:
                yield Dropped(row, "no task belongs to this caption")
                continue
            try:
                turns = _single_stage_turns(row.record, own, response, seed)
                yield Kept(row.replaced(_conversation(row.record, turns, [row.record, *own])))
            except DataError as error:
                yield Rejected.of(row, error)
        left = tasks.left()
        if left and last is None:
            raise DataError(f"{len(left):,} tasks, but not one caption record")
        for task in left:
            assert last is not None
            try:
                yield Kept(last.replaced(_conversation(task, _joined_turns(task, response, seed), [task])))
            except DataError as error:
                yield Rejected.of(last.replaced(task), error)

    return stage


def blank_some(stage: Stage, *, rate: float, blank_path: str, seed: int = 0) -> Stage:
    """The stage with the images of a share `rate` of its rows replaced by the blank image at `blank_path`.

    Source: AdaMLLM, section 3.1.1 (10 %). Which rows: by (seed, id).
    """

    def blanked(rows: Iterator[Row]) -> Iterator[Outcome]:
        for outcome in stage(rows):
            if isinstance(outcome, Kept) and outcome.row.record.get("images"):
                record = outcome.row.record
                if seeds.uniform(seed, record["id"], "compose.blank") < rate:
                    blanks = [{"path": blank_path} for _ in record["images"]]
                    outcome = Kept(outcome.row.replaced({**record, "images": blanks}))
            yield outcome

    return blanked


def make_blank(path: str, image_root: str | None) -> None:
    """Write a black image of 336×336 pixels to `path` unless a file is there."""
    target = images.resolve(path, image_root)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(images.blank().data)


def respond(record: Record, response: Response, seed: int) -> str:
    """The text that answers a task.

    "precise" is the answer, "informative" the rationale. "cot" gives the rationale and then the answer through a
    varied template; where the rationale's last sentence concludes already it stands alone, and where the answer
    carries its own reasoning the two are joined as they are. Source: AdaMLLM, section 3.1.2 and its released code.
    Deviation: templates in our own words; words that mark a conclusion are matched as whole words.
    """
    answer = _required(record, "answer")
    if response == "precise":
        return answer
    rationale = _required(record, "rationale").strip()
    if response == "informative" or _CONCLUDES.search(_last_sentence(rationale)):
        return rationale
    if _CONCLUDES.search(answer):
        return f"{rationale} {answer}"
    template = prompts.pick_template("reasoned_answer", seed, record["id"])
    # In one pass, and not by str.format: either text may hold braces, or the other's name in them.
    texts = {"{answer}": answer, "{reasoning}": rationale}
    return re.sub(r"\{answer\}|\{reasoning\}", lambda found: texts[found[0]], template)


def _single_stage_turns(caption: Record, tasks: Sequence[Record], response: Response, seed: int) -> Messages:
    blocks = [_caption_turns(caption, seed), *(_joined_turns(task, response, seed) for task in tasks)]
    seeds.generator(seed, caption["id"], "compose.order").shuffle(blocks)
    return [turn for block in blocks for turn in block]


def _caption_turns(record: Record, seed: int) -> Messages:
    request = prompts.pick_template("describe", seed, record["id"])
    return [message("user", request), message("assistant", _required(record, "caption"))]


def _task_turns(record: Record, response: Response, seed: int) -> Messages:
    return [message("user", prompts.ask(record)), message("assistant", respond(record, response, seed))]


def _joined_turns(task: Record, response: Response, seed: int) -> Messages:
    """As `_task_turns`, for a task beside a caption: an error names the task, since the row at fault is not at hand."""
    try:
        return _task_turns(task, response, seed)
    except DataError as error:
        raise DataError(f'task "{task["id"]}": {error}') from None


def _conversation(record: Record, turns: Messages, parents: Sequence[Record]) -> Record:
    """The record with these messages; its images stand before the first user turn's text.

    Its lineage is that of all `parents`, so that what their making cost stays on the account.
    """
    placeholders = [{"type": "image"} for _ in record.get("images") or ()]
    first = next(i for i, turn in enumerate(turns) if turn["role"] == "user")
    turns[first] = {**turns[first], "content": [*placeholders, *turns[first]["content"]]}
    history = [entry for parent in parents for entry in parent.get("lineage") or ()]
    composed = {"op": "compose", "version": __version__, "parents": [parent["id"] for parent in parents]}
    return {**record, "messages": turns, "lineage": [*history, composed]}


def _required(record: Record, name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{name}: this composition needs it, and the record has none")
    return value


def _last_sentence(text: str) -> str:
    return _SENTENCE_END.split(text.strip())[-1]


def _parents(task: Record) -> list[str]:
    for entry in reversed(task.get("lineage") or ()):
        if entry.get("parents"):
            return [str(parent) for parent in entry["parents"]]
    return []


def _paths(record: Record) -> tuple[str, ...]:
    return tuple(str(image.get("path")) for image in record.get("images") or ())
