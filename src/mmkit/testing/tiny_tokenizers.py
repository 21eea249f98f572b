"""Two small tokenizers: byte-level BPE, which takes any text, and whole words, which a tiny model copies far better."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

UNKNOWN = "<unk>"
# Inner apostrophes, hyphens and points belong to the word (don't, low-level, 3.5); other signs stand alone.
_WORD = r"\w+(?:['’.-]\w+)*|[^\w\s]|\n"
_ALWAYS = ("system", "user", "assistant", "\n", ".", ",", "?", "!", ":")


def bpe(corpus: Sequence[str], special: Sequence[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE trained on `corpus`. Every byte has a token, so nothing is unknown."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer


def words(corpus: Sequence[str], special: Sequence[str], vocab_size: int) -> Tokenizer:
    """Lower-cased whole words, signs and line ends; spaces are dropped and put back when decoding.

    A word has one id wherever it stands, which is what lets a small model copy it. The most frequent words of
    `corpus` are known, up to `vocab_size`; all others become one unknown token.
    """
    counts = Counter(word for text in corpus for word in re.findall(_WORD, text.lower()))
    known = [*special, UNKNOWN, *_ALWAYS]
    known += [word for word, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])) if word not in _ALWAYS]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known[:vocab_size])}, UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(Regex("^"), " "),
            decoders.Fuse(),
            decoders.Replace(Regex(r"^ | (?=[.,;:?!)\]}%\n])|(?<=[(\[{\n]) "), ""),
        ]
    )
    tokenizer.add_special_tokens(list(special))
    return tokenizer


def wrapped(
    backend: Tokenizer, names: Mapping[str, str], *, bos: str, eos: str, pad: str, adds_bos: bool = False
) -> Any:
    """The transformers tokenizer around `backend`. `names` maps attribute names to tokens, such as image_token."""
    from transformers import PreTrainedTokenizerFast

    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=bos,
        eos_token=eos,
        pad_token=pad,
        unk_token=UNKNOWN if backend.token_to_id(UNKNOWN) is not None else None,
        extra_special_tokens=dict(names),
        model_max_length=4096,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
