"""``MatMulNBitsQuantizer`` beside onnxruntime's, and its algorithms beside each other."""

import inspect
import logging

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import vqonnx
from models.build import Weights, build
from models.external import external
from models.weights import merged_decoder, quantized, tied_copies
from tests.compat.matmul_nbits_quantizer.shared import K, correlated, lookup, products, sqnr, weights_of
from tests.compat.protos import arrays, attributes, copied, described, ops
from tests.emitters.weights.packing import run
from tests.versions import since
from vqonnx.compat import matmul_nbits_quantizer as ours
from vqonnx.compat.matmul_4bits_quantizer import MatMul4BitsQuantizer
from vqonnx.compat.neural_compressor.rounding import Rounding, pack_groups
from vqonnx.emitters.weights.emit import read_blocks
from vqonnx.errors import ModelError, OptionError, QuantRangeError, SampleError, UnsupportedModelError
from vqonnx.graph.io import load
from vqonnx.kernels.blocks.packing import dequantize_blocks, unpack_codes, unpack_zero_points

QDQ = ours.QuantFormat.QDQ
BLANK = [{"x": np.zeros((1, K), np.float32)}]
CONFIGS = [
    "DefaultWeightOnlyQuantConfig",
    "RTNWeightOnlyQuantConfig",
    "KQuantWeightOnlyQuantConfig",
    "HQQWeightOnlyQuantConfig",
    "GPTQWeightOnlyQuantConfig",
    "NVAWQWeightOnlyQuantConfig",
]


@pytest.fixture(scope="module")
def peer():
    return pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer")


def quantized_by(module, model, **arguments):
    """The message that a module's quantizer makes."""
    quantizer = module.MatMulNBitsQuantizer(model, **arguments)
    quantizer.process()
    return quantizer.model.model


def packed(model):
    """The packed weights of a message's products, in graph order."""
    nodes = [node for node in load(model).graph.all_nodes() if node.op_type in ("MatMulNBits", "DequantizeLinear")]
    return [read_blocks(node) for node in nodes]


def assert_equal_blocks(mine, theirs):
    """Codes, scales and zero points, but not the padding between them, which has no meaning."""
    np.testing.assert_array_equal(unpack_codes(mine), unpack_codes(theirs))
    np.testing.assert_array_equal(mine.scales, theirs.scales)
    np.testing.assert_array_equal(unpack_zero_points(mine), unpack_zero_points(theirs))
    assert mine.scales.dtype == theirs.scales.dtype


@pytest.mark.peer
@pytest.mark.parametrize("name", ["MatMulNBitsQuantizer", *CONFIGS])
def test_parameters_are_onnxruntimes_in_its_order_and_with_its_defaults(peer, name):
    mine, theirs = (inspect.signature(getattr(module, name)).parameters for module in (ours, peer))
    assert list(mine)[: len(theirs)] == list(theirs)
    required = {"tokenizer_dir"}  # refused here, so it need not be given
    for parameter in theirs.values():
        if parameter.name not in required:
            default = mine[parameter.name].default
            assert getattr(default, "name", default) == getattr(parameter.default, "name", parameter.default)
    further = list(mine.values())[len(theirs) :]
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in further)


@pytest.mark.peer
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(
    ("bits", "size"), [(4, 16), (4, 32), (4, 64), (4, 128), (4, 256), (8, 32), (8, 128), (2, 32), (2, 128)]
)
def test_default_weights_and_nodes_are_onnxruntimes_to_the_last_bit(peer, rng, bits, size, symmetric, dtype):
    if bits == 2 and dtype is np.float16:
        since("1.28", "2-bit kernels")
    model = products(dtype)
    arguments = {"bits": bits, "block_size": size, "is_symmetric": symmetric, "accuracy_level": 4}
    mine, theirs = (quantized_by(module, copied(model), **arguments) for module in (ours, peer))
    assert described(mine) == described(theirs)
    assert {name: (array.shape, array.dtype) for name, array in arrays(mine).items()} == {
        name: (array.shape, array.dtype) for name, array in arrays(theirs).items()
    }
    for one, other in zip(packed(mine), packed(theirs), strict=True):
        assert_equal_blocks(one, other)
    feed = {"x": rng.normal(size=(5, K)).astype(dtype)}
    np.testing.assert_array_equal(run(mine, feed)["y"], run(theirs, feed)["y"])


@pytest.mark.peer
def test_without_an_accuracy_level_the_attribute_is_left_out(peer):
    mine, theirs = (quantized_by(module, products()) for module in (ours, peer))
    assert described(mine) == described(theirs)
    assert "accuracy_level" not in attributes(mine.graph.node[0])


@pytest.mark.peer
@pytest.mark.parametrize(("size", "symmetric"), [(16, True), (32, True), (128, True), (128, False)])
def test_rtn_weights_are_onnxruntimes_where_it_can_write_them(peer, rng, size, symmetric):
    made = Weights(4)
    made.normal("w", 256, 8)
    model = build("one (float[M, 256] x) => (float[M, 8] y) { y = MatMul (x, w) }", made.arrays)
    mine, theirs = (
        quantized_by(
            module,
            copied(model),
            block_size=size,
            is_symmetric=symmetric,
            algo_config=module.RTNWeightOnlyQuantConfig({"w": 0.9}),
        )
        for module in (ours, peer)
    )
    assert [node.name for node in mine.graph.node] == [node.name for node in theirs.graph.node]
    assert_equal_blocks(packed(mine)[0], packed(theirs)[0])
    feed = {"x": rng.normal(size=(5, 256)).astype(np.float32)}
    np.testing.assert_array_equal(run(mine, feed)["y"], run(theirs, feed)["y"])


@pytest.mark.peer
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("channels", [True, False])
def test_qdq_weights_mean_what_onnxruntimes_do(peer, rng, symmetric, channels):
    arguments = {"block_size": 32, "is_symmetric": symmetric, "channel_wised_quantize": channels}
    mine = quantized_by(ours, products(), quant_format=QDQ, **arguments)
    theirs = quantized_by(peer, products(), quant_format=peer.QuantFormat.QDQ, **arguments)
    onnx.checker.check_model(mine)
    assert ops(mine).count("DequantizeLinear") == 2
    assert "MatMulNBits" not in ops(mine)
    feed = {"x": rng.normal(size=(5, K)).astype(np.float32)}
    exact = {"session.qdq_matmulnbits_accuracy_level": "1"}
    np.testing.assert_allclose(run(mine, feed, options=exact)["y"], run(theirs, feed, options=exact)["y"], atol=2e-4)


@pytest.mark.peer
@pytest.mark.parametrize("symmetric", [True, False])
def test_lookups_mean_what_onnxruntimes_do(peer, symmetric):
    arguments = {"block_size": 32, "is_symmetric": symmetric, "op_types_to_quantize": ("MatMul", "Gather")}
    mine, theirs = (quantized_by(module, lookup(), **arguments) for module in (ours, peer))
    assert [node.name for node in mine.graph.node if "Slice" not in node.name] == [n.name for n in theirs.graph.node]
    assert mine.graph.node[0].op_type == "GatherBlockQuantized"
    assert mine.opset_import[0].version == 17  # onnxruntime writes 21, whatever the operators are
    feed = {"ids": np.arange(50)}
    np.testing.assert_allclose(run(mine, feed)["y"], run(theirs, feed)["y"], atol=1e-4)


@pytest.mark.peer
def test_bodies_are_packed_too(peer):
    model = merged_decoder()
    mine, theirs = (quantized_by(module, copied(model), block_size=16) for module in (ours, peer))
    assert len(packed(mine)) == len(packed(theirs)) == 4
    for first in (True, False):
        feed = {"ids": np.arange(6), "first": np.array(first)}
        np.testing.assert_array_equal(run(mine, feed)["logits"], run(theirs, feed)["logits"])


@pytest.mark.peer
@pytest.mark.parametrize("config", ["HQQWeightOnlyQuantConfig", "GPTQWeightOnlyQuantConfig"])
def test_algorithms_that_need_torch_there_are_better_here(peer, rng, config):
    pytest.importorskip("torch", reason="onnxruntime's HQQ and GPTQ need torch")
    samples = correlated(rng, 16)
    feed, reader = samples.pop(), ({"calibration_data_reader": samples} if config.startswith("GPTQ") else {})
    results = []
    for module in (ours, peer):
        algorithm = getattr(module, config)(block_size=32, **reader)
        results.append(run(quantized_by(module, products(), block_size=32, algo_config=algorithm), feed)["y"])
    exact = run(products(), feed)["y"]
    assert sqnr(exact, results[0]) > sqnr(exact, results[1]) - 0.5


@pytest.fixture(scope="module")
def samples():
    return correlated(np.random.default_rng(2), 24)


@pytest.fixture(scope="module")
def unseen():
    feed = correlated(np.random.default_rng(3), 1, rows=200)[0]
    return feed, run(products(), feed)["y"]


@pytest.mark.parametrize("form", [ours.QuantFormat.QOperator, QDQ])
@pytest.mark.parametrize("symmetric", [True, False])
def test_algorithms_gain_over_rounding_to_nearest(samples, unseen, form, symmetric):
    feed, exact = unseen
    algorithms = {
        "default": ours.DefaultWeightOnlyQuantConfig(),
        "gptq": ours.GPTQWeightOnlyQuantConfig(samples),
        "gptq, mse": ours.GPTQWeightOnlyQuantConfig(iter(samples), mse=True, actorder=True),
        "awq": ours.AWQWeightOnlyQuantConfig(samples),
        "own": ours.WeightOnlyQuantConfig("clip_search"),
    }
    found = {}
    for name, algorithm in algorithms.items():
        arguments = {"block_size": 32, "is_symmetric": symmetric, "accuracy_level": 1, "quant_format": form}
        model = quantized_by(ours, products(), algo_config=algorithm, **arguments)
        exactly = {"session.qdq_matmulnbits_accuracy_level": "1"}
        found[name] = sqnr(exact, run(model, feed, options=exactly)["y"])
    assert found["gptq"] > found["default"] + 2
    assert found["gptq, mse"] > found["default"] + 2
    assert found["awq"] > found["default"]
    assert found["own"] > found["default"]


@pytest.mark.parametrize("symmetric", [True, False])
def test_k_quant_lowers_the_error_that_it_searches(symmetric):
    arguments = {"block_size": 32, "is_symmetric": symmetric}
    model = quantized_by(ours, products(), algo_config=ours.KQuantWeightOnlyQuantConfig(), **arguments)
    nearest = quantized_by(ours, products(), **arguments)
    weight = weights_of()["a"]

    def error(message):
        change = dequantize_blocks(packed(message)[0]) - weight
        favour = 1 + np.abs(weight) / np.sqrt(np.square(weight).mean())
        return float((favour * np.square(change)).sum())

    assert error(model) < error(nearest)
    assert packed(model)[0].symmetric == symmetric


def test_hqq_has_packed_zero_points():
    algorithm = ours.HQQWeightOnlyQuantConfig(block_size=32, bits=4)
    model = quantized_by(ours, products(), algo_config=algorithm)
    assert arrays(model)["a_zero_points"].dtype == np.uint8
    assert attributes(model.graph.node[0])["block_size"] == 32


@pytest.mark.parametrize(("method", "used"), [("awq_lite", "awq"), ("awq_clip", "awq"), ("awq_full", "awq")])
def test_nvidia_awq_writes_symmetric_dequantizers(samples, method, used):
    algorithm = ours.NVAWQWeightOnlyQuantConfig(calibration_method=method, calibration_data_reader=samples)
    quantizer = ours.MatMulNBitsQuantizer(products(), block_size=32, algo_config=algorithm)
    quantizer.process()
    model = quantizer.model.model
    assert {figures.asked for figures in quantizer.figures} == {used}
    assert all(len(node.input) == 2 for node in model.graph.node if node.op_type == "DequantizeLinear")
    assert model.opset_import[0].version == 21


def test_neural_compressors_rounding_takes_any_form_and_bits():
    weight = weights_of()["a"]
    for bits, form in ((8, ours.QuantFormat.QOperator), (4, QDQ)):
        quantizer = ours.MatMulNBitsQuantizer(
            products(), bits=bits, block_size=32, quant_format=form, algo_config=ours.RTNWeightOnlyQuantConfig()
        )
        quantizer.process()
        expected = pack_groups(weight, Rounding(bits=bits))
        assert_equal_blocks(packed(quantizer.model.model)[0], expected)
        (first, _) = quantizer.figures
        change = dequantize_blocks(expected) - weight
        assert first.sqnr_db == pytest.approx(sqnr(weight, weight + change), abs=0.01)


def test_customized_weights_differ(rng):
    settings = {"MatMul_2": {"bits": 8, "group_size": 16, "scheme": "sym"}}
    for config in (ours.RTNWeightOnlyQuantConfig, ours.KQuantWeightOnlyQuantConfig):
        algorithm = config(customized_weight_config=settings)
        model = quantized_by(ours, products(), block_size=32, accuracy_level=4, algo_config=algorithm)
        first, last = (attributes(model.graph.node[index]) for index in (0, 2))
        assert (first["bits"], first["block_size"]) == (4, 32)
        assert (last["bits"], last["block_size"]) == (8, 16)
        assert [node.name for node in model.graph.node] == ["MatMul_0_Q4", "Relu_1", "MatMul_2_Q8"]
        assert "b_zero_points" not in arrays(model)


def test_included_nodes_come_beside_those_of_the_operators():
    quantizer = ours.MatMulNBitsQuantizer(lookup(), block_size=32, nodes_to_include=["Gather_0"])
    quantizer.process()
    assert set(ops(quantizer.model.model)) >= {"GatherBlockQuantized", "MatMulNBits"}
    assert ops(quantizer.model.model).count("MatMulNBits") == 2


def test_excluded_nodes_stay_float_whatever_else_is_said_of_them():
    algorithm = ours.RTNWeightOnlyQuantConfig(customized_weight_config={"MatMul_2": {"bits": 8}})
    quantizer = ours.MatMulNBitsQuantizer(
        products(), block_size=32, nodes_to_exclude=["*_2"], nodes_to_include=["MatMul_2"], algo_config=algorithm
    )
    quantizer.process()
    assert ops(quantizer.model.model) == ["MatMulNBits", "Relu", "MatMul"]
    assert [(skip.node, skip.reason) for skip in quantizer.skips] == [("MatMul_2", "excluded by nodes_to_exclude")]


def test_other_operators_are_there_to_be_asked_for():
    model = quantized_by(ours, tied_copies(), block_size=16, op_types_to_quantize=("MatMul", "Gather", "Gemm"))
    assert not {"MatMul", "Gather", "Gemm"} & set(ops(model))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"nodes_to_exclude": ["MatMul_4"]}, r"nodes_to_exclude: 'MatMul_4' matches no node .*did you mean"),
        ({"nodes_to_include": ["Gather_9"]}, "nodes_to_include: 'Gather_9' matches no node"),
        (
            {"algo_config": ours.RTNWeightOnlyQuantConfig(customized_weight_config={"MatMul_9": {"bits": 8}})},
            "customized_weight_config: 'MatMul_9' matches no node",
        ),
        ({"algo_config": ours.RTNWeightOnlyQuantConfig({"c": 0.9})}, "ratios: no packed weight is called 'c'"),
        ({"algo_config": ours.RTNWeightOnlyQuantConfig({"a": 1.9})}, "a ratio is a share"),
        ({"algo_config": ours.HQQWeightOnlyQuantConfig(), "is_symmetric": True}, "HQQ moves the zero point"),
        (
            {"algo_config": ours.GPTQWeightOnlyQuantConfig([{"x": np.zeros((1, K), np.float32)}], percdamp=2.0)},
            "damping",
        ),
    ],
)
def test_what_does_not_fit_the_model_is_refused_when_it_is_processed(arguments, named):
    quantizer = ours.MatMulNBitsQuantizer(products(), **arguments)
    with pytest.raises(OptionError, match=named):
        quantizer.process()


def test_samples_that_do_not_fit_are_refused():
    algorithm = ours.GPTQWeightOnlyQuantConfig([{"x": np.zeros((1, K + 1), np.float32)}])
    with pytest.raises(SampleError):
        quantized_by(ours, products(), algo_config=algorithm)


@pytest.mark.parametrize("config", [None, ours.RTNWeightOnlyQuantConfig()])
def test_a_weight_that_is_not_finite_is_named(config):
    bad = weights_of()["b"].copy()
    bad[0, 0] = np.inf
    model = products()
    model.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(bad, "b"))
    with pytest.raises(QuantRangeError, match="weight 'b' of node 'MatMul_2'") as caught:
        quantized_by(ours, model, algo_config=config)
    assert caught.value.tensor == "b"


def test_nothing_to_pack_is_an_error(tmp_path):
    with pytest.raises(UnsupportedModelError):
        quantized_by(ours, quantized("packed"))
    with pytest.raises(ModelError):
        quantized_by(ours, tmp_path / "missing.onnx")


def test_what_is_given_is_not_changed():
    model = lookup()
    before = model.SerializeToString(deterministic=True)
    quantizer = ours.MatMulNBitsQuantizer(model, block_size=32, op_types_to_quantize=["MatMul", "Gather"])
    assert quantizer.model.model is model
    quantizer.process()
    assert model.SerializeToString(deterministic=True) == before
    inner = ir.from_proto(model)
    quantized_by(ours, inner, block_size=32)
    assert [node.op_type for node in inner.graph] == ["Gather", "MatMul", "Relu", "MatMul"]


def test_external_data_is_read_from_its_file_and_stays(tmp_path):
    files_of = {}
    path = external(tmp_path)
    files_of.update({file.name: file.read_bytes() for file in tmp_path.iterdir()})
    quantizer = ours.MatMulNBitsQuantizer(path, bits=8, block_size=16, op_types_to_quantize=["Gemm"])
    assert quantizer.model_path == str(path)
    quantizer.process()
    (tmp_path / "out").mkdir()
    quantizer.model.save_model_to_file(tmp_path / "out" / "packed.onnx", use_external_data_format=True)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()} == files_of
    assert "MatMulNBits" in [node.op_type for node in load(tmp_path / "out" / "packed.onnx").graph]


def test_slow_kernels_are_told_of(caplog):
    with caplog.at_level(logging.WARNING):
        quantizer = ours.MatMulNBitsQuantizer(products(), bits=8)
        quantizer.process()
    assert "no fast kernel for 8 bits" in caplog.text
    assert any("no fast kernel" in note for note in quantizer.notes)


def test_the_accuracy_level_of_dequantizers_is_the_sessions():
    quantizer = ours.MatMulNBitsQuantizer(products(), accuracy_level=4, quant_format=QDQ)
    quantizer.process()
    assert any("session.qdq_matmulnbits_accuracy_level" in note for note in quantizer.notes)


@pytest.mark.peer
def test_onnxruntimes_own_configurations_and_enumerations_are_taken(peer, samples):
    reader = iter(samples)

    class Reader:
        def get_next(self):
            return next(reader, None)

    for config in (
        peer.DefaultWeightOnlyQuantConfig(block_size=32, quant_format=peer.QuantFormat.QDQ),
        peer.RTNWeightOnlyQuantConfig(),
        peer.KQuantWeightOnlyQuantConfig(customized_weight_config={"MatMul_0": {"bits": 8}}),
        peer.HQQWeightOnlyQuantConfig(block_size=64),
        peer.GPTQWeightOnlyQuantConfig(Reader()),
    ):
        model = quantized_by(ours, products(), algo_config=config)
        assert ("DequantizeLinear" if config.algorithm == "DEFAULT" else "MatMulNBits") in ops(model)


def test_subclasses_are_taken():
    class Eight(ours.DefaultWeightOnlyQuantConfig):
        def __init__(self):
            super().__init__(block_size=64, bits=8)

    class Quantizer(ours.MatMulNBitsQuantizer):
        def process(self):
            super().process()
            self.model.model.producer_name = "mine"

    quantizer = Quantizer(products(), algo_config=Eight())
    quantizer.process()
    assert attributes(quantizer.model.model.graph.node[0])["bits"] == 8
    assert quantizer.model.model.producer_name == "mine"


def test_attributes_may_be_set_before_processing():
    quantizer = ours.MatMulNBitsQuantizer(products())
    quantizer.algo_config.bits, quantizer.block_size = 8, 16
    quantizer.process()
    found = attributes(quantizer.model.model.graph.node[0])
    assert (found["bits"], found["block_size"]) == (8, 16)


def test_the_older_name_has_four_bits():
    older = MatMul4BitsQuantizer(products(), 32, True, 4, ["MatMul_2"])
    older.process()
    newer = quantized_by(
        ours, products(), block_size=32, is_symmetric=True, accuracy_level=4, nodes_to_exclude=["MatMul_2"]
    )
    assert older.model.model.SerializeToString(deterministic=True) == newer.SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    "name", ["AWQWeightOnlyQuantConfig", "MatMulNBitsQuantizer", "WeightOnlyQuantConfig", *CONFIGS]
)
def test_the_names_are_public(name):
    assert getattr(vqonnx, name) is getattr(ours, name)
