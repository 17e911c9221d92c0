"""Language model -> GGUF F16, tokenizer included, as llama.cpp's architecture "llama"."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feallm.model.language import LanguageModel
from feallm.model.tokenizer import BOS, EOS, PAD, SPECIAL

if TYPE_CHECKING:
    import gguf

NAME = "feallm"


def permuted(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """q or k rows from half-rotation order to the interleaved order that llama.cpp expects."""
    rows, columns = weight.shape
    return (
        weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(weight.shape)
    )


def export_language(language: LanguageModel, tokenizer: str, path: Path) -> None:
    """Write the model, LoRA merged, and its tokenizer (JSON of `tokenizers`)."""
    import gguf

    language.merge_lora()
    config = language.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(NAME)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.width)
    writer.add_block_count(config.layers)
    writer.add_feed_forward_length(config.feed_forward)
    writer.add_head_count(config.heads)
    writer.add_head_count_kv(config.heads)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(config.width // config.heads)
    writer.add_vocab_size(config.vocabulary)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    _add_tokenizer(writer, json.loads(tokenizer), config.vocabulary)
    for name, value in _tensors(language).items():
        # Norms stay float32: llama.cpp's kernels ask for it.
        writer.add_tensor(name, value if value.ndim == 1 else value.astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(language: LanguageModel) -> dict[str, NDArray[np.float32]]:
    state = {name: value.float().numpy() for name, value in language.state_dict().items()}
    heads = language.config.heads
    result = {
        "token_embd.weight": state["embed.weight"],
        "output_norm.weight": state["norm.weight"],
    }
    for i in range(language.config.layers):
        block = {n.split(".", 2)[2]: v for n, v in state.items() if n.startswith(f"blocks.{i}.")}
        parts = {
            "attn_norm": block["attn_norm.weight"],
            "attn_q": permuted(block["q.weight"], heads),
            "attn_k": permuted(block["k.weight"], heads),
            "attn_v": block["v.weight"],
            "attn_output": block["o.weight"],
            "ffn_norm": block["ffn_norm.weight"],
            "ffn_gate": block["gate.weight"],
            "ffn_up": block["up.weight"],
            "ffn_down": block["down.weight"],
        }
        result |= {f"blk.{i}.{name}.weight": value for name, value in parts.items()}
    return result


def _add_tokenizer(writer: gguf.GGUFWriter, fields: dict[str, Any], vocabulary: int) -> None:
    import gguf

    ids: dict[str, int] = dict(fields["model"]["vocab"])
    added = {token["content"]: token["id"] for token in fields["added_tokens"]}
    ids |= added
    tokens = sorted(ids, key=ids.__getitem__)
    if [ids[token] for token in tokens] != list(range(vocabulary)):
        raise ValueError("the tokenizer's ids have gaps")
    kinds = [
        gguf.TokenType.CONTROL
        if token in SPECIAL
        else gguf.TokenType.UNUSED
        if token in added
        else gguf.TokenType.NORMAL
        for token in tokens
    ]
    merges = [m if isinstance(m, str) else " ".join(m) for m in fields["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")  # any other name tokenizes differently, silently
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(ids[BOS])
    writer.add_eos_token_id(ids[EOS])
    writer.add_pad_token_id(ids[PAD])
    writer.add_add_bos_token(False)
