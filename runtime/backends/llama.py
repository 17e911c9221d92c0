"""Words through llama.cpp: visual tokens go in as embeddings, text comes out.

Only llama-cpp-python's low-level functions are used: its high-level class has no door for
embeddings. Every return code and the first logits are checked, since a NaN in an embedding makes
llama.cpp answer token 0 for ever without an error.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feallm.runtime.backends.session import finite_rows
from feallm.runtime.contract.errors import BackendError

MISSING = "llama-cpp-python is not installed (pip install 'feallm-edge[words]')"


def available() -> str | None:
    """None where llama.cpp can be used, else why not."""
    try:
        import llama_cpp  # noqa: F401
    except ImportError:
        return MISSING
    except (OSError, RuntimeError) as error:  # a library built for another processor
        return f"llama.cpp cannot be loaded: {error}"
    return None


@cache
def _silence() -> Any:
    """What llama.cpp logs through. It keeps one pointer for the whole process, so this must live
    longer than any session."""
    import llama_cpp.llama_cpp as lib

    return lib.llama_log_callback(lambda *_: None)


class LlamaSession:
    """A GGUF model and one sequence."""

    provider = "llama.cpp"

    def __init__(self, path: Path, *, width: int, context: int, threads: int = 1) -> None:
        if (reason := available()) is not None:
            raise BackendError(reason)
        import llama_cpp.llama_cpp as lib

        self._lib: Any = lib
        lib.llama_log_set(_silence(), ctypes.c_void_p(0))
        lib.llama_backend_init()
        model_parameters = lib.llama_model_default_params()
        model_parameters.n_gpu_layers = 0
        self._model = lib.llama_model_load_from_file(os.fsencode(path), model_parameters)
        if not self._model:
            raise BackendError(f"{path}: llama.cpp cannot load it")
        found = lib.llama_model_n_embd(self._model)
        if found != width:
            lib.llama_model_free(self._model)
            raise BackendError(f"{path}: embeddings of {found} values instead of {width}")
        parameters = lib.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = context
        parameters.n_threads = parameters.n_threads_batch = threads
        parameters.no_perf = True
        self._context = lib.llama_init_from_model(self._model, parameters)
        if not self._context:
            lib.llama_model_free(self._model)
            raise BackendError(f"{path}: llama.cpp cannot open a context of {context} tokens")
        self._vocab = lib.llama_model_get_vocab(self._model)
        self.vocabulary: int = lib.llama_vocab_n_tokens(self._vocab)
        self.width, self.context = width, context
        self._tokens = lib.llama_batch_init(context, 0, 1)
        self._embeddings = lib.llama_batch_init(context, width, 1)
        self._at = 0

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text; names of special tokens in it are plain text."""
        data = text.encode()
        room = (ctypes.c_int32 * (len(data) + 8))()
        count = self._lib.llama_tokenize(
            self._vocab, data, len(data), room, len(room), False, False
        )
        if count < 0:
            raise BackendError(f"llama.cpp cannot tokenize {text!r}")
        return list(room[:count])

    def piece(self, token: int) -> bytes:
        """Bytes of a token; empty for special ones."""
        room = ctypes.create_string_buffer(256)
        count = self._lib.llama_token_to_piece(self._vocab, token, room, len(room), 0, False)
        return room.raw[: max(count, 0)]

    def restart(self) -> None:
        """Forget the sequence and begin with the opening token."""
        if not self._context:
            raise BackendError("this llama.cpp session is closed")
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)
        self._at = 0
        self.feed([self._lib.llama_vocab_bos(self._vocab)])

    def feed(self, tokens: list[int], *, every_logit: bool = False) -> None:
        """Append tokens; logits are kept of the last one, or of each."""
        self._check_room(len(tokens))
        for k, token in enumerate(tokens):
            self._tokens.token[k] = token
        self._decode(self._tokens, len(tokens), every_logit)

    def see(self, embeddings: NDArray[np.float32]) -> None:
        """Append visual tokens (N, width) as embeddings."""
        rows = finite_rows(embeddings, self.width)
        self._check_room(len(rows))
        ctypes.memmove(self._embeddings.embd, rows.ctypes.data, rows.nbytes)
        self._decode(self._embeddings, len(rows), False)

    def _check_room(self, count: int) -> None:
        """Before anything is written: the batches are C arrays of `context` places."""
        if self._at + count > self.context:
            raise BackendError(f"more than {self.context} tokens in one answer")

    def _decode(self, batch: Any, count: int, every_logit: bool) -> None:
        batch.n_tokens = count
        for k in range(count):
            batch.pos[k] = self._at + k
            batch.n_seq_id[k] = 1
            batch.seq_id[k][0] = 0
            batch.logits[k] = every_logit or k == count - 1
        code = self._lib.llama_decode(self._context, batch)
        if code != 0:
            raise BackendError(f"llama.cpp failed with code {code}")
        self._at += count

    def logits(self, index: int = -1) -> NDArray[np.float32]:
        """Logits (vocabulary,) after the fed token with this index (those that kept theirs)."""
        pointer = self._lib.llama_get_logits_ith(self._context, index)
        if not pointer:
            raise BackendError("llama.cpp kept no logits there")
        return np.ctypeslib.as_array(pointer, (self.vocabulary,)).copy()

    def generate(self, limit: int, grammar: str | None = None) -> Iterator[bytes]:
        """Greedy pieces of the answer, until its end or `limit` tokens."""
        if not np.isfinite(self.logits()).all():
            raise BackendError("llama.cpp gave logits that are not finite")
        chain = self._chain(grammar)
        end = self._lib.llama_vocab_eos(self._vocab)
        try:
            for _ in range(limit):
                token = self._lib.llama_sampler_sample(chain, self._context, -1)
                if token == end:
                    return
                yield self.piece(token)
                self.feed([token])
        finally:
            self._lib.llama_sampler_free(chain)

    def _chain(self, grammar: str | None) -> Any:
        lib = self._lib
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        if grammar is not None:
            rule = lib.llama_sampler_init_grammar(self._vocab, grammar.encode(), b"root")
            if not rule:
                lib.llama_sampler_free(chain)
                raise BackendError("llama.cpp does not accept the grammar")
            lib.llama_sampler_chain_add(chain, rule)
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_greedy())
        return chain

    def close(self) -> None:
        """Give the model's memory back; a second call does nothing."""
        if self._context:
            for batch in (self._tokens, self._embeddings):
                self._lib.llama_batch_free(batch)
            self._lib.llama_free(self._context)
            self._lib.llama_model_free(self._model)
            self._context = self._model = None
