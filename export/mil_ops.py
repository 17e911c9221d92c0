"""The operations of Core ML's programs (MIL) in torch, one function a kind.

Each takes the named inputs of one operation: float tensors as float32, constants that are no
floats as numpy's. Only kinds are here that the project's programs hold, or held before what made
them was found to be unsafe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from feallm.runtime.contract.errors import VerificationError

Inputs = dict[str, Any]
Rounding = Callable[[Tensor], Tensor]
"""What happens to each float result: nothing, or the nearest float16."""


def tensor(value: Any) -> Tensor:
    """A tensor of whatever an input may be."""
    return value if isinstance(value, Tensor) else torch.as_tensor(value)


def _ints(value: Any) -> list[int]:
    return [int(one) for one in value]


def _cast(a: Inputs, _: Rounding) -> Tensor:
    kinds = {"fp16": torch.float32, "fp32": torch.float32, "int32": torch.int32}
    kinds |= {"bool": torch.bool, "int16": torch.int16, "uint16": torch.int32}
    return tensor(a["x"]).to(kinds[str(a["dtype"])])


def _conv(a: Inputs, _: Rounding) -> Tensor:
    x, size = a["x"], a["x"].dim() - 2
    if a.get("pad_type") == "custom":
        x = torch.nn.functional.pad(x, _sides(a["pad"], size))
    elif a.get("pad_type") != "valid":
        raise VerificationError(f"conv with pad_type {a.get('pad_type')} is not known")
    function = {1: torch.nn.functional.conv1d, 2: torch.nn.functional.conv2d}[size]
    strides, dilations = _ints(a["strides"]), _ints(a["dilations"])
    return function(x, a["weight"], a.get("bias"), strides, 0, dilations, int(a["groups"]))


def _sides(pad: Any, size: int) -> list[int]:
    """MIL's [top, bottom, left, right] in torch's order: the last axis first."""
    pads = _ints(pad)
    return [pads[2 * axis + side] for axis in reversed(range(size)) for side in (0, 1)]


def _avg_pool(a: Inputs, _: Rounding) -> Tensor:
    pads = _ints(a["pad"]) if a.get("pad_type") == "custom" else [0]
    if any(pads) or a.get("pad_type") not in ("custom", "valid") or a.get("ceil_mode"):
        raise VerificationError("avg_pool with padding is not known")
    sizes, strides = _ints(a["kernel_sizes"]), _ints(a["strides"])
    return torch.nn.functional.avg_pool2d(a["x"], sizes, strides)


def _matmul(a: Inputs, _: Rounding) -> Tensor:
    x = a["x"].transpose(-1, -2) if a.get("transpose_x") else a["x"]
    y = a["y"].transpose(-1, -2) if a.get("transpose_y") else a["y"]
    return torch.matmul(x, y)


def _layer_norm(a: Inputs, half: Rounding) -> Tensor:
    """Step by step: the squares are what passes float16's range."""
    axes = _ints(a["axes"])
    apart = half(a["x"] - half(a["x"].mean(axes, keepdim=True)))
    variance = half(half(apart.square()).mean(axes, keepdim=True))
    result = half(apart * torch.rsqrt(variance + float(a["epsilon"])))
    for name, join in (("gamma", torch.mul), ("beta", torch.add)):
        if a.get(name) is not None:
            result = join(result, a[name])
    return result


def _gelu(a: Inputs, _: Rounding) -> Tensor:
    if a["mode"] != "EXACT":
        raise VerificationError(f"gelu with mode {a['mode']} is not known")
    return torch.nn.functional.gelu(a["x"])


def _reduce(function: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[..., Tensor]:
    def reduce(a: Inputs, _: Rounding) -> Tensor:
        axes = list(range(a["x"].dim())) if a.get("axes") is None else _ints(a["axes"])
        return function(a["x"], axes, bool(a.get("keep_dims")))

    return reduce


def _mean(a: Inputs, half: Rounding) -> Tensor:
    """Through the sum, which must stay in range too."""
    total = half(_reduce(torch.sum)(a, half))
    mean: Tensor = total * (total.numel() / a["x"].numel())
    return mean


def _squeeze(a: Inputs, _: Rounding) -> Tensor:
    x: Tensor = a["x"]
    return x.squeeze() if a.get("axes") is None else x.squeeze(_ints(a["axes"]))


def _expand_dims(a: Inputs, _: Rounding) -> Tensor:
    x, axes = tensor(a["x"]), _ints(a["axes"])
    size = x.dim() + len(axes)
    for axis in sorted(axis % size for axis in axes):
        x = x.unsqueeze(axis)
    return x


def _reshape(a: Inputs, _: Rounding) -> Tensor:
    x, shape = tensor(a["x"]), _ints(a["shape"])
    return x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(shape)])


def _split(a: Inputs, _: Rounding) -> tuple[Tensor, ...]:
    x, axis = a["x"], int(a["axis"])
    if a.get("split_sizes") is not None:
        return tuple(x.split(_ints(a["split_sizes"]), axis))
    return tuple(x.split(x.shape[axis] // int(a["num_splits"]), axis))


def _concat(a: Inputs, _: Rounding) -> Tensor:
    if a.get("interleave"):
        raise VerificationError("concat with interleave is not known")
    return torch.cat([tensor(value) for value in a["values"]], int(a["axis"]))


def _window(a: Inputs, shape: Sequence[int]) -> tuple[slice, ...]:
    """Which part a slice takes. A mask overrides its bound, which then is anything."""
    begin, end = _ints(a["begin"]), _ints(a["end"])
    size = len(begin)
    stride = [1] * size if a.get("stride") is None else _ints(a["stride"])
    if min(stride) < 1:
        raise VerificationError("a slice with a negative stride is not known")
    squeezed, from_start, to_end = (
        [False] * size if a.get(name) is None else [bool(one) for one in a[name]]
        for name in ("squeeze_mask", "begin_mask", "end_mask")
    )

    def bounds() -> Iterator[slice]:
        for i, length in enumerate(shape):
            first = 0 if from_start[i] else begin[i] + (length if begin[i] < 0 else 0)
            last = length if to_end[i] else end[i] + (length if end[i] < 0 else 0)
            yield slice(first, first + 1, 1) if squeezed[i] else slice(first, last, stride[i])

    return tuple(bounds())


def _slice(a: Inputs, _: Rounding) -> Tensor:
    x = tensor(a["x"])
    part: Tensor = x[_window(a, x.shape)]
    if a.get("squeeze_mask") is not None:
        part = part.squeeze([i for i, gone in enumerate(a["squeeze_mask"]) if gone])
    return part


def _gather(a: Inputs, _: Rounding) -> Tensor:
    x, indices, axis = tensor(a["x"]), tensor(a["indices"]).long(), int(a["axis"])
    if int(a.get("batch_dims") or 0) != 0:
        raise VerificationError("gather with batch_dims is not known")
    axis %= x.dim()
    indices = torch.where(indices < 0, indices + x.shape[axis], indices)
    picked = x.index_select(axis, indices.reshape(-1))
    return picked.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def _two(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda a, _: function(tensor(a["x"]), tensor(a["y"]))


def _one(function: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda a, _: function(a["x"])


OPERATIONS: dict[str, Callable[[Inputs, Rounding], Tensor | tuple[Tensor, ...]]] = {
    "cast": _cast,
    "conv": _conv,
    "avg_pool": _avg_pool,
    "linear": lambda a, _: torch.nn.functional.linear(a["x"], a["weight"], a.get("bias")),
    "matmul": _matmul,
    "layer_norm": _layer_norm,
    "softmax": lambda a, _: a["x"].softmax(int(a["axis"])),
    "gelu": _gelu,
    "relu": _one(torch.relu),
    "sigmoid": _one(torch.sigmoid),
    "silu": _one(torch.nn.functional.silu),
    "abs": _one(torch.abs),
    "rsqrt": lambda a, _: torch.rsqrt(a["x"] + float(a.get("epsilon") or 0.0)),
    "clip": lambda a, _: a["x"].clamp(float(a["alpha"]), float(a["beta"])),
    "pow": _two(torch.pow),
    "add": _two(torch.add),
    "sub": _two(torch.sub),
    "mul": _two(torch.mul),
    "real_div": _two(torch.div),
    "equal": _two(torch.eq),
    "greater": _two(torch.gt),
    "greater_equal": _two(torch.ge),
    "select": lambda a, _: torch.where(tensor(a["cond"]), tensor(a["a"]), tensor(a["b"])),
    "reduce_max": _reduce(lambda x, axes, keep: x.amax(axes, keep)),
    "reduce_min": _reduce(lambda x, axes, keep: x.amin(axes, keep)),
    "reduce_mean": _mean,
    "reshape": _reshape,
    "transpose": lambda a, _: a["x"].permute(_ints(a["perm"])),
    "squeeze": _squeeze,
    "expand_dims": _expand_dims,
    "tile": lambda a, _: tensor(a["x"]).tile(_ints(a["reps"])),
    "split": _split,
    "concat": _concat,
    "slice_by_index": _slice,
    "gather": _gather,
}
"""By the name that MIL gives the kind. States and stored weights are the interpreter's own."""
