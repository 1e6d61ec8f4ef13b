"""Models whose weights lie in a second file; these are written to a folder, not returned."""

from pathlib import Path

import numpy as np
import onnx

from models.build import Weights, build
from models.networks import residual_cnn

GIB = 1 << 30


def external(folder: Path, data: str = "weights.bin") -> Path:
    """Write the residual CNN with all weights of more than 64 bytes in ``folder / data``; return the model's path."""
    path = folder / "model.onnx"
    onnx.save_model(
        residual_cnn(), path, save_as_external_data=True, location=data, size_threshold=64, all_tensors_to_one_file=True
    )
    return path


def huge(folder: Path, size: int = 2 * GIB + (1 << 20)) -> Path:
    """Write a model with more than 2 GiB of weights, most of them holes of a sparse file.

    An embedding table, of which only the first rows are not zero, and a small linear layer. The data file
    takes a few KiB on disk where the file system has sparse files.

    Args:
        folder: Where model.onnx and model.data go.
        size: Bytes of the table.
    """
    width = 1024
    rows = size // (4 * width)
    weights = Weights(150)
    weights.linear("a", width, 4)
    text = "huge (int64[N] ids) => (float[N, 4] y) {\ne = Gather (table, ids)\ny = Gemm (e, a_w, a_b)\n}"
    model = build(text, weights.arrays | {"table": np.zeros((1, width), np.float32)})
    table = model.graph.initializer[-1]
    table.ClearField("raw_data")
    table.dims[0] = rows
    table.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": "model.data", "offset": "0", "length": str(rows * width * 4)}.items():
        table.external_data.add(key=key, value=value)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with (folder / "model.data").open("wb") as file:
        file.write(np.random.default_rng(151).normal(size=(8, width)).astype(np.float32).tobytes())
        file.truncate(rows * width * 4)
    return path
