"""quant_pre_process, its command line, and where it puts data."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from vqonnx.compat.preprocess import main
from vqonnx.compat.shape_inference import quant_pre_process
from vqonnx.errors import ModelError, OptionError, OutputError

X = np.arange(8, dtype=np.float32).reshape(2, 4)
ONLY_OPSET = {"skip_optimization": True, "skip_onnx_shape": True, "skip_symbolic_shape": True}


def info(name, shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def make(nodes, shape=("N", 4), constants=(), opset=17, **imports):
    initializers = [
        numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in dict(constants).items()
    ]
    graph = helper.make_graph(nodes, "graph", [info("x", shape)], [info("y", None)], initializers)
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(*one) for one in imports.items())]
    return helper.make_model(graph, opset_imports=opsets)


def run(model, x=X):
    return ReferenceEvaluator(model).run(None, {"x": x})[0]


@pytest.fixture
def float_model():
    nodes = [helper.make_node("Identity", ["x"], ["i"]), helper.make_node("Add", ["i", "w"], ["y"])]
    return make(nodes, constants={"w": np.ones((1, 4))})


def processed(tmp_path, model, **options):
    quant_pre_process(model, tmp_path / "out.onnx", **options)
    return onnx.load(tmp_path / "out.onnx")


def test_the_graph_is_simplified_and_its_values_have_shapes(tmp_path, float_model):
    before = float_model.SerializeToString(deterministic=True)
    for _ in range(2):
        found = processed(tmp_path, float_model)
        assert [node.op_type for node in found.graph.node] == ["Add"]
        assert [dim.dim_param or dim.dim_value for dim in found.graph.output[0].type.tensor_type.shape.dim] == ["N", 4]
        assert {one.key: one.value for one in found.metadata_props} == {"onnx.quant.pre_process": "onnxruntime.quant"}
        np.testing.assert_array_equal(run(found), X + 1)
    assert float_model.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("opset", [9, 10])
def test_upsampling_becomes_resizing(tmp_path, opset):
    """Opset 10 dropped the operator; exporters went on naming it."""
    shape = (1, 1, 2, 3)
    node = helper.make_node("Upsample", ["x", "scales"], ["y"], mode="nearest")
    found = processed(tmp_path, make([node], shape, {"scales": [1, 1, 2, 3]}, opset), **ONLY_OPSET)
    assert [one.op_type for one in found.graph.node] == ["Resize"]
    assert found.opset_import[0].version == 11
    x = np.arange(6, dtype=np.float32).reshape(shape)
    np.testing.assert_array_equal(run(found, x), x.repeat(2, axis=2).repeat(3, axis=3))


def test_a_step_that_fails_is_told_and_the_others_are_done(tmp_path):
    """The result is quantized afterwards; the peer raises for such a model, or logs an error and goes on."""
    nodes = [helper.make_node("Odd", ["x"], ["h"], domain="user"), helper.make_node("Relu", ["h"], ["y"])]
    with pytest.warns(RuntimeWarning, match=r"left out: .*skip_optimization=True"):
        found = processed(tmp_path, make(nodes, user=1), skip_symbolic_shape=True)
    assert [node.op_type for node in found.graph.node] == ["Odd", "Relu"]


@pytest.mark.parametrize("one_file", [True, False])
def test_external_data_goes_where_it_is_told_and_does_not_grow(tmp_path, one_file):
    nodes = [helper.make_node("Add", ["x", "a/w"], ["h"]), helper.make_node("Mul", ["h", "a:w"], ["y"])]
    model = make(nodes, constants={"a/w": np.ones((1, 4)), "a:w": np.full((1, 4), 2)})
    sizes = []
    for _ in range(2):
        found = processed(
            tmp_path,
            model,
            save_as_external_data=True,
            all_tensors_to_one_file=one_file,
            external_data_location="data/w.bin" if one_file else None,
            external_data_size_threshold=0,
        )
        files = sorted(str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file())
        sizes.append([(tmp_path / file).stat().st_size for file in files])
        np.testing.assert_array_equal(run(found), (X + 1) * 2)
    assert files == (["data/w.bin", "out.onnx"] if one_file else ["a_w", "a_w_1", "out.onnx"])
    assert sizes[0] == sizes[1]
    onnx.checker.check_model(tmp_path / "out.onnx")


def test_the_data_of_the_model_that_is_read_is_not_overwritten(tmp_path, float_model):
    source = tmp_path / "in.onnx"
    onnx.save(float_model, source, save_as_external_data=True, location="w.data", size_threshold=0)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    options = {
        **ONLY_OPSET,
        "save_as_external_data": True,
        "all_tensors_to_one_file": True,
        "external_data_size_threshold": 0,
    }
    with pytest.raises(OptionError, match="would be lost"):
        processed(tmp_path, source, external_data_location="w.data", **options)
    for outside in ("../w.data", "/tmp/w.data", "C:\\w.data"):
        with pytest.raises(ValueError, match="below the model's folder"):
            processed(tmp_path, source, external_data_location=outside, **options)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_arguments_are_checked(tmp_path, float_model):
    with pytest.raises(ValueError, match="needs input_model"):
        quant_pre_process(output_model_path=tmp_path / "out.onnx")
    with pytest.raises(OptionError, match="needs output_model_path"):
        quant_pre_process(float_model)
    with pytest.raises(TypeError, match="skip_optimisation"):
        quant_pre_process(float_model, tmp_path / "out.onnx", skip_optimisation=True)
    with pytest.raises(OutputError):
        quant_pre_process(float_model, tmp_path / "none" / "out.onnx")
    with pytest.raises(ModelError):
        quant_pre_process(tmp_path / "none.onnx", tmp_path / "out.onnx")
    quant_pre_process(output_model_path=tmp_path / "out.onnx", input_model_path=float_model, **ONLY_OPSET)
    assert (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize(("value", "kept"), [("False", ["Add"]), ("0", ["Add"]), ("TRUE", ["Identity", "Add"])])
def test_the_command_means_false_by_false(tmp_path, float_model, value, kept):
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save(float_model, source)
    assert main(["--input", str(source), "--output", str(target), "--skip_optimization", value]) == 0
    assert [node.op_type for node in onnx.load(target).graph.node] == kept


def test_the_command_refuses_in_a_sentence(tmp_path, capsys):
    assert main(["--input", str(tmp_path / "none.onnx"), "--output", str(tmp_path / "out.onnx")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with pytest.raises(SystemExit):
        main(["--input", "a", "--output", "b", "--skip_onnx_shape", "maybe"])
    assert "Expected true, false, 1, or 0" in capsys.readouterr().err
