"""A .pte file of the whole model's contract that costs nothing to make, for the C++ program: the
methods, shapes and metadata are those of `feallm.export.executorch_words`, the network is not.

Not a test module: `tests/house/test_native.py` and `test_emulated.py` load it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

WIDTH, VOCABULARY, CONTEXT, BEGIN, END = 8, 24, 32, 1, 2
CROP = (1, 128, 112, 3)


class Eye(nn.Module):
    """Four visual tokens (1, 4, WIDTH), and chances (1, 20) after them."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Conv2d(3, 6, 8, 8)
        self.tokens, self.chances = nn.Linear(6 * 56, 4 * WIDTH), nn.Linear(6 * 56, 20)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Of an uint8 crop (1, H, W, 3)."""
        picture = (crops.float() / 255 - 0.5).permute(0, 3, 1, 2)
        seen = nn.functional.avg_pool2d(torch.relu(self.look(picture)), 2).flatten(1)
        return self.tokens(seen).unflatten(1, (4, WIDTH)), self.chances(seen).sigmoid()


class Reader(nn.Module):
    """Logits (1, VOCABULARY) after the last embedding; what was read before is remembered."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("memory", torch.zeros(CONTEXT, WIDTH))
        self.memory: Tensor
        self.place = nn.Parameter(torch.randn(CONTEXT, WIDTH))
        self.out = nn.Linear(2 * WIDTH, VOCABULARY)

    def forward(self, embeddings: Tensor, positions: Tensor) -> Tensor:
        """Of embeddings (1, n, WIDTH) at positions (n)."""
        self.memory.index_copy_(0, positions, embeddings[0])
        last = positions[-1]
        past = (torch.arange(CONTEXT) <= last).float()
        weights = past / past.sum()
        read = weights @ torch.tanh(self.memory * self.place)
        result: Tensor = self.out(torch.cat([read, embeddings[0, -1]]) * 3)[None]
        return result


def write(path: Path, *, forward: bool = False) -> None:
    """The whole model, or with `forward` the eye alone."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    torch.manual_seed(11)
    eye, reader, table = Eye(), Reader(), nn.Embedding(VOCABULARY, WIDTH)
    for module in (eye, reader, table):
        module.eval().requires_grad_(False)
    count = torch.export.Dim("count", min=1, max=CONTEXT)
    crop = torch.zeros(CROP, dtype=torch.uint8)
    if forward:
        programs = {"forward": torch.export.export(eye, (crop,))}
    else:
        ids = torch.tensor([[1, 2, 3]])
        programs = {
            "vision_encoder": torch.export.export(eye, (crop,)),
            "token_embedding": torch.export.export(table, (ids,), dynamic_shapes=({1: count},)),
            "text_decoder": torch.export.export(
                reader, (table(ids), torch.arange(3)), dynamic_shapes=({1: count}, {0: count})
            ),
        }
    facts = {
        "get_max_context_len": CONTEXT,
        "get_vocab_size": VOCABULARY,
        "get_bos_id": BEGIN,
        "get_eos_ids": [END],
    }
    edge = to_edge_transform_and_lower(
        programs,
        partitioner={name: [XnnpackPartitioner()] for name in programs},
        constant_methods=None if forward else facts,
    )
    path.write_bytes(edge.to_executorch().buffer)
