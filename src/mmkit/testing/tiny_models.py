"""Complete model directories of under a million parameters, one for each supported family.

They hold everything that `from_pretrained` wants (weights, processor, tokenizer, chat template, generation config), so
that tests and smoke runs go through the real code path without a download.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmkit.errors import UsageError
from mmkit.models.loading import image_only, quiet, require_libraries

FAMILIES = (
    "qwen2_vl",
    "qwen2_5_vl",
    "qwen3_vl",
    "llava",
    "llava_next",
    "mllama",
    "idefics3",
    "smolvlm",
    "causal_lm",
)

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\\n' -}}"
    "{%- if message.content is string -%}{{- message.content -}}{%- else -%}"
    "{%- for part in message.content -%}{{- IMAGE if part.type == 'image' else part.text -}}{%- endfor -%}"
    "{%- endif -%}{{- '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
_TILE_TAGS = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
_VISION_WIDTH, _VISION_DEPTH = 64, 2


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the builders of the families share."""

    tokenizer: Any
    hidden_size: int
    num_layers: int
    num_heads: int
    patch_size: int
    image_size: int

    def id_of(self, token: str) -> int:
        token_id: int = self.tokenizer.convert_tokens_to_ids(token)
        return token_id

    def text_config(self, **extra: Any) -> dict[str, Any]:
        """The language model: a decoder with grouped attention and an MLP of three times its width."""
        return {
            "vocab_size": len(self.tokenizer),
            "hidden_size": self.hidden_size,
            "intermediate_size": 3 * self.hidden_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": max(1, self.num_heads // 2),
            "max_position_embeddings": 4096,
            "bos_token_id": self.tokenizer.bos_token_id,
            "eos_token_id": self.tokenizer.eos_token_id,
            "pad_token_id": self.tokenizer.pad_token_id,
            **extra,
        }

    def clip_config(self, depth: int) -> dict[str, Any]:
        """A vision encoder of the CLIP and SigLIP shape, without its `model_type`."""
        return {
            "hidden_size": _VISION_WIDTH,
            "intermediate_size": 2 * _VISION_WIDTH,
            "num_hidden_layers": depth,
            "num_attention_heads": 4,
            "image_size": self.image_size,
            "patch_size": self.patch_size,
        }


@dataclass(frozen=True, slots=True)
class _Recipe:
    """One family: its image tokens, how its template writes an image, and its two builders."""

    special: Mapping[str, str]
    image: str
    config: Callable[[_Plan], Any]
    processor: Callable[[_Plan, str], Any]
    more_special: Sequence[str] = ()
    template_head: str = ""


def build(
    family: str,
    out: str | os.PathLike[str],
    *,
    corpus: Sequence[str],
    seed: int = 0,
    hidden_size: int = 128,
    num_layers: int = 2,
    num_heads: int = 4,
    patch_size: int = 8,
    image_size: int | None = None,
    tokenizer: Literal["bpe", "words"] = "bpe",
    vocab_size: int = 400,
    chat_template: bool = True,
) -> None:
    """Write a randomly initialised model of `family` and all that belongs to it into the directory `out`.

    `corpus` trains the tokenizer. `image_size` and `patch_size` are pixels; `image_size` is 48, and 64 for smolvlm, so
    that the tokens of a tile are a multiple of patch_size, as that model wants it. The qwen families see an image of
    48×48 with patches of 8 as 9 tokens. Every matrix, embeddings included, is drawn with standard deviation fan-in^-½;
    the usual .02 leaves so narrow a network with hardly any signal. Same arguments, same bytes. Raises UsageError for
    an unknown family or sizes that do not divide, UnavailableError where torch or transformers is not installed.
    """
    require_libraries()
    if family not in FAMILIES:
        raise UsageError(f"unknown model family {family!r}; known are {', '.join(FAMILIES)}")
    edge = image_size or (64 if family == "smolvlm" else 48)
    if edge % (2 * patch_size) or hidden_size % (8 * num_heads):
        raise UsageError("image_size must be a multiple of 2 × patch_size, and hidden_size one of 8 × num_heads")
    if family == "smolvlm" and (edge // patch_size // 2) ** 2 % patch_size:
        raise UsageError("smolvlm: (image_size / patch_size / 2)² must be a multiple of patch_size")
    recipe = _RECIPES[family]
    text_tokenizer = _tokenizer(recipe, tokenizer, corpus, vocab_size, adds_bos=family == "causal_lm")
    plan = _Plan(text_tokenizer, hidden_size, num_layers, num_heads, patch_size, edge)
    template = recipe.template_head + _TEMPLATE.replace("IMAGE", repr(recipe.image))
    model = _initialised(recipe.config(plan), seed)
    model.generation_config = _generation_config(text_tokenizer)
    Path(out).mkdir(parents=True, exist_ok=True)
    with quiet():
        model.save_pretrained(out)
    if family in ("llava", "llava_next"):
        _name_vision_as_published(Path(out) / "model.safetensors")
    recipe.processor(plan, template if chat_template else "").save_pretrained(out)


def _name_vision_as_published(weights: Path) -> None:
    """Give the vision encoder's weights the names that the published LLaVAs have.

    transformers reads both, writes the shorter ones for a model that it did not load, and vLLM knows the others only.
    """
    from safetensors.torch import load_file, save_file

    short, long = "vision_tower.", "vision_tower.vision_model."
    found = load_file(weights)
    save_file(
        {name if long in name else name.replace(short, long): tensor for name, tensor in found.items()},
        weights,
        metadata={"format": "pt"},
    )


def _tokenizer(recipe: _Recipe, kind: str, corpus: Sequence[str], vocab_size: int, *, adds_bos: bool) -> Any:
    from mmkit.testing import tiny_tokenizers

    make = tiny_tokenizers.words if kind == "words" else tiny_tokenizers.bpe
    # An image token comes last: mllama keeps it outside of what the language model can predict.
    special = [END_OF_TEXT, TURN_START, TURN_END, *recipe.more_special, *dict.fromkeys(recipe.special.values())]
    if recipe is _RECIPES["mllama"]:
        special.remove(recipe.image)
    backend = make(corpus, special, vocab_size)
    return tiny_tokenizers.wrapped(
        backend, recipe.special, bos=END_OF_TEXT, eos=TURN_END, pad=END_OF_TEXT, adds_bos=adds_bos
    )


def _generation_config(tokenizer: Any) -> Any:
    from transformers import GenerationConfig

    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=[tokenizer.eos_token_id, tokenizer.pad_token_id],
        pad_token_id=tokenizer.pad_token_id,
    )


def _initialised(config: Any, seed: int) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    auto = AutoModelForCausalLM if config.model_type == "llama" else AutoModelForImageTextToText
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        model = auto.from_config(config)
        for name, weight in model.named_parameters():
            if weight.dim() >= 2:
                weight.normal_(0, weight[0].numel() ** -0.5)
            elif "cross_attn" in name and "gate" in name:
                weight.fill_(0.5)  # mllama starts at 0, and then no image has any effect
    return model


def _qwen_config(family: str) -> Callable[[_Plan], Any]:
    def config(plan: _Plan) -> Any:
        from transformers import AutoConfig

        half_head = plan.hidden_size // plan.num_heads // 2
        side = 3 * half_head // 8
        rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [half_head - 2 * side, side, side]}
        text = plan.text_config(rope_parameters=rope)
        vision: dict[str, Any] = {"depth": _VISION_DEPTH, "num_heads": 4, "patch_size": plan.patch_size}
        if family == "qwen2_vl":
            vision |= {"embed_dim": _VISION_WIDTH, "hidden_size": plan.hidden_size, "mlp_ratio": 2}
        else:
            vision |= {"hidden_size": _VISION_WIDTH, "intermediate_size": 2 * _VISION_WIDTH}
            vision |= {"out_hidden_size": plan.hidden_size}
        if family == "qwen2_5_vl":
            vision |= {"window_size": 4 * plan.patch_size, "fullatt_block_indexes": [1]}
        if family == "qwen3_vl":
            rope["mrope_interleaved"] = True
            text["head_dim"] = 2 * half_head
            positions = (plan.image_size // plan.patch_size) ** 2
            vision |= {"num_position_embeddings": positions, "deepstack_visual_indexes": [0, 1]}
        return AutoConfig.for_model(
            family,
            text_config=text,
            vision_config=vision,
            tie_word_embeddings=True,
            image_token_id=plan.id_of("<|image_pad|>"),
            video_token_id=plan.id_of("<|video_pad|>"),
            vision_start_token_id=plan.id_of("<|vision_start|>"),
            vision_end_token_id=plan.id_of("<|vision_end|>"),
        )

    return config


def _qwen_processor(family: str, name: str) -> Callable[[_Plan, str], Any]:
    def processor(plan: _Plan, template: str) -> Any:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        # The processor counts pixels, not edges, under these names.
        size = {"shortest_edge": (2 * plan.patch_size) ** 2, "longest_edge": plan.image_size**2}
        images = Qwen2VLImageProcessorPil(patch_size=plan.patch_size, temporal_patch_size=2, merge_size=2, size=size)
        return _with_video(family, name, images, plan.tokenizer, chat_template=template)

    return processor


def _llava_config(family: str) -> Callable[[_Plan], Any]:
    def config(plan: _Plan) -> Any:
        from transformers import AutoConfig

        # Features come from the last layer but one, so one layer more than the others.
        vision = {"model_type": "clip_vision_model", "projection_dim": 64, **plan.clip_config(_VISION_DEPTH + 1)}
        grid = {"image_grid_pinpoints": _pinpoints(plan)} if family == "llava_next" else {}
        return AutoConfig.for_model(
            family,
            vision_config=vision,
            text_config={"model_type": "llama", **plan.text_config()},
            image_token_index=plan.id_of("<image>"),
            image_seq_length=(plan.image_size // plan.patch_size) ** 2,
            vision_feature_layer=-2,
            vision_feature_select_strategy="default",
            **grid,
        )

    return config


def _pinpoints(plan: _Plan) -> list[list[int]]:
    one, two = plan.image_size, 2 * plan.image_size
    return [[one, two], [two, one], [two, two]]


def _llava_processor(family: str) -> Callable[[_Plan, str], Any]:
    def processor(plan: _Plan, template: str) -> Any:
        from transformers import LlavaNextProcessor, LlavaProcessor
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
        from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

        edge = plan.image_size
        sizes: dict[str, Any] = {"size": {"shortest_edge": edge}, "crop_size": {"height": edge, "width": edge}}
        options = {
            "patch_size": plan.patch_size,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
            "chat_template": template,
        }
        if family == "llava":
            return LlavaProcessor(CLIPImageProcessorPil(**sizes), plan.tokenizer, **options)
        images = LlavaNextImageProcessorPil(**sizes, image_grid_pinpoints=_pinpoints(plan))
        return LlavaNextProcessor(images, plan.tokenizer, **options)

    return processor


def _mllama_config(plan: _Plan) -> Any:
    from transformers import AutoConfig

    rope = {"rope_type": "default", "rope_theta": 10000.0}
    text = plan.text_config(rope_parameters=rope, cross_attention_layers=list(range(1, plan.num_layers, 2)))
    text["vocab_size"] = plan.id_of("<|image|>")
    vision = {
        "hidden_size": _VISION_WIDTH,
        "attention_heads": 4,
        "num_hidden_layers": _VISION_DEPTH,
        "num_global_layers": 1,
        "intermediate_size": 2 * _VISION_WIDTH,
        "image_size": plan.image_size,
        "patch_size": plan.patch_size,
        "max_num_tiles": 4,
        "vision_output_dim": 3 * _VISION_WIDTH,
        "intermediate_layers_indices": [0, 1],
        "supported_aspect_ratios": [[1, 1], [1, 2], [2, 1], [2, 2], [1, 3], [3, 1], [1, 4], [4, 1]],
    }
    return AutoConfig.for_model(
        "mllama", vision_config=vision, text_config=text, image_token_index=plan.id_of("<|image|>")
    )


def _mllama_processor(plan: _Plan, template: str) -> Any:
    from transformers import MllamaProcessor
    from transformers.models.mllama.image_processing_pil_mllama import MllamaImageProcessorPil

    images = MllamaImageProcessorPil(size={"height": plan.image_size, "width": plan.image_size}, max_image_tiles=4)
    return MllamaProcessor(images, plan.tokenizer, chat_template=template)


def _idefics_config(family: str) -> Callable[[_Plan], Any]:
    def config(plan: _Plan) -> Any:
        from transformers import AutoConfig

        return AutoConfig.for_model(
            family,
            vision_config=plan.clip_config(_VISION_DEPTH),
            text_config={"model_type": "llama", **plan.text_config()},
            image_token_id=plan.id_of("<image>"),
            scale_factor=2,
            tie_word_embeddings=True,
            pad_token_id=plan.tokenizer.pad_token_id,
        )

    return config


def _idefics_processor(family: str) -> Callable[[_Plan, str], Any]:
    def processor(plan: _Plan, template: str) -> Any:
        from transformers import Idefics3Processor
        from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
        from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

        sizes: dict[str, Any] = {
            "size": {"longest_edge": 2 * plan.image_size},
            "max_image_size": {"longest_edge": plan.image_size},
            "do_image_splitting": True,
        }
        options = {"image_seq_len": (plan.image_size // plan.patch_size) ** 2 // 4, "chat_template": template}
        if family == "idefics3":
            return Idefics3Processor(Idefics3ImageProcessorPil(**sizes), plan.tokenizer, **options)
        return _with_video(family, "SmolVLMProcessor", SmolVLMImageProcessorPil(**sizes), plan.tokenizer, **options)

    return processor


def _llama_config(plan: _Plan) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model("llama", **plan.text_config())


def _text_only(plan: _Plan, template: str) -> Any:
    plan.tokenizer.chat_template = template or None
    return plan.tokenizer


def _with_video(family: str, name: str, image_processor: Any, tokenizer: Any, **options: Any) -> Any:
    """A processor of a family that also has a video half, which is written as an entry and never built."""
    import transformers

    return image_only(getattr(transformers, name), family)(image_processor, tokenizer, None, **options)


_QWEN = {
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
    "video_token": "<|video_pad|>",
    "image_token": "<|image_pad|>",
}
_QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
_IDEFICS = {
    "fake_image_token": "<fake_token_around_image>",
    "end_of_utterance_token": "<end_of_utterance>",
    "global_image_token": "<global-img>",
    "video_token": "<video>",
    "image_token": "<image>",
}
_LLAVA = {"image_token": "<image>"}
_RECIPES: dict[str, _Recipe] = {
    "qwen2_vl": _Recipe(_QWEN, _QWEN_IMAGE, _qwen_config("qwen2_vl"), _qwen_processor("qwen2_vl", "Qwen2VLProcessor")),
    "qwen2_5_vl": _Recipe(
        _QWEN, _QWEN_IMAGE, _qwen_config("qwen2_5_vl"), _qwen_processor("qwen2_5_vl", "Qwen2_5_VLProcessor")
    ),
    "qwen3_vl": _Recipe(_QWEN, _QWEN_IMAGE, _qwen_config("qwen3_vl"), _qwen_processor("qwen3_vl", "Qwen3VLProcessor")),
    "llava": _Recipe(_LLAVA, "<image>\n", _llava_config("llava"), _llava_processor("llava")),
    "llava_next": _Recipe(_LLAVA, "<image>\n", _llava_config("llava_next"), _llava_processor("llava_next")),
    "mllama": _Recipe(
        {"image_token": "<|image|>"}, "<|image|>", _mllama_config, _mllama_processor, template_head="{{- bos_token -}}"
    ),
    "idefics3": _Recipe(_IDEFICS, "<image>", _idefics_config("idefics3"), _idefics_processor("idefics3"), _TILE_TAGS),
    "smolvlm": _Recipe(_IDEFICS, "<image>", _idefics_config("smolvlm"), _idefics_processor("smolvlm"), _TILE_TAGS),
    "causal_lm": _Recipe({}, "", _llama_config, _text_only),
}
