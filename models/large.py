"""Language models of any size in external data: random, seeded, and written tensor by tensor."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx

from models.build import OPSET, ir_version, name_nodes
from models.external import GIB

_CHUNK = 1 << 22
"""Numbers made at a time."""
_BLOCK = """u{i} = MatMul (x{i}, "blocks.{i}.up")
g{i} = MatMul (x{i}, "blocks.{i}.gate")
s{i} = Sigmoid (g{i})
a{i} = Mul (u{i}, s{i})
d{i} = MatMul (a{i}, "blocks.{i}.down")
x{next} = Add (x{i}, d{i})
"""


def large(
    folder: Path, size: int = 2 * GIB, *, width: int = 2048, hidden: int = 5632, vocabulary: int = 32_000, seed: int = 0
) -> Path:
    """Write an embedding table, gated products in a row and a head, of ``size`` bytes or a block more; return the path.

    Unlike ``external.huge`` it is dense: it takes its place on the disk, and quantizing it the time that it takes for a
    trained one. The numbers are uniform, which are made four times as fast as normal ones.

    Args:
        folder: Where model.onnx and model.data go.
        size: Bytes of all weights, at least those of the table and the head.
        width: Size of an embedding.
        hidden: Outputs of the first two products of a block, inputs of the third.
        vocabulary: Rows of the table, and outputs of the head.
        seed: Of the numbers.
    """
    ends, block = 2 * 4 * width * vocabulary, 3 * 4 * width * hidden
    blocks = max(0, -(-(size - ends) // block))
    shapes: dict[str, tuple[int, ...]] = {"table": (vocabulary, width)}
    for i in range(blocks):
        shapes |= {f"blocks.{i}.{name}": (width, hidden) for name in ("up", "gate")}
        shapes |= {f"blocks.{i}.down": (hidden, width)}
    shapes["head"] = (width, vocabulary)
    model = _model(blocks, shapes)
    generator = np.random.Generator(np.random.SFC64(seed))
    with (folder / "model.data").open("wb") as file:
        for tensor in _tensors(shapes, file):
            gain = 1.0 if tensor.name == "table" else 0.5 / np.sqrt(tensor.dims[0])
            _write_uniform(file, int(np.prod(tensor.dims)), gain, generator)
            model.graph.initializer.append(tensor)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path))
    return path


def _model(blocks: int, shapes: dict[str, tuple[int, ...]]) -> onnx.ModelProto:
    nodes = "".join(_BLOCK.format(i=i, next=i + 1) for i in range(blocks))
    text = f"""<ir_version: {ir_version(OPSET)}, opset_import: ["": {OPSET}]>
    large (int64[N] ids) => (float[N, {shapes["head"][1]}] logits) {{
        x0 = Gather (table, ids)
        {nodes} logits = MatMul (x{blocks}, head)
    }}"""
    model: onnx.ModelProto = onnx.parser.parse_model(text)
    name_nodes(model.graph)
    return model


def _tensors(shapes: dict[str, tuple[int, ...]], file: BinaryIO) -> Iterator[onnx.TensorProto]:
    """Tensors without data that lie where ``file`` stands when they are asked for."""
    for name, shape in shapes.items():
        tensor = onnx.TensorProto(name=name, dims=shape, data_type=onnx.TensorProto.FLOAT)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        place = {"location": Path(file.name).name, "offset": file.tell(), "length": 4 * int(np.prod(shape))}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=str(value))
        yield tensor


def _write_uniform(file: BinaryIO, count: int, gain: float, generator: np.random.Generator) -> None:
    """Numbers of -gain to gain."""
    chunk = np.empty(min(count, _CHUNK), np.float32)
    for start in range(0, count, _CHUNK):
        part = chunk[: count - start]
        generator.random(dtype=np.float32, out=part)
        part -= np.float32(0.5)
        part *= np.float32(2 * gain)
        file.write(part.data)
