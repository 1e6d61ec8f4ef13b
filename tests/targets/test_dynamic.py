"""What the table of dynamic kernels says is what ONNX Runtime's CPU runs, one node a form and type."""

import numpy as np
import onnx
import pytest

from tests.emitters import dynamic_models as made
from vqonnx.api.dynamic import quantize_dynamic
from vqonnx.core.dynamic_plan import DynamicForm
from vqonnx.core.qtype import INT8, UINT8
from vqonnx.core.spec import QuantSpec
from vqonnx.core.target import Target
from vqonnx.errors import OptionError
from vqonnx.progress import silent
from vqonnx.runtime.session import open_session
from vqonnx.targets.dynamic import dynamic_kernels
from vqonnx.targets.registry import get_target

NODES = {
    DynamicForm.PRODUCT: (made.product(), "MatMulInteger"),
    DynamicForm.BATCH: (made.batch(), "MatMulInteger"),
    DynamicForm.CONV: (made.convolution(), "ConvInteger"),
    DynamicForm.LSTM: (made.recurrent("LSTM"), "DynamicQuantizeLSTM"),
    DynamicForm.ATTENTION: (made.attention(), "QAttention"),
    DynamicForm.EMBEDDING: (made.embedding(), "QEmbedLayerNormalization"),
    DynamicForm.DEQUANTIZED: (made.recurrent("GRU"), "GRU"),
    DynamicForm.LOOKUP: (made.tied(), "Gather"),
}
OP_TYPES = ["Attention", "Conv", "EmbedLayerNormalization", "GRU", "Gather", "LSTM", "MatMul"]
CPU = dynamic_kernels(get_target("cpu-x86-vnni"))


def test_the_cpu_has_every_form():
    assert set(CPU) == set(DynamicForm) == set(NODES)


@pytest.mark.parametrize(("form", "element"), [(form, element) for form, types in CPU.items() for element in types])
def test_the_cpu_runs_what_the_table_says(form, element, tmp_path):
    model, operator = NODES[form]
    report = quantize_dynamic(
        model,
        tmp_path / "q.onnx",
        OP_TYPES,
        weight_type=f"Q{element}",
        progress=silent,  # loads and runs each node
    )
    result = onnx.load(tmp_path / "q.onnx")
    assert operator in [node.op_type for node in result.graph.node]
    codes = [one for one in result.graph.initializer if one.name.endswith("_quantized")]
    assert {onnx.numpy_helper.to_array(one).dtype for one in codes} == {np.dtype(element)}
    assert all(figures.node_db > 30 for figures in report.weights)


def test_an_lstm_without_a_kernel_keeps_its_own(tmp_path):
    report = quantize_dynamic(made.recurrent("LSTM"), tmp_path / "q.onnx", target="directml", progress=silent)
    operators = [node.op_type for node in onnx.load(tmp_path / "q.onnx").graph.node]
    assert report.quantized == {"LSTM": 1}
    assert operators == [*["DequantizeLinear", "Reshape"] * 2, "LSTM"]


def test_a_target_without_dynamic_kernels_is_refused():
    target = Target(
        name="npu",
        provider="SomeExecutionProvider",
        description="",
        activation=QuantSpec(qtype=UINT8),
        weight=QuantSpec(qtype=INT8),
        ops={},
    )
    with pytest.raises(OptionError, match="Quantize statically"):
        dynamic_kernels(target)


def test_sessions_run_the_whole_models_too(tmp_path):
    for form, (model, _) in NODES.items():
        quantize_dynamic(model, tmp_path / f"{form.name}.onnx", OP_TYPES, progress=silent)
        open_session(tmp_path / f"{form.name}.onnx")
