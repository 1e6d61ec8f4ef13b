"""MatMulBnb4Quantizer writes onnxruntime's codes and scales, bit by bit."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from vqonnx.compat.matmul_bnb4_quantizer import MatMulBnb4Quantizer, main
from vqonnx.errors import OptionError

peer: Any = pytest.importorskip("onnxruntime.quantization.matmul_bnb4_quantizer")


def model(k: int = 70, n: int = 9) -> onnx.ModelProto:
    made = parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 13]>
        g (float[2,{k}] x) => (float[2,{n}] y) {{y = MatMul (x, w)}}
    """)
    made.graph.node[0].name = "product"
    weight = np.random.default_rng(2).normal(size=(k, n)).astype(np.float32)
    made.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    return made


@pytest.mark.parametrize("book", [MatMulBnb4Quantizer.FP4, MatMulBnb4Quantizer.NF4])
@pytest.mark.parametrize("block", [16, 64])
def test_codes_and_scales_are_the_peers(book: int, block: int) -> None:
    found = []
    for quantizer in (MatMulBnb4Quantizer(model(), book, block), peer.MatMulBnb4Quantizer(model(), book, block)):
        quantizer.process()
        graph = quantizer.model.model.graph
        (node,) = graph.node
        arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        found.append((node.op_type, attributes, *(arrays[name].tobytes() for name in node.input[1:])))
        weight = numpy_helper.to_array(model().graph.initializer[0])
        found[-1] += tuple(part.tobytes() for part in quantizer.bnb4_block_quant(weight))
    assert found[0] == found[1]
    assert found[0][2:4] == found[0][4:]


def test_the_command_refuses_to_overwrite(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(model(), tmp_path / "m.onnx")
    arguments = ["--input_model", str(tmp_path / "m.onnx"), "--output_model", str(tmp_path / "q.onnx")]
    assert main(arguments) == 0
    assert main(arguments) == 2
    assert "exists" in capsys.readouterr().err


def test_what_there_is_not_is_an_error() -> None:
    with pytest.raises(OptionError, match=r"neither 0 \(FP4\) nor 1 \(NF4\)"):
        MatMulBnb4Quantizer(model(), 2, 64)
    with pytest.raises(OptionError, match="did you mean 'product'"):
        MatMulBnb4Quantizer(model(), 1, 64, ["produkt"]).process()
