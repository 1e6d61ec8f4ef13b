import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from vqonnx.graph import io
from vqonnx.graph.io import load, save
from vqonnx.runtime.session import open_session

_SAVER = """
import sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from test_save_limits import io, scaled
io.INLINE_BELOW = 128
path, factor = Path({path!r}), 1
print("ready", flush=True)
while True:
    factor = 3 - factor
    io.save(scaled(factor), path, external=True)
"""


def scaled(factor: int) -> ir.Model:
    """y = x * w, with ``factor`` all over w."""
    w = ir.Tensor(np.full(1 << 16, factor, np.float32), name="w")
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape(w.shape))
    weight = ir.Value(name="w", const_value=w, type=x.type, shape=x.shape)
    node = ir.node("Mul", [x, weight])
    y = node.outputs[0]
    y.name, y.type, y.shape = "y", x.type, x.shape
    graph = ir.Graph([x], [y], nodes=[node], initializers=[weight], opset_imports={"": 17}, name="g")
    return ir.Model(graph, ir_version=10)


@pytest.mark.slow
def test_a_killed_save_leaves_a_whole_model(tmp_path, monkeypatch):
    monkeypatch.setattr(io, "INLINE_BELOW", 128)
    path = tmp_path / "m.onnx"
    save(scaled(1), path, external=True)
    script = _SAVER.format(tests=str(Path(__file__).parent), path=str(path))
    random = np.random.default_rng(0)
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(random.uniform(0.0, 0.08))
        process.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGKILL)
        process.wait()
        process.stdout.close()
        (found,) = open_session(path).run(None, {"x": np.ones(1 << 16, np.float32)})
        assert found[0] in (1, 2)
        assert np.all(found == found[0])


@pytest.mark.slow
def test_models_larger_than_a_message(tmp_path):
    """2.5 GiB of zeros, in a sparse file: loaded, saved and run without being held in memory."""
    shape = (5 << 14, 1 << 13)
    tensor = ir.ExternalTensor("w.bin", 0, None, ir.DataType.FLOAT, shape=ir.Shape(shape), name="w", base_dir=tmp_path)
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(tensor.nbytes)
    w = ir.Value(name="w", const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(shape))
    i = ir.Value(name="i", type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([1]))
    node = ir.node("Gather", [w, i])
    node.outputs[0].name = "y"
    graph = ir.Graph([i], node.outputs, nodes=[node], initializers=[w], opset_imports={"": 17}, name="g")
    model = load(ir.Model(graph, ir_version=8))
    feeds = {"i": np.array([7])}
    assert open_session(model).run(None, feeds)[0].shape == (1, 1 << 13)
    saved = save(model, tmp_path / "out.onnx")
    assert saved.size > 5 << 29
    assert open_session(saved.path).run(None, feeds)[0].shape == (1, 1 << 13)
