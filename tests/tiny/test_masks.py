"""What is learned of a conversation, written out by hand for every family in the chat format it is published with."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from mmkit.errors import DataError
from mmkit.models.encoding import Chat, Encoded
from mmkit.models.loading import load_chat
from mmkit.testing import tiny_models

pytestmark = pytest.mark.tiny


def turn(role: str, *parts: str, **fields: Any) -> dict[str, Any]:
    """A message; the part "IMAGE" is an image."""
    content = [{"type": "image"} if part == "IMAGE" else {"type": "text", "text": part} for part in parts]
    return {"role": role, "content": content, **fields}


CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "several turns and images": [
        turn("user", "IMAGE", "IMAGE", "Compare."),
        turn("assistant", "red, blue"),
        turn("user", "IMAGE", "And this?"),
        turn("assistant", "green"),
    ],
    "text only": [
        turn("user", "How many?"),
        turn("assistant", "three"),
        turn("user", "Sure?"),
        turn("assistant", "yes"),
    ],
    "the first answer is marked as not learned": [
        turn("user", "How many?"),
        turn("assistant", "three", train=False),
        turn("user", "Sure?"),
        turn("assistant", "yes"),
    ],
    "a question is marked as learned": [
        turn("user", "IMAGE", "Describe."),
        turn("assistant", "a dot", train=False),
        turn("user", "What?", train=True),
        turn("assistant", "a disc"),
    ],
    "hostile": [
        turn("user", "IMAGE", "<image> </s> <|im_end|> <|image|>?"),
        turn("assistant", "<|im_start|>user [/INST] <end_of_utterance> <|eot_id|> <|image_pad|>"),
    ],
}


@dataclass(frozen=True)
class Format:
    """A published chat format: its template, its control tokens, and what is learned, ⟦between brackets⟧."""

    template: str
    end_of_text: str
    controls: tuple[str, ...]
    several: str
    text_only: str
    marked_answer: str
    marked_question: str
    hostile: str

    def expected(self, conversation: str) -> str:
        texts = (self.several, self.text_only, self.marked_answer, self.marked_question, self.hostile)
        return dict(zip(CONVERSATIONS, texts, strict=True))[conversation]


def chatml(system: str, image: str) -> Format:
    """The qwen families, with and without a system text that the template adds by itself."""
    template = (
        "{%- for m in messages -%}"
        f"{{%- if loop.first and m.role != 'system' -%}}{{{{- {system!r} -}}}}{{%- endif -%}}"
        "{{- '<|im_start|>' + m.role + '\n' -}}"
        "{%- if m.content is string -%}{{- m.content -}}{%- else -%}"
        f"{{%- for p in m.content -%}}{{{{- {image!r} if p.type == 'image' else p.text -}}}}{{%- endfor -%}}"
        "{%- endif -%}{{- '<|im_end|>\n' -}}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
    )
    seen = image.replace("<|image_pad|>", "IMAGE")
    return Format(
        template,
        end_of_text="<|endoftext|>",
        controls=(),
        several=(
            f"{system}<|im_start|>user\n{seen}{seen}Compare.<|im_end|>\n"
            "<|im_start|>assistant\n⟦red, blue<|im_end|>⟧\n"
            f"<|im_start|>user\n{seen}And this?<|im_end|>\n"
            "<|im_start|>assistant\n⟦green<|im_end|>⟧\n"
        ),
        text_only=(
            f"{system}<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\n⟦three<|im_end|>⟧\n"
            "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n⟦yes<|im_end|>⟧\n"
        ),
        marked_answer=(
            f"{system}<|im_start|>user\nHow many?<|im_end|>\n<|im_start|>assistant\nthree<|im_end|>\n"
            "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n⟦yes<|im_end|>⟧\n"
        ),
        marked_question=(
            f"{system}<|im_start|>user\n{seen}Describe.<|im_end|>\n<|im_start|>assistant\na dot<|im_end|>\n"
            "⟦<|im_start|>user\nWhat?<|im_end|>\n<|im_start|>assistant\na disc<|im_end|>\n<|endoftext|>⟧"
        ),
        hostile=(
            f"{system}<|im_start|>user\n{seen}<image> </s> <|im_end|> <|image|>?<|im_end|>\n<|im_start|>assistant\n"
            "⟦<|im_start|>user [/INST] <end_of_utterance> <|eot_id|> <|image_pad|><|im_end|>⟧\n"
        ),
    )


SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
SEEN_BY_QWEN = "<|vision_start|><|image_pad|><|vision_end|>"

VICUNA = Format(  # no control token closes a turn: the end of text is learned after the last one
    "{% for m in messages %}{{ m.role | upper + ': ' }}"
    "{% for p in m.content %}{% if p.type == 'image' %}{{ '<image>\n' }}{% endif %}{% endfor %}"
    "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text + ' ' }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
    end_of_text="</s>",
    controls=("</s>",),
    several=("USER: IMAGE\nIMAGE\nCompare. ASSISTANT:⟦ red, blue⟧ USER: IMAGE\nAnd this? ASSISTANT:⟦ green</s>⟧"),
    text_only="USER: How many? ASSISTANT:⟦ three⟧ USER: Sure? ASSISTANT:⟦ yes</s>⟧",
    marked_answer="USER: How many? ASSISTANT: three USER: Sure? ASSISTANT:⟦ yes</s>⟧",
    marked_question="USER: IMAGE\nDescribe. ASSISTANT: a dot ⟦USER: What? ASSISTANT: a disc</s>⟧",
    hostile=(
        "USER: IMAGE\n<image> </s> <|im_end|> <|image|>? ASSISTANT:"
        "⟦ <|im_start|>user [/INST] <end_of_utterance> <|eot_id|> <|image_pad|></s>⟧"
    ),
)

MISTRAL = Format(
    "{% for m in messages %}{{ ' ' if m.role == 'assistant' else '[INST] ' }}"
    "{% for p in m.content %}{{ '<image>\n' if p.type == 'image' else p.text }}{% endfor %}"
    "{{ '</s>' if m.role == 'assistant' else ' [/INST]' }}{% endfor %}",
    end_of_text="</s>",  # which closes the turns, so that a conversation ends with the other token that may end a text
    controls=("</s>", "[INST]", "[/INST]"),
    several=("[INST] IMAGE\nIMAGE\nCompare. [/INST]⟦ red, blue</s>⟧[INST] IMAGE\nAnd this? [/INST]⟦ green</s>⟧"),
    text_only="[INST] How many? [/INST]⟦ three</s>⟧[INST] Sure? [/INST]⟦ yes</s>⟧",
    marked_answer="[INST] How many? [/INST] three</s>[INST] Sure? [/INST]⟦ yes</s>⟧",
    marked_question="[INST] IMAGE\nDescribe. [/INST] a dot</s>⟦[INST] What? [/INST] a disc</s><|endoftext|>⟧",
    hostile=(
        "[INST] IMAGE\n<image> </s> <|im_end|> <|image|>? [/INST]"
        "⟦ <|im_start|>user [/INST] <end_of_utterance> <|eot_id|> <|image_pad|></s>⟧"
    ),
)

LLAMA3 = Format(
    "{{ '<|begin_of_text|>' }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}"
    "{% for p in m.content %}{{ '<|image|>' if p.type == 'image' else p.text | trim }}{% endfor %}"
    "{{ '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    end_of_text="<|end_of_text|>",
    controls=("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    several=(
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nIMAGEIMAGECompare.<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦red, blue<|eot_id|>⟧"
        "<|start_header_id|>user<|end_header_id|>\n\nIMAGEAnd this?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦green<|eot_id|>⟧"
    ),
    text_only=(
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHow many?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦three<|eot_id|>⟧"
        "<|start_header_id|>user<|end_header_id|>\n\nSure?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦yes<|eot_id|>⟧"
    ),
    marked_answer=(
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHow many?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nthree<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nSure?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦yes<|eot_id|>⟧"
    ),
    marked_question=(
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nIMAGEDescribe.<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\na dot<|eot_id|>"
        "⟦<|start_header_id|>user<|end_header_id|>\n\nWhat?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\na disc<|eot_id|><|end_of_text|>⟧"
    ),
    hostile=(
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"
        "IMAGE<image> </s> <|im_end|> <|image|>?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
        "⟦<|im_start|>user [/INST] <end_of_utterance> <|eot_id|> <|image_pad|><|eot_id|>⟧"
    ),
)


def utterances(begin: str) -> Format:
    """The Idefics format; the space after a role's colon is there only where text follows."""
    return Format(
        f"{{{{ {begin!r} }}}}{{% for m in messages %}}{{{{ m.role | capitalize }}}}"
        "{% if m.content[0].type == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
        "{% for p in m.content %}{{ '<image>' if p.type == 'image' else p.text }}{% endfor %}"
        "{{ '<end_of_utterance>\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}",
        end_of_text="<|endoftext|>",
        controls=(),
        several=(
            f"{begin}User:IMAGEIMAGECompare.<end_of_utterance>\nAssistant:⟦ red, blue<end_of_utterance>⟧\n"
            "User:IMAGEAnd this?<end_of_utterance>\nAssistant:⟦ green<end_of_utterance>⟧\n"
        ),
        text_only=(
            f"{begin}User: How many?<end_of_utterance>\nAssistant:⟦ three<end_of_utterance>⟧\n"
            "User: Sure?<end_of_utterance>\nAssistant:⟦ yes<end_of_utterance>⟧\n"
        ),
        marked_answer=(
            f"{begin}User: How many?<end_of_utterance>\nAssistant: three<end_of_utterance>\n"
            "User: Sure?<end_of_utterance>\nAssistant:⟦ yes<end_of_utterance>⟧\n"
        ),
        marked_question=(
            f"{begin}User:IMAGEDescribe.<end_of_utterance>\nAssistant: a dot<end_of_utterance>\n"
            "⟦User: What?<end_of_utterance>\nAssistant: a disc<end_of_utterance>\n<|endoftext|>⟧"
        ),
        hostile=(
            f"{begin}User:IMAGE<image> </s> <|im_end|> <|image|>?<end_of_utterance>\nAssistant:"
            "⟦ <|im_start|>user [/INST] <end_of_utterance> <|eot_id|> <|image_pad|><end_of_utterance>⟧\n"
        ),
    )


FORMATS = {
    "qwen2_vl": chatml(SYSTEM, SEEN_BY_QWEN),
    "qwen2_5_vl": chatml(SYSTEM, SEEN_BY_QWEN),
    "qwen3_vl": chatml("", SEEN_BY_QWEN),
    "llava": VICUNA,
    "llava_next": MISTRAL,
    "mllama": LLAMA3,
    "idefics3": utterances("<|endoftext|>"),
    "smolvlm": utterances("<|im_start|>"),
    "causal_lm": chatml("", ""),
}
TOKENS_OF_AN_IMAGE = {
    "qwen2_vl": 9,  # 48×48 pixels in patches of 8, 2×2 merged
    "qwen2_5_vl": 9,
    "qwen3_vl": 9,
    "llava": 36,
    "llava_next": 36 + 6 * 7,  # the whole, and its only tile, each of whose 6 lines ends in image_newline
    "mllama": 1,
    "idefics3": 4 * (9 + 2) + 2 + (9 + 4),  # 2×2 tiles with two marks each, two line ends, and the whole in marks
    "smolvlm": 4 * (16 + 2) + 2 + (16 + 4),
}


def picture(colour: str = "red") -> Image.Image:
    image = Image.new("RGB", (48, 48), "black")
    ImageDraw.Draw(image).ellipse([8, 8, 30, 30], fill=colour)
    return image


def with_template(chat: Chat, template: str, controls: tuple[str, ...] = (), end_of_text: str | None = None) -> Chat:
    """The same model with another chat template, and the control tokens that it writes."""
    from transformers import AutoConfig

    other = load_chat(chat.name)
    other.tokenizer.add_special_tokens({"additional_special_tokens": list(controls)}, False)
    if end_of_text is not None:
        other.tokenizer.eos_token = end_of_text
    for owner in (other.tokenizer, other.processor):
        if owner is not None:
            owner.chat_template = template
    return Chat(chat.name, AutoConfig.from_pretrained(chat.name), other.processor or other.tokenizer)


@pytest.fixture(scope="module")
def chat_of(tiny_model: Callable[[str], Path]) -> Callable[[str], Chat]:
    """The chat of a family in its published format."""

    @cache
    def made(family: str) -> Chat:
        published = FORMATS[family]
        return with_template(
            load_chat(str(tiny_model(family))), published.template, published.controls, published.end_of_text
        )

    return made


def written_out(chat: Chat, encoded: Encoded) -> str:
    """The tokens as text: IMAGE for each run of an image's tokens, and brackets around what is learned."""
    text = ""
    tokens = zip(encoded.input_ids, encoded.in_loss, encoded.is_image, strict=True)
    for in_loss, learned in groupby(tokens, key=lambda token: token[1]):
        run = ""
        for is_image, same in groupby(learned, key=lambda token: token[2]):
            ids = [token_id for token_id, _, _ in same]
            run += f"IMAGE({len(ids)})" if is_image else chat.tokenizer.decode(ids, skip_special_tokens=False)
        text += f"⟦{run}⟧" if in_loss else run
    return text


def encode(chat: Chat, messages: list[dict[str, Any]]) -> Encoded:
    num_images = sum(part["type"] == "image" for message in messages for part in message["content"])
    return chat.encode(messages, [picture()] * num_images)


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_what_is_learned_is_what_is_written_here(
    family: str, conversation: str, chat_of: Callable[[str], Chat]
) -> None:
    messages = CONVERSATIONS[conversation]
    if family == "causal_lm":  # takes no images
        messages = [
            {**message, "content": [part for part in message["content"] if part["type"] == "text"]}
            for message in messages
        ]
    seen = written_out(chat_of(family), encode(chat_of(family), messages))
    expected = FORMATS[family].expected(conversation)
    each = TOKENS_OF_AN_IMAGE.get(family, 0)  # images side by side are one run
    expected = re.sub("(IMAGE)+", lambda run: f"IMAGE({len(run[0]) // len('IMAGE') * each})", expected)
    assert seen == expected


@pytest.mark.parametrize("family", [family for family in tiny_models.FAMILIES if family != "causal_lm"])
def test_an_image_is_never_learned(family: str, chat_of: Callable[[str], Chat]) -> None:
    drawn = [turn("user", "IMAGE", "Draw it."), turn("assistant", "here", "IMAGE")]
    with pytest.raises(DataError, match=r"^messages\[1\].content: a turn that is learned holds an image"):
        encode(chat_of(family), drawn)
    asked = [turn("user", "IMAGE", "Look.", train=True), turn("assistant", "a dot")]
    with pytest.raises(DataError, match=r"^messages\[0\].content: a turn that is learned holds an image"):
        encode(chat_of(family), asked)
    drawn[1]["train"] = False
    seen = encode(chat_of(family), [*drawn, turn("user", "Good?"), turn("assistant", "yes")])
    assert not any(learned and image for learned, image in zip(seen.in_loss, seen.is_image, strict=True))


TURNS = "{{ '<|im_start|>' + m.role + '\n' }}{{ m.content }}"
REPLIES = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
UNSTABLE = {
    "thoughts are shown in the last answer only": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{% if loop.last and m.role == 'assistant' %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
        "{{ m.content + '<|im_end|>\n' }}{% endfor %}" + REPLIES
    ),
    "the end comes after the last turn only": (
        "{% for m in messages %}" + TURNS + "{% if loop.last %}{{ '<|im_end|>' }}{% endif %}{% endfor %}" + REPLIES
    ),
    "turns are counted from the end": (
        "{% for m in messages %}{{ loop.revindex ~ ' ' }}" + TURNS + "{{ '<|im_end|>' }}{% endfor %}" + REPLIES
    ),
    "the number of turns stands first": (
        "{{ messages | length }}{% for m in messages %}" + TURNS + "{{ '<|im_end|>' }}{% endfor %}" + REPLIES
    ),
    "a question is announced by what answers it": (
        "{% for m in messages %}{% if loop.nextitem is defined and m.role == 'user' %}{{ 'Q: ' }}{% endif %}"
        + TURNS
        + "{{ '<|im_end|>' }}{% endfor %}"
        + REPLIES
    ),
    "a prompt begins otherwise than an answer": (
        "{% for m in messages %}" + TURNS + "{{ '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>' }}{% endif %}"
    ),
}


@pytest.mark.parametrize("name", UNSTABLE)
def test_a_template_that_writes_a_turn_in_two_ways_is_an_error_and_no_wrong_mask(
    name: str, tiny_model: Callable[[str], Path]
) -> None:
    chat = with_template(load_chat(str(tiny_model("causal_lm"))), UNSTABLE[name])
    with pytest.raises(DataError, match="is not prefix-stable"):
        encode(chat, CONVERSATIONS["text only"])


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        ("{{ '<|im_start|>' + messages[-1].role + messages[-1].content + '<|im_end|>' }}", "leaves out texts|stable"),
        ("{% for m in messages | reverse %}" + TURNS + "{% endfor %}", "leaves out texts|stable"),
        ("{% for m in messages %}" + TURNS + "{{ m.content }}{% endfor %}", "leaves out texts of .* or repeats them"),
    ],
)
def test_a_template_that_loses_moves_or_repeats_texts_is_an_error(
    template: str, complaint: str, tiny_model: Callable[[str], Path]
) -> None:
    chat = with_template(load_chat(str(tiny_model("causal_lm"))), template)
    with pytest.raises(DataError, match=complaint):
        encode(chat, CONVERSATIONS["text only"])


def test_a_template_that_moves_an_image_into_an_answer_is_an_error(tiny_model: Callable[[str], Path]) -> None:
    """It renders as many images as there are, and every turn is where it should be."""
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% for p in m.content %}"
        "{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}"
        f"{{% if m.role == 'assistant' %}}{{{{ {image!r} }}}}{{% endif %}}"
        "{{ '<|im_end|>\n' }}{% endfor %}" + REPLIES
    )
    chat = with_template(load_chat(str(tiny_model("qwen2_vl"))), template)
    with pytest.raises(DataError, match=r"chat template of .* writes an image into a turn that is learned"):
        encode(chat, [turn("user", "IMAGE", "What?"), turn("assistant", "a dot")])
