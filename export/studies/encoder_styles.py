"""Which style of encoder runs fastest at equal multiply-adds, engine by engine.

    python -m feallm.export.studies.encoder_styles make --out styles          # ONNX and .pte files
    taskset -c 0 python -m feallm.export.studies.encoder_styles time --out styles [--json FILE]

Encoders alone, random weights, gray 112 x 128, each about as many multiply-adds as `edge`'s. ONNX
Runtime and ExecuTorch (XNNPACK), float32 and int8, one thread, one face: median of 200 runs, the
files in turns. `make` needs executorch and torchao for the .pte files and goes without where they
are not installed; `time` takes what it finds, so the ONNX half also runs under an emulated
processor, where only ratios mean something.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROWS, COLUMNS = 128, 112
RUNS, WARM_UP = 200, 10


def _styles() -> dict[str, Any]:
    import torch
    from torch import Tensor, nn

    from feallm.model.config import SIZES
    from feallm.model.encoder import ConvUnit, PlainEncoder

    def unit(a: int, b: int, size: int, stride: int = 1, groups: int = 1, act: bool = True) -> Any:
        layers: list[nn.Module] = [
            nn.Conv2d(a, b, size, stride, size // 2, groups=groups, bias=False),
            nn.BatchNorm2d(b),
        ]
        return nn.Sequential(*layers, *([nn.ReLU()] if act else []))

    class Around(nn.Module):
        def __init__(self, inner: Any, skip: bool, act: bool) -> None:
            super().__init__()
            self.inner, self.skip, self.act = inner, skip, act

        def forward(self, x: Tensor) -> Tensor:
            y = self.inner(x)
            y = x + y if self.skip else y
            return torch.relu(y) if self.act else y

    def inverted(a: int, b: int, stride: int, wide: int) -> Any:
        m = a * wide
        inner = nn.Sequential(
            unit(a, m, 1), unit(m, m, 3, stride, groups=m), unit(m, b, 1, act=False)
        )
        return Around(inner, stride == 1 and a == b, False)

    def fused(a: int, b: int, stride: int, wide: int) -> Any:
        m = a * wide
        inner = nn.Sequential(unit(a, m, 3, stride), unit(m, b, 1, act=False))
        return Around(inner, stride == 1 and a == b, False)

    def grouped(a: int, b: int, stride: int) -> Any:
        m = b
        inner = nn.Sequential(
            unit(a, m, 1), unit(m, m, 3, stride, groups=m // 16), unit(m, b, 1, act=False)
        )
        return Around(inner, stride == 1 and a == b, True)

    c = (16, 40, 96, 192)
    plain = PlainEncoder(c, (0, 0, 1, 1), rows=ROWS, columns=COLUMNS)
    edge = SIZES["edge"].vision
    folded = PlainEncoder(edge.channels, edge.blocks, rows=ROWS, columns=COLUMNS, fold=edge.fold)

    class Last(nn.Module):
        """All four maps, as the network reads them."""

        def __init__(self, stages: list[Any]) -> None:
            super().__init__()
            self.stages = nn.ModuleList(stages)

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            maps = []
            for stage in self.stages:
                x = stage(x)
                maps.append(x.mean((2, 3)))
            return tuple(maps)

    def repeated(make: Callable[[int], Any], count: int) -> list[Any]:
        return [make(k) for k in range(count)]

    vgg = []
    inside = 1
    for width, extra in zip(c, (0, 0, 2, 2), strict=True):
        vgg.append(
            nn.Sequential(
                ConvUnit(inside, width, stride=2), *(ConvUnit(width, width) for _ in range(extra))
            )
        )
        inside = width
    mobile = [
        nn.Sequential(unit(1, 16, 3, 2)),
        nn.Sequential(inverted(16, 32, 2, 4), *repeated(lambda k: inverted(32, 32, 1, 4), 2)),
        nn.Sequential(inverted(32, 80, 2, 4), *repeated(lambda k: inverted(80, 80, 1, 4), 3)),
        nn.Sequential(inverted(80, 192, 2, 4), *repeated(lambda k: inverted(192, 192, 1, 4), 2)),
    ]
    mixed = [
        nn.Sequential(unit(1, 16, 3, 2)),
        nn.Sequential(fused(16, 40, 2, 3)),
        nn.Sequential(fused(40, 80, 2, 3), fused(80, 80, 1, 2)),
        nn.Sequential(inverted(80, 192, 2, 4), *repeated(lambda k: inverted(192, 192, 1, 4), 2)),
    ]
    resnext = [
        nn.Sequential(unit(1, 16, 3, 2)),
        nn.Sequential(grouped(16, 48, 2), *repeated(lambda k: grouped(48, 48, 1), 2)),
        nn.Sequential(grouped(48, 128, 2), *repeated(lambda k: grouped(128, 128, 1), 2)),
        nn.Sequential(grouped(128, 288, 2), *repeated(lambda k: grouped(288, 288, 1), 2)),
    ]
    return {
        "plain 3x3 residual": Last(list(plain.stages)),
        "RepVGG-like, fused": Last(vgg),
        "inverted residual, expansion 4": Last(mobile),
        "fused expansion early, inverted late": Last(mixed),
        "grouped 3x3, width 16": Last(resnext),
        "plain 3x3 residual, folded first layer (edge)": Last(list(folded.stages)),
    }


def make(out: Path) -> None:
    """Write every style's files and `styles.json`."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    out.mkdir(parents=True, exist_ok=True)
    example = (torch.randn(1, 1, ROWS, COLUMNS),)
    facts: dict[str, Any] = {}
    for number, (name, network) in enumerate(_styles().items()):
        torch.manual_seed(number)
        network.eval().requires_grad_(False)
        with FlopCounterMode(display=False) as counter:
            network(*example)
        stem = f"{number}"
        facts[name] = {
            "file": stem,
            "mult_adds": counter.get_total_flops() // 2,
            "parameters": sum(p.numel() for p in network.parameters()),
        }
        _onnx(network, example, out / stem)
        try:
            _pte(network, example, out / stem)
        except ImportError:
            print("no executorch: .pte files left out")
        print(name, facts[name], flush=True)
    (out / "styles.json").write_text(json.dumps(facts, indent=1) + "\n")


def _onnx(network: Any, example: Any, stem: Path) -> None:
    import torch
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    plain, ready = stem.with_suffix(".fp32.onnx"), stem.with_suffix(".ready.onnx")
    torch.onnx.export(
        network, example, str(plain), dynamo=True, opset_version=20, external_data=False,
        input_names=["x"], verbose=False,
    )  # fmt: skip
    quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)

    class Reader:
        def __init__(self) -> None:
            rng = np.random.default_rng(0)
            shape = (1, 1, ROWS, COLUMNS)
            self.left = [rng.normal(size=shape).astype(np.float32) for _ in range(8)]

        def get_next(self) -> Any:
            return {"x": self.left.pop()} if self.left else None

    quantize_static(
        str(ready), str(stem.with_suffix(".int8.onnx")), Reader(),
        quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    ready.unlink()


def _pte(network: Any, example: Any, stem: Path) -> None:
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from executorch.exir import to_edge_transform_and_lower
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    def lower(module: Any, path: Path) -> None:
        program = to_edge_transform_and_lower(
            torch.export.export(module, example), partitioner=[XnnpackPartitioner()]
        )
        path.write_bytes(program.to_executorch().buffer)

    lower(network, stem.with_suffix(".fp32.pte"))
    config = get_symmetric_quantization_config(is_per_channel=True)
    ready = prepare_pt2e(
        torch.export.export(network, example).module(), XNNPACKQuantizer().set_global(config)
    )
    for _ in range(8):
        ready(torch.randn(1, 1, ROWS, COLUMNS))
    lower(convert_pt2e(ready), stem.with_suffix(".int8.pte"))


def _runner(path: Path) -> Callable[[], Any]:
    x = np.random.default_rng(1).normal(size=(1, 1, ROWS, COLUMNS)).astype(np.float32)
    if path.suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        return lambda: session.run(None, {"x": x})
    import torch
    from executorch.runtime import Runtime

    method = Runtime.get().load_program(path).load_method("forward")
    tensor = torch.from_numpy(x)
    return lambda: method.execute([tensor])


def timed(out: Path, runs: int) -> dict[str, Any]:
    """Median milliseconds of every file, all in turns."""
    facts = json.loads((out / "styles.json").read_text())
    runners = {}
    for line in facts.values():
        for kind in ("fp32.onnx", "int8.onnx", "fp32.pte", "int8.pte"):
            path = out / f"{line['file']}.{kind}"
            if path.is_file():
                try:
                    runners[path.name] = _runner(path)
                except ImportError:
                    continue
    spent: dict[str, list[float]] = {name: [] for name in runners}
    for k in range(WARM_UP + runs):
        for name, run in runners.items():
            start = time.perf_counter()
            run()
            if k >= min(WARM_UP, runs // 4):
                spent[name].append(time.perf_counter() - start)
    for line in facts.values():
        line["ms"] = {
            name.split(".", 1)[1]: round(float(np.median(values)) * 1e3, 3)
            for name, values in spent.items()
            if name.split(".", 1)[0] == line["file"]
        }
    return dict(facts)


def main() -> None:
    """Read the arguments and do what is asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("make", "time"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    if chosen.what == "make":
        make(chosen.out)
        return
    found = timed(chosen.out, chosen.runs)
    for name, line in found.items():
        print(f"{name:46} {line['mult_adds'] / 1e6:6.1f} M  {line['ms']}")
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
