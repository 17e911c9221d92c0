"""Language model -> GGUF, tokenizer included, as llama.cpp's architecture "llama": F16 by `gguf`,
fewer bits by llama.cpp's quantizer. Each file is read back by llama.cpp before it counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from feallm.calibration import importance
from feallm.calibration.answers import answers, sequences
from feallm.export import gguf_quantize
from feallm.export.job import Job
from feallm.model.checkpoint import Checkpoint
from feallm.model.language import LanguageModel
from feallm.model.tokenizer import BOS, EOS, PAD, SPECIAL
from feallm.runtime.backends import llama
from feallm.runtime.contract.errors import UsageError, VerificationError
from feallm.runtime.language import wording

if TYPE_CHECKING:
    import gguf

NAME = "feallm"
MOST_APART = {"fp16": 1e-5, "q8_0": 2e-4, "q6_k": 1e-3, "q4_k_m": 3e-3}
"""How far, on average, the distribution over the next token may lie from float's (KL, nats)."""
FLOAT_FILE, IMPORTANCE_FILE = "language.f16.gguf", "importance.npz"  # in a job's scratch folder
PRE_TOKENIZER = "gpt-2"  # any other name tokenizes differently, silently
_CHECKED = 8  # faces; the places of their answers are some hundreds

HARD_TEXTS = (
    "It's 1234567 or 3.14159; DON'T, we'LL",
    "  two  spaces,\ttab\n\n\nlines \n and trailing  ",
    "naïve Grüße, Привет мир, 你好，世界, नमस्ते, 👩‍👩‍👧",
    "#$%&()*+,-./:;=?@[]^_`{|}~ AU1AU2 AU 12 x2y3",
)
"""What pre-tokenizers cut in different ways."""


def make(job: Job, precision: str, path: Path) -> None:
    """Write the language model as "fp16", "q8_0", "q6_k" or "q4_k_m"; the last two weigh rounding
    errors by an importance matrix of the job's crops, for the first two there is nothing to weigh.

    The float file and the importance matrix are made once and lie in the job's scratch folder.
    llama.cpp reads what was written; where it is not installed, "fp16" goes unread.
    """
    import gguf  # noqa: F401

    if precision not in MOST_APART:
        raise UsageError(f"no GGUF precision {precision!r}", hint=f"there are {[*MOST_APART]}")
    checkpoint = job.checkpoint
    language, tokenizer = checkpoint.language, checkpoint.tokenizer
    if language is None or tokenizer is None:
        raise UsageError("this checkpoint has no language model, so it makes no GGUF file")
    if precision == "fp16":
        export_language(language, tokenizer, path)
        gguf_quantize.check_types(path, precision)
        if llama.available() is not None:  # it only reads this one: the other three it makes
            return
    else:
        import llama_cpp  # noqa: F401

        source = job.scratch / FLOAT_FILE
        if not source.is_file():
            partial = source.with_suffix(".partial")
            export_language(language, tokenizer, partial)
            partial.rename(source)
        weighed = _importance(job) if precision.endswith(("_k", "_k_m")) else None
        gguf_quantize.quantize(source, path, precision, weighed)
    agree(checkpoint, path, job.held_out[:_CHECKED], MOST_APART[precision])


def _importance(job: Job) -> importance.Importance:
    kept = job.scratch / IMPORTANCE_FILE
    if kept.is_file():
        return importance.read(kept)
    language = job.checkpoint.language
    assert language is not None
    said = answers(job.checkpoint, job.crops)
    found = importance.measure(language, sequences(job.checkpoint, said))
    importance.save(found, kept)
    return found


def agree(checkpoint: Checkpoint, path: Path, crops: NDArray[np.uint8], most: float) -> None:
    """`VerificationError` where llama.cpp cuts a text otherwise than the tokenizer, or puts tokens
    after the crops (N, H, W, 3) and their answers otherwise than float by more than `most`."""
    from feallm.export.parity import divergence

    _same_tokens(checkpoint, path)
    found = divergence(checkpoint, path, answers(checkpoint, crops))
    if not found.mean <= most:
        raise VerificationError(
            f"{path.name}: llama.cpp's next token lies {found.mean:.2g} from torch's (mean KL of"
            f" {found.tokens} places), at most {most:g} is allowed; both put the same token first"
            f" in {found.share:.1%}"
        )


def _same_tokens(checkpoint: Checkpoint, path: Path) -> None:
    import gguf
    from tokenizers import Tokenizer

    assert checkpoint.language is not None and checkpoint.tokenizer is not None
    config, exact = checkpoint.language.config, Tokenizer.from_str(checkpoint.tokenizer)
    session = llama.LlamaSession(path, width=config.width, context=config.context)
    texts = [*HARD_TEXTS, *(question + "\n" for question in wording.QUESTIONS)]
    wrong = [text for text in texts if session.tokenize(text) != exact.encode(text).ids]
    session.close()
    if wrong:
        raise VerificationError(
            f"{path.name}: llama.cpp cuts {len(wrong)} of {len(texts)} texts into other tokens than"
            f" the tokenizer does, first {wrong[0]!r}"
        )
    # A small vocabulary can hide the difference from these texts, and show it in others.
    field = gguf.GGUFReader(path).get_field("tokenizer.ggml.pre")
    found = field.contents() if field is not None else None
    if found != PRE_TOKENIZER:
        raise VerificationError(
            f"{path.name}: names the pre-tokenizer {found!r}, expected {PRE_TOKENIZER!r}: llama.cpp"
            " would cut texts into other tokens"
        )


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
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(ids[BOS])
    writer.add_eos_token_id(ids[EOS])
    writer.add_pad_token_id(ids[PAD])
    writer.add_add_bos_token(False)
