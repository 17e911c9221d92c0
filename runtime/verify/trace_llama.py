"""What the layers of a GGUF file answer, through llama.cpp's own callback.

llama.cpp shows every tensor of its graph to `cb_eval` under a name of its own; ggml's functions,
which llama-cpp-python does not wrap, say how large a tensor is and copy it out.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feallm.runtime.backends import llama
from feallm.runtime.backends.session import finite_rows
from feallm.runtime.contract.errors import BackendError
from feallm.runtime.verify.trace import Layer, sample

Floats = NDArray[np.float32]

EMBED, LOGITS = "embed", "logits"
NAMES = {
    "attn_norm": "attn_norm",
    "Qcur": "q",
    "Kcur": "k",
    "Vcur": "v",
    "kqv_out": "read",
    "attn_out": "o",
    "ffn_norm": "ffn_norm",
    "ffn_gate": "gate",
    "ffn_up": "up",
    "ffn_out": "down",
    "l_out": "",
}
"""llama.cpp's names of tensors of a block, and the block's parts (`feallm.model.language`)."""
_WHOLE = {"embd": EMBED, "result_norm": "norm", "result_output": LOGITS}


def layers(path: Path, visual: Floats, question: Sequence[int], *, context: int) -> list[Layer]:
    """Each layer for one conversation: the opening token, visual tokens (N, width), a question's
    tokens. In the order in which llama.cpp computes them."""
    if (reason := llama.available()) is not None:
        raise BackendError(reason)
    rows = finite_rows(visual, visual.shape[-1])
    if len(rows) + len(question) + 1 > context:
        raise BackendError(f"{len(rows) + len(question) + 1} tokens, yet a context of {context}")
    # It silences llama.cpp's log, and checks the file, as for every other use.
    llama.LlamaSession(path, width=rows.shape[1], context=context).close()
    watch = _Watch()
    with _Context(path, context, watch) as session:
        session.decode(np.array([session.opening], np.int32))
        session.decode(rows)
        session.decode(np.array(question, np.int32))
        heads = session.heads
    if watch.failed is not None:
        raise BackendError(f"{path}: llama.cpp does not show its layers: {watch.failed}")
    if not watch.kept:
        raise BackendError(f"{path}: this llama.cpp names its layers in another way")
    found = []
    for name, parts in watch.kept.items():
        output = np.concatenate(parts)
        if re.fullmatch(r"blocks\.\d+\.[qk]", name):
            output = _unpermuted(output, heads)
        found.append(sample(name, output))
    return found


def _unpermuted(output: Floats, heads: int) -> Floats:
    """q or k (tokens, width), whose values GGUF has in another order than the checkpoint."""
    tokens, width = output.shape
    pairs = output.reshape(tokens, heads, width // heads // 2, 2)
    return pairs.swapaxes(2, 3).reshape(tokens, width)


def _layer(name: str) -> str | None:
    """The network's name of a tensor of llama.cpp's, where it has one."""
    if name in _WHOLE:
        return _WHOLE[name]
    kind, _, block = name.rpartition("-")
    if kind not in NAMES or not block.isdecimal():
        return None
    return f"blocks.{block}.{NAMES[kind]}".removesuffix(".")


class _Watch:
    """Copies the tensors that have a name of the network's, those of each batch after the other."""

    def __init__(self) -> None:
        import llama_cpp.llama_cpp as lib

        pointer = ctypes.c_void_p
        self._name = self._function("ggml_get_name", ctypes.c_char_p, pointer)
        self._count = self._function("ggml_nelements", ctypes.c_int64, pointer)
        self._bytes = self._function("ggml_nbytes", ctypes.c_size_t, pointer)
        self._whole = self._function("ggml_is_contiguous", ctypes.c_bool, pointer)
        self._copy = self._function(
            "ggml_backend_tensor_get", None, pointer, pointer, ctypes.c_size_t, ctypes.c_size_t
        )
        self.kept: dict[str, list[Floats]] = {}
        self.failed: Exception | None = None
        self.tokens = 1  # of this batch
        self._seen: set[str] = set()
        # ctypes keeps no reference: this object must outlive the context.
        self.callback = lib.ggml_backend_sched_eval_callback(self._on_tensor)

    @staticmethod
    def _function(name: str, result: Any, *arguments: Any) -> Any:
        """One of ggml's own, from the library that llama.cpp's brings with it."""
        import llama_cpp.llama_cpp as lib
        from llama_cpp._ctypes_extensions import load_shared_library

        kind = ctypes.CFUNCTYPE(result, *arguments)
        try:
            return kind((name, lib._lib))
        except AttributeError:  # Windows looks into that one library alone
            pass
        try:
            return kind((name, load_shared_library("ggml-base", lib._base_path)))
        except (AttributeError, OSError, RuntimeError) as error:
            raise BackendError(f"this llama.cpp has no {name}: no layer can be shown") from error

    def begin(self, tokens: int) -> None:
        """A batch."""
        self.tokens = tokens
        self._seen.clear()

    def _on_tensor(self, tensor: int, ask: bool, _: Any) -> bool:
        """Whether a tensor is wanted (`ask`), or that it is there; True goes on."""
        try:
            layer = _layer(self._name(tensor).decode(errors="replace"))
            # A name is given again to what is only turned about: the first is the product.
            wanted = layer is not None and layer not in self._seen
            if ask or layer is None or not wanted:
                return wanted if ask else True
            self._seen.add(layer)
            self.kept.setdefault(layer, []).append(self._values(tensor, layer))
        except Exception as error:  # nothing may be raised through C code
            self.failed = self.failed or error
            return False
        return True

    def _values(self, tensor: int, layer: str) -> Floats:
        count, size = self._count(tensor), self._bytes(tensor)
        if size != 4 * count or not self._whole(tensor) or count % self.tokens:
            raise ValueError(f"{layer} is no float32 array of {self.tokens} tokens")
        values = np.empty(count, np.float32)
        self._copy(tensor, values.ctypes.data, 0, size)
        return values.reshape(self.tokens, -1)


class _Context:
    """A model and a context that is watched, for as long as the block lasts."""

    def __init__(self, path: Path, context: int, watch: _Watch) -> None:
        import llama_cpp.llama_cpp as lib

        self._lib: Any = lib
        self._path, self._watch, self._size, self._at = path, watch, context, 0
        self._model: Any = None
        self._context: Any = None

    def __enter__(self) -> _Context:
        lib = self._lib
        of_model = lib.llama_model_default_params()
        of_model.n_gpu_layers = 0
        self._model = lib.llama_model_load_from_file(os.fsencode(self._path), of_model)
        if not self._model:
            raise BackendError(f"{self._path}: llama.cpp cannot load it")
        of_context = lib.llama_context_default_params()
        of_context.n_ctx = of_context.n_batch = of_context.n_ubatch = self._size
        of_context.n_threads = of_context.n_threads_batch = 1
        of_context.no_perf = True
        of_context.cb_eval = self._watch.callback
        self._context = lib.llama_init_from_model(self._model, of_context)
        if not self._context:
            lib.llama_model_free(self._model)
            raise BackendError(f"{self._path}: llama.cpp cannot open a context")
        self.opening = lib.llama_vocab_bos(lib.llama_model_get_vocab(self._model))
        self.heads = lib.llama_model_n_head(self._model)
        return self

    def __exit__(self, *_: object) -> None:
        self._lib.llama_free(self._context)
        self._lib.llama_model_free(self._model)

    def decode(self, given: NDArray[Any]) -> None:
        """Append tokens (N,) or embeddings (N, width); all of them are carried to the end, since
        llama.cpp drops in its last block what no logits are asked of."""
        lib, count = self._lib, len(given)
        if not count:
            return
        width = given.shape[1] if given.ndim == 2 else 0
        batch = lib.llama_batch_init(count, width, 1)
        try:
            ctypes.memmove(batch.embd if width else batch.token, given.ctypes.data, given.nbytes)
            batch.n_tokens = count
            for k in range(count):
                batch.pos[k], batch.n_seq_id[k], batch.logits[k] = self._at + k, 1, True
                batch.seq_id[k][0] = 0
            self._watch.begin(count)
            code = lib.llama_decode(self._context, batch)
        finally:
            lib.llama_batch_free(batch)
        if code != 0 and self._watch.failed is None:
            raise BackendError(f"{self._path}: llama.cpp failed with code {code}")
        self._at += count
