"""Run on the emulated board: what each ONNX file of a folder answers for `crops.npy`, one crop at a
time, as NAME.npz beside it.

Not a test module: `tests/house/test_emulated.py` copies it onto the board.
"""

import sys
from pathlib import Path

import numpy as np
import onnxruntime

folder = Path(sys.argv[1])
crops = np.load(folder / "crops.npy")
for file in sorted(folder.glob("*.onnx")):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    names = [output.name for output in session.get_outputs()]
    rows = [session.run(names, {image.name: crop[None]}) for crop in crops]
    values = {
        name: np.concatenate(part)
        for name, part in zip(names, zip(*rows, strict=True), strict=True)
    }
    np.savez(file.with_suffix(".npz"), **values)
