"""``rtn_quantize`` on models: against the peer where it is right, else against rounding each weight by itself."""

from types import SimpleNamespace

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from models.build import Weights, build
from models.external import external
from models.sharing import weight_and_value
from models.weights import chain, half_precision, leading_ones, merged_decoder, tied_copies
from tests.compat.protos import arrays, attributes, copied, described, ops
from tests.emitters.weights.packing import run, run_reference
from vqonnx.compat.neural_compressor.onnxrt import rtn_quantize
from vqonnx.compat.neural_compressor.rounding import Rounding, pack_groups, round_groups
from vqonnx.errors import ModelError, OptionError, QuantRangeError, UnsupportedModelError
from vqonnx.kernels.blocks.packing import dequantize_blocks

K, N = 96, 40


@pytest.fixture(scope="module")
def weights():
    made = Weights(7)
    made.normal("a", K, N)
    made.normal("b", N, 24)
    return made.arrays


@pytest.fixture(scope="module")
def model(weights):
    text = f"two (float[M, {K}] x) => (float[M, 24] y) {{ h = MatMul (x, a) r = Relu (h) y = MatMul (r, b) }}"
    return build(text, weights)


@pytest.fixture
def feed(rng):
    return {"x": rng.normal(size=(5, K)).astype(np.float32)}


def two_layers(x, a, b):
    return np.maximum(x.astype(np.float64) @ a, 0) @ b


@pytest.mark.peer
@pytest.mark.parametrize(
    ("bits", "size", "scheme"),
    [(4, 16, "sym"), (4, 32, "sym"), (4, 128, "sym"), (8, 16, "sym"), (8, 32, "asym"), (8, 64, "asym")],
)
def test_nodes_and_weights_are_the_peers(model, feed, bits, size, scheme):
    peer = pytest.importorskip("onnxruntime.quantization.neural_compressor.weight_only")
    theirs = peer.rtn_quantize(copied(model), {}, bits, size, scheme, accuracy_level=4, algorithm="RTN").model
    ours = rtn_quantize(model, {}, bits, size, scheme, accuracy_level=4)
    assert described(ours) == described(theirs)
    mine, its = arrays(ours), arrays(theirs)
    assert sorted(mine) == sorted(its)
    for name, array in its.items():
        np.testing.assert_array_equal(mine[name], array)
        assert mine[name].dtype == array.dtype
    np.testing.assert_array_equal(run(ours, feed)["y"], run(theirs, feed)["y"])


@pytest.mark.parametrize("scheme", ["sym", "asym"])
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("size", [32, 64, 96, 256, 512, -1])
def test_packed_nodes_compute_with_the_rounded_weights(model, weights, feed, bits, size, scheme):
    packed = rtn_quantize(model, {}, bits, size, scheme, accuracy_level=1)
    onnx.checker.check_model(packed)
    assert ops(packed) == ["MatMulNBits", "Relu", "MatMulNBits"]
    how = Rounding(bits=bits, group_size=size, symmetric=scheme == "sym")
    meant = [dequantize_blocks(pack_groups(weights[name], how)) for name in ("a", "b")]
    np.testing.assert_allclose(run(packed, feed)["y"], two_layers(feed["x"], *meant), rtol=1e-4, atol=1e-4)
    sizes = [attributes(node)["block_size"] for node in packed.graph.node if node.op_type == "MatMulNBits"]
    assert all(one & (one - 1) == 0 and 16 <= one <= 256 for one in sizes)
    assert ("a_zp" in arrays(packed)) == (scheme == "asym")


@pytest.mark.parametrize(
    ("bits", "size", "scheme"),
    [(1, 32, "sym"), (3, 32, "asym"), (3, -1, "sym"), (5, 7, "asym"), (6, 16, "asym"), (7, 96, "sym"), (4, 20, "sym"),
     (2, 16, "asym")],
)  # fmt: skip
def test_without_a_kernel_the_node_reads_rounded_floats(model, weights, feed, bits, size, scheme):
    rounded = rtn_quantize(model, {}, bits, size, scheme)
    onnx.checker.check_model(rounded)
    assert ops(rounded) == ["MatMul", "Relu", "MatMul"]
    how = Rounding(bits=bits, group_size=size, symmetric=scheme == "sym")
    found = arrays(rounded)
    assert sorted(found) == [f"a_Q{bits}G{K if size == -1 else size}", f"b_Q{bits}G{N if size == -1 else size}"]
    for name, array in zip(("a", "b"), (found[name] for name in sorted(found)), strict=True):
        np.testing.assert_array_equal(array, round_groups(weights[name], how))
    expected = run_reference(rounded, feed)["y"]
    np.testing.assert_allclose(run(rounded, feed)["y"], expected, rtol=1e-4, atol=1e-4)


def test_names_tell_bits_and_groups(model):
    packed = rtn_quantize(model, group_size=-1)
    assert [node.name for node in packed.graph.node] == ["MatMul_0_Q4", "Relu_1", "MatMul_2_Q4"]
    assert sorted(arrays(packed)) == ["a_Q4G96", "a_scale", "a_zp", "b_Q4G40", "b_scale", "b_zp"]


def test_zero_points_are_packed_row_by_row(model, weights):
    zero_points = arrays(rtn_quantize(model))["a_zp"]
    assert zero_points.shape == (N, 2)  # 3 groups a row
    np.testing.assert_array_equal(zero_points, pack_groups(weights["a"], Rounding()).zero_points)


@pytest.mark.parametrize("level", [0, 1, 4])
def test_the_accuracy_level_is_left_out_if_it_is_0(model, level):
    node = rtn_quantize(model, accuracy_level=level).graph.node[0]
    assert attributes(node).get("accuracy_level", 0) == level


def test_nodes_are_given_what_is_said_of_them_and_the_rest_from_the_arguments(model):
    packed = rtn_quantize(
        model, {"MatMul_0": {"bits": 8, "scheme": "sym"}}, group_size=16, accuracy_level=4, scheme="asym"
    )
    first, last = (attributes(packed.graph.node[index]) for index in (0, 2))
    assert (first["bits"], first["block_size"], first["accuracy_level"]) == (8, 16, 4)
    assert (last["bits"], last["block_size"], last["accuracy_level"]) == (4, 16, 4)
    assert "a_zp" not in arrays(packed)
    assert "b_zp" in arrays(packed)


CONFIG = {"weight_dtype": "int", "weight_bits": 8, "weight_group_size": 64, "weight_sym": True, "accuracy_level": 1}


@pytest.mark.parametrize(
    "given", [CONFIG, SimpleNamespace(**CONFIG, white_list=["MatMul"]), CONFIG | {"act_dtype": "fp32"}]
)
def test_the_other_spelling_and_objects_are_taken(model, given):
    packed = rtn_quantize(model, {("MatMul_0", "MatMul"): given, ("MatMul_2", "MatMul"): {"weight_dtype": "fp32"}})
    assert ops(packed) == ["MatMulNBits", "Relu", "MatMul"]
    found = attributes(packed.graph.node[0])
    assert (found["bits"], found["block_size"], found["accuracy_level"]) == (8, 64, 1)
    assert "a_zp" not in arrays(packed)


def test_a_node_called_fp32_stays_float(model, weights):
    packed = rtn_quantize(model, {"MatMul_0": "fp32"})
    assert ops(packed) == ["MatMul", "Relu", "MatMulNBits"]
    np.testing.assert_array_equal(arrays(packed)["a"], weights["a"])


def test_a_ratio_shrinks_the_ranges_of_one_weight(model, weights):
    found = arrays(rtn_quantize(model, ratios={"a": 0.8}, scheme="sym"))
    np.testing.assert_array_equal(
        found["a_scale"], pack_groups(weights["a"], Rounding(symmetric=True, ratio=0.8)).scales
    )
    np.testing.assert_array_equal(found["b_scale"], pack_groups(weights["b"], Rounding(symmetric=True)).scales)


def test_two_bits_have_a_kernel_on_the_cpu_only(model):
    assert ops(rtn_quantize(model, num_bits=2))[0] == "MatMulNBits"
    assert ops(rtn_quantize(model, num_bits=2, providers=["CUDAExecutionProvider"]))[0] == "MatMul"
    assert ops(rtn_quantize(model, num_bits=8, providers=["CUDAExecutionProvider"]))[0] == "MatMulNBits"


def test_a_shared_weight_is_packed_once(rng):
    made = Weights(3)
    made.normal("w", 32, 32)
    shared = build("s (float[M, 32] x) => (float[M, 32] y) { h = MatMul (x, w) y = MatMul (h, w) }", made.arrays)
    packed = rtn_quantize(shared)
    assert sorted(arrays(packed)) == ["w_Q4G32", "w_scale", "w_zp"]
    apart = rtn_quantize(shared, {"MatMul_1": {"bits": 3}})
    assert sorted(arrays(apart)) == ["w_Q3G32", "w_Q4G32", "w_scale", "w_zp"]
    feed = {"x": rng.normal(size=(2, 32)).astype(np.float32)}
    first = dequantize_blocks(pack_groups(made.arrays["w"], Rounding()))
    last = round_groups(made.arrays["w"], Rounding(bits=3))
    np.testing.assert_allclose(run(apart, feed)["y"], feed["x"] @ first @ last, rtol=1e-3, atol=1e-3)


def test_a_weight_that_others_read_stays_beside_its_packed_form():
    packed = rtn_quantize(weight_and_value())
    assert ops(packed) == ["MatMulNBits", "Add"]
    assert list(packed.graph.node[1].input) == ["m", "w"]
    assert set(arrays(packed)) == {"w", "w_Q4G32", "w_scale", "w_zp"}


@pytest.mark.parametrize("name", ["transpose", "cast_half", "flat", "factor"])
def test_weights_behind_other_nodes_are_found(name, rng):
    model = chain(name)
    feed = {"x": rng.normal(size=(3, 48)).astype(np.float32)}
    packed = rtn_quantize(model, num_bits=8, accuracy_level=1)
    assert ops(packed) == ["MatMulNBits"]
    exact = run(model, feed)["y"]
    assert np.square(run(packed, feed)["y"] - exact).sum() < 1e-3 * np.square(exact).sum()


def test_bodies_and_leading_axes_and_tied_copies(rng):
    assert {node.op_type for node in ir.from_proto(rtn_quantize(merged_decoder())).graph.all_nodes()} >= {"MatMulNBits"}
    model = leading_ones()
    feed = {"x": rng.normal(size=(2, 3, 16)).astype(np.float32)}
    rounded = rtn_quantize(model, num_bits=7)
    np.testing.assert_allclose(run(rounded, feed)["y"], run(model, feed)["y"], atol=0.05)
    assert arrays(rounded)["a_Q7G32"].shape == (1, 16, 24)
    tied = rtn_quantize(tied_copies())
    assert sum(name.endswith("_scale") for name in arrays(tied)) < sum(op == "MatMulNBits" for op in ops(tied))


def test_half_precision_stays_half(rng):
    packed = rtn_quantize(half_precision(), num_bits=8, scheme="sym")
    assert arrays(packed)["w_scale"].dtype == np.float16
    made = Weights(1)
    made.normal("w", 32, 16)
    text = "b (bfloat16[M, 32] x) => (bfloat16[M, 16] y) { y = MatMul (x, w) }"
    rounded = rtn_quantize(build(text, {"w": made.arrays["w"].astype(ml_dtypes.bfloat16)}))
    assert ops(rounded) == ["MatMul"]
    assert rounded.graph.initializer[0].data_type == onnx.TensorProto.BFLOAT16


def test_what_is_given_is_not_changed(model, tmp_path):
    before = model.SerializeToString(deterministic=True)
    rtn_quantize(model)
    rtn_quantize(model, num_bits=3)
    assert model.SerializeToString(deterministic=True) == before
    inner = ir.from_proto(model)
    result = rtn_quantize(inner)
    assert isinstance(result, ir.Model)
    assert [node.op_type for node in inner.graph] == ["MatMul", "Relu", "MatMul"]
    assert [node.op_type for node in result.graph] == ["MatMulNBits", "Relu", "MatMulNBits"]


def test_a_path_with_external_data_is_read(tmp_path, rng):
    made = Weights(2)
    made.normal("w", 64, 48)
    onnx.save_model(
        build("e (float[M, 64] x) => (float[M, 48] y) { y = MatMul (x, w) }", made.arrays),
        tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=64,
    )  # fmt: skip
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    packed = rtn_quantize(tmp_path / "m.onnx")
    np.testing.assert_array_equal(arrays(packed)["w_scale"], pack_groups(made.arrays["w"], Rounding()).scales)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"weight_config": {"MatMul_1": "fp32"}}, r"no node 'MatMul_1' \(did you mean"),
        ({"weight_config": {"MatMul_0": {"bit": 4}}}, r"'MatMul_0': 'bit' is not known \(did you mean 'bits'"),
        ({"weight_config": {"MatMul_0": {"bits": "4"}}}, "bits must be a whole number, got '4'"),
        ({"weight_config": {"MatMul_0": {"bits": 9}}}, "bits must lie in 1..8, got 9"),
        ({"weight_config": {"MatMul_0": {"scheme": "symmetric"}}}, "scheme: 'symmetric' is none of 'sym', 'asym'"),
        ({"weight_config": {"MatMul_0": {"weight_sym": "no"}}}, "weight_sym: 'no' is none of True, False"),
        ({"weight_config": {"MatMul_0": {"weight_dtype": "nf4"}}}, "weight_dtype must be one of"),
        ({"weight_config": {"MatMul_0": {"algorithm": "GPTQ"}}}, "algorithm must be one of"),
        ({"weight_config": {"MatMul_0": 4}}, "neither a dictionary nor a configuration nor 'fp32'"),
        ({"num_bits": 0}, "bits must lie in 1..8, got 0"),
        ({"group_size": 0}, "group_size must be at least 1"),
        ({"scheme": "full"}, "scheme: 'full' is none of"),
        ({"accuracy_level": 5}, "accuracy_level must lie in 0..4, got 5"),
        ({"ratios": {"c": 0.9}}, "ratios: no MatMul has a weight 'c'"),
        ({"ratios": {"a": 2.0}}, "a ratio is a share"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(model, arguments, named):
    with pytest.raises(OptionError, match=named):
        rtn_quantize(model, **arguments)


def test_a_weight_that_is_not_finite_is_named(weights, model):
    broken, bad = copied(model), weights["b"].copy()
    bad[3, 4] = np.nan
    broken.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(bad, "b"))
    with pytest.raises(QuantRangeError, match="weight 'b' of node 'MatMul_2': the weight holds NaN") as caught:
        rtn_quantize(broken)
    assert caught.value.tensor == "b"


def test_a_model_without_weights_is_refused(tmp_path):
    with pytest.raises(UnsupportedModelError, match="no MatMul with a constant weight"):
        rtn_quantize(external(tmp_path))
    with pytest.raises(ModelError):
        rtn_quantize(tmp_path / "missing.onnx")
