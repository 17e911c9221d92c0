"""What the layers of an ONNX file answer, through ONNX Runtime alone.

The exporter names each node `layer/Kind` (`feallm.export.onnx`). Protocol buffers that lie end to
end are read as one: a few bytes after the file's own ask for more outputs, whose types ONNX Runtime
infers, and nothing else of the file need be understood.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feallm.runtime.backends.base import IMAGE
from feallm.runtime.backends.onnx import NAMES, OnnxVision
from feallm.runtime.contract.errors import BackendError
from feallm.runtime.contract.manifest import Provider
from feallm.runtime.verify.trace import Layer, sample

_GRAPH, _NODE, _OUTPUT, _NAME = 7, 1, 12, 1  # of ModelProto, GraphProto, GraphProto, ValueInfoProto
_ROUNDING = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True, slots=True)
class Node:
    """One step of a graph."""

    name: str
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def layer(self) -> str:
        """The part of the network that the exporter made it of."""
        return self.name.partition("/")[0]


def layers(
    path: Path,
    crops: NDArray[np.uint8],
    names: Sequence[str],
    *,
    providers: Sequence[Provider] = ("cpu",),
) -> list[Layer]:
    """Those of the named layers that the file has, in their order, for crops (N, H, W, 3).

    The file's own outputs are what it answers where nothing else is asked for: ONNX Runtime cannot
    fuse what it must show, so a fault of its fusions shows in them, and in no layer.
    """
    backend = OnnxVision(path, providers=providers)
    found: dict[str, NDArray[Any]] = dict(backend.run({IMAGE: crops}))
    backend.close()
    data = path.read_bytes()
    try:
        nodes = read(data)
    except ValueError as error:
        raise BackendError(f"{path}: not a readable ONNX file: {error}") from error
    wanted = tensors(nodes, [name for name in names if name not in found])
    if not wanted:
        raise BackendError(f"{path}: its nodes are not named after layers of the network")
    asked = list(dict.fromkeys(wanted.values()))
    values = dict(zip(asked, _run(path, data, asked, crops, providers), strict=True))
    found |= {name: values[tensor] for name, tensor in wanted.items()}
    return [sample(name, found[name]) for name in names if name in found]


def _run(
    path: Path,
    data: bytes,
    asked: list[str],
    crops: NDArray[np.uint8],
    providers: Sequence[Provider],
) -> list[NDArray[Any]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    there = onnxruntime.get_available_providers()
    used = [NAMES[name] for name in dict.fromkeys((*providers, "cpu")) if NAMES[name] in there]
    try:
        session = onnxruntime.InferenceSession(data + asking_for(asked), options, providers=used)
        result: list[NDArray[Any]] = session.run(asked, {IMAGE: crops})
    except Exception as error:  # ONNX Runtime's own types differ between versions
        raise BackendError(f"{path}: ONNX Runtime does not show its layers: {error}") from error
    return result


def tensors(nodes: Sequence[Node], names: Sequence[str]) -> dict[str, str]:
    """Layer -> name of the tensor that it gives, for those that the graph has.

    Of a layer that is called twice, the first time. In int8, what is read on after rounding; a
    layer that is rounded as the ReLU after it is, which cuts half of it away, is left out.
    """
    steps = [node for node in nodes if node.kind not in _ROUNDING]
    readers: dict[str, list[Node]] = {}
    for node in nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    found = {}
    for name in names:
        made = [one for one in steps if one.layer == name or one.layer.startswith(f"{name}.")]
        if all(one.layer == name for one in made):
            made = _first_call(made)
        if made and made[-1].outputs:
            tensor = _rounded(made[-1].outputs[0], readers)
            if tensor is not None:
                found[name] = tensor
    return found


def _first_call(own: list[Node]) -> list[Node]:
    """Of a layer without parts: the nodes of a second call are named like the first's, counted."""
    again = [k for k, node in enumerate(own) if node.name == f"{own[0].name}_2"]
    return own[: again[0]] if again else own


def _rounded(tensor: str, readers: dict[str, list[Node]]) -> str | None:
    """What others read of a tensor, None where they read it cut off at zero."""
    read = tensor
    for kind in _ROUNDING:
        steps = [one for one in readers.get(read, ()) if one.kind == kind and one.outputs]
        if not steps:
            return tensor
        read = steps[0].outputs[0]
    return None if [one.kind for one in readers.get(read, ())] == ["Relu"] else read


def read(data: bytes) -> list[Node]:
    """Nodes of an ONNX file; `ValueError` where it is none."""
    nodes = [
        _node(node)
        for field, graph in _fields(memoryview(data))
        if field == _GRAPH
        for kind, node in _fields(_part(graph))
        if kind == _NODE
    ]
    if not nodes:
        raise ValueError("it has no nodes")
    return nodes


def _node(data: int | memoryview) -> Node:
    texts: dict[int, list[str]] = {1: [], 2: [], 3: [""], 4: [""]}  # inputs, outputs, name, kind
    for field, value in _fields(_part(data)):
        if field in texts:
            texts[field].append(str(_part(value), "utf-8"))
    return Node(texts[3][-1], texts[4][-1], tuple(texts[1]), tuple(texts[2]))


def _part(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a part should be")
    return value


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Numbers and values of a message's fields; values of four or eight bytes are passed over."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        field, kind = key >> 3, key & 7
        if kind == 0:
            number, at = _varint(data, at)
            yield field, number
            continue
        if kind == 2:
            size, at = _varint(data, at)
        else:
            size = {1: 8, 5: 4}.get(kind, -1)
        if size < 0 or not field:
            raise ValueError(f"no field can begin with {key} at byte {at}")
        if at + size > len(data):
            raise ValueError(f"cut short: {size} bytes wanted at byte {at} of {len(data)}")
        if kind == 2:
            yield field, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for k, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << 7 * k
        if byte < 128:
            return value, at + k + 1
    raise ValueError(f"a number without an end at byte {at}")


def asking_for(names: Sequence[str]) -> bytes:
    """Bytes that, after an ONNX file's own, make these tensors outputs too."""
    outputs = b"".join(_field(_OUTPUT, _field(_NAME, name.encode())) for name in names)
    return _field(_GRAPH, outputs)


def _field(number: int, data: bytes) -> bytes:
    size, head = len(data), [number << 3 | 2]
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    return bytes([*head, size]) + data
