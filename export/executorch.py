"""Vision network -> ExecuTorch .pte through XNNPACK, float32 or int8, one face a call."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from feallm.export import executorch_int8
from feallm.export.job import Job
from feallm.export.run import answers, float_answers
from feallm.model.vision import VisionNetwork
from feallm.runtime.backends.base import AU_PROBABILITY, EXPRESSION
from feallm.runtime.backends.executorch import VISION, XNNPACK
from feallm.runtime.contract.errors import UsageError, VerificationError

MOST_APART = 1e-3
"""How far any output of the float file may lie from torch's (pixels and degrees included)."""
MOST_APART_INT8, LEAST_ALIKE = 0.01, 0.95
"""The same of AU probabilities in int8, on average (.0015 is usual, .0075 where matrices have
measured ranges), and the share of faces whose first expression must be the float network's."""
LEAST_DELEGATED = 0.5
"""Share of the constants that XNNPACK must hold; .9 and more is usual, a token table is not its."""
PRECISIONS = ("fp32", "int8")
ROOM_SHARE, ROOM_BYTES = 0.05, 100_000
"""What a file may weigh beside its weights: scales, padding, the program itself."""

HEAVY = ("conv", "linear", "mm", "matmul", "softmax")
"""In the names of kernels that are a hundred times slower outside of XNNPACK."""

Programs = Mapping[str, torch.export.ExportedProgram]


def make(job: Job, precision: str, path: Path) -> None:
    """Write the file in fp32 or int8; nothing is left where it does not answer as torch does."""
    if precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise UsageError(f"ExecuTorch vision has no precision {precision}", hint=known)
    network = job.checkpoint.vision
    path.write_bytes(lower({VISION: traced(network, precision, job.crops)}))
    try:
        check_delegated(path)
        check_size(path, expected_bytes(network, precision))
        agree(network, path, job.held_out, precision)
    except VerificationError:
        path.unlink()
        raise


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what the libraries say of themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        level = logging.root.manager.disable
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(level)


def traced(
    network: nn.Module, precision: str, crops: NDArray[np.uint8]
) -> torch.export.ExportedProgram:
    """A vision network, or what holds one, as a graph for one crop (1, H, W, 3); in int8 with
    ranges of `crops`."""
    network = copy.deepcopy(network).eval().requires_grad_(False)
    example = (torch.from_numpy(crops[:1].copy()),)
    with quiet(), torch.no_grad():
        program = torch.export.export(network, example)
        if precision == "fp32":
            return program
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        watched = prepare_pt2e(program.module(), executorch_int8.quantizer(network))
        for k in range(len(crops)):
            watched(torch.from_numpy(crops[k : k + 1].copy()))
        return torch.export.export(convert_pt2e(watched), example)


def lower(programs: Programs, constants: Mapping[str, Any] | None = None) -> bytes:
    """The .pte file of these methods, and of methods that give a constant."""
    with quiet():
        from executorch.exir import to_edge_transform_and_lower

        lowered = to_edge_transform_and_lower(
            dict(programs),
            partitioner={name: _partitioners() for name in programs},
            transform_passes={name: [_without_copies()] for name in programs},
            constant_methods=dict(constants or {}),
        )
        return bytes(lowered.to_executorch().buffer)


def _partitioners() -> list[Any]:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner

    return [XnnpackPartitioner()]


def _without_copies() -> Any:
    """A pass that takes out the expansions to the shape that is there already: each product has
    two, they are slow copies and cut what XNNPACK gets into pieces (15 became 8)."""
    from executorch.exir.dialects._ops import ops
    from executorch.exir.pass_base import ExportPass

    class WithoutCopies(ExportPass):  # type: ignore[misc]  # the library ships no types
        def call_operator(self, op: Any, args: Any, kwargs: Any, meta: Any) -> Any:
            if op is ops.edge.aten.expand_copy.default:
                if tuple(args[0].data.shape) == tuple(meta["val"].shape):
                    return args[0]
            return super().call_operator(op, args, kwargs, meta)

    return WithoutCopies()


@dataclass(frozen=True, slots=True)
class Delegated:
    """What a file gives to XNNPACK and what it keeps, over all of its methods."""

    calls: int  # of XNNPACK
    kernels: Counter[str]  # calls of ExecuTorch's own kernels, by name
    share: float  # of the bytes of weights, those that XNNPACK holds

    @property
    def heavy(self) -> list[str]:
        """Kernels that XNNPACK should have had."""
        return [name for name in self.kernels if any(word in name for word in HEAVY)]


def delegated(path: Path) -> Delegated:
    """What the file on disk gives to XNNPACK."""
    with quiet():
        from executorch.exir._serialize._program import deserialize_pte_binary

        file = deserialize_pte_binary(path.read_bytes())
        program = file.program
    calls, kernels = 0, Counter[str]()
    for plan in program.execution_plan:
        for chain in plan.chains:
            for instruction in chain.instructions:
                call = instruction.instr_args
                if hasattr(call, "delegate_index"):
                    calls += plan.delegates[call.delegate_index].id == XNNPACK
                elif hasattr(call, "op_index"):
                    kernels[plan.operators[call.op_index].name] += 1
    # What is stored under a name is XNNPACK's: its weights, one copy for all methods.
    named = file.named_data.buffers if file.named_data else []
    held = sum(len(getattr(part, "buffer", part)) for part in named)
    held += sum(len(part.data) for part in program.backend_delegate_data)
    kept = sum(len(part.storage) for part in program.constant_buffer)
    return Delegated(calls, kernels, held / max(held + kept, 1))


def check_delegated(path: Path, least: float = LEAST_DELEGATED) -> None:
    """`VerificationError` where XNNPACK got too little: the file would be right, and slow."""
    found = delegated(path)
    if found.heavy or found.share < least:
        raise VerificationError(
            f"{path.name}: XNNPACK holds {found.share:.0%} of the weights (at least {least:.0%} is"
            f" asked), and is not given {', '.join(found.heavy) or 'the rest'}"
        )


def expected_bytes(network: nn.Module, precision: str) -> int:
    """What the weights of a vision file should weigh."""
    whole = 4 * numbers(network)
    if precision == "fp32":
        return whole
    return whole - 3 * sum(weight.numel() for weight in executorch_int8.weights(network))


def numbers(module: nn.Module) -> int:
    """How many numbers a module holds, shared ones once."""
    held = {tensor.data_ptr(): tensor for tensor in (*module.parameters(), *module.buffers())}
    return sum(tensor.numel() for tensor in held.values())


def check_size(path: Path, expected: float) -> None:
    """`VerificationError` where the file holds weights twice, or in more bits than it should."""
    size, most = path.stat().st_size, expected * (1 + ROOM_SHARE) + ROOM_BYTES
    if size > most:
        raise VerificationError(f"{path.name}: {size} bytes, at most {most:.0f} are expected")


def agree(network: VisionNetwork, path: Path, crops: NDArray[np.uint8], precision: str) -> None:
    """`VerificationError` where the file does not answer crops (N, H, W, 3) as torch does."""
    found, exact = answers(path, crops), float_answers(network, crops)
    worst = {name: float(np.abs(found[name] - exact[name]).max()) for name in exact}
    if precision == "fp32":
        for name, gap in worst.items():
            if not gap <= MOST_APART:
                raise VerificationError(
                    f"{path.name}: {name} differs from torch by {gap:.2g},"
                    f" at most {MOST_APART:g} is allowed"
                )
        return
    apart = float(np.abs(found[AU_PROBABILITY] - exact[AU_PROBABILITY]).mean())
    alike = float((found[EXPRESSION].argmax(1) == exact[EXPRESSION].argmax(1)).mean())
    if not (apart <= MOST_APART_INT8 and alike >= LEAST_ALIKE):
        raise VerificationError(
            f"{path.name}: AU probabilities lie {apart:.3f} from torch's on average (at most"
            f" {MOST_APART_INT8}), {alike:.3f} of the expressions are the same (at least"
            f" {LEAST_ALIKE})"
        )
