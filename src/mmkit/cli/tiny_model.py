"""mmkit tiny-model"""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from mmkit.cli.options import Seed

FamilyName = Literal[
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "llava",
    "llava_next",
    "mllama",
    "idefics3",
    "smolvlm",
    "causal_lm",
]


def command(
    out: Annotated[str, typer.Argument(metavar="DIR", help="Where the model goes.")],
    family: Annotated[FamilyName, typer.Option("--family", help="The architecture.")] = "qwen2_vl",
    corpus: Annotated[
        list[str] | None,
        typer.Option("--corpus", metavar="FILE", help="Records whose texts the tokenizer learns from; repeatable."),
    ] = None,
    tokenizer: Annotated[
        Literal["bpe", "words"],
        typer.Option("--tokenizer", help="bpe: any text; words: lower-case words of the corpus."),
    ] = "bpe",
    vocab_size: Annotated[int, typer.Option("--vocab-size", min=64, help="Largest vocabulary.")] = 400,
    hidden_size: Annotated[int, typer.Option("--hidden-size", min=32, help="Width of the language model.")] = 128,
    num_layers: Annotated[int, typer.Option("--layers", min=1, help="Layers of the language model.")] = 2,
    num_heads: Annotated[int, typer.Option("--heads", min=1, help="Attention heads.")] = 4,
    seed: Seed = 0,
) -> None:
    """Make a tiny untrained model that loads with from_pretrained, for smoke tests.

    Every part is real (weights, processor, tokenizer, chat template), under a million parameters, built offline.

    Example: mmkit tiny-model base --family qwen2_vl --corpus train.jsonl
    """
    from mmkit.testing import tiny_models

    tiny_models.build(
        family,
        out,
        corpus=[text for path in corpus or () for text in _texts(path)],
        tokenizer=tokenizer,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        num_heads=num_heads,
        seed=seed,
    )


def _texts(path: str) -> list[str]:
    """Every text of a record file that a model may see."""
    from mmkit.records import parts_text
    from mmkit.streams import read_records

    texts: list[str] = []
    for record in read_records(path):
        texts += [
            record[name] for name in ("caption", "context", "question", "answer", "rationale") if record.get(name)
        ]
        texts += [*(record.get("choices") or ()), *(parts_text(turn) for turn in record.get("messages") or ())]
    return texts
