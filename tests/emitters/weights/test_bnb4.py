"""MatMulBnb4 in ONNX Runtime against the numbers that its code book means."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.build import build
from tests.emitters.weights.packing import HALF_SQNR, SQNR, Form, assert_computes, pack_model
from tests.emitters.weights.test_matmul_nbits import NAMES, normal, product
from vqonnx.core.weight_plan import CodebookSpec
from vqonnx.emitters.weights.bnb4 import read, store
from vqonnx.errors import OptionError, UnsupportedModelError
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import nodes
from vqonnx.kernels.blocks.codebook import NF4, round_to_book


def node_of(packed):
    return next(node for node in nodes(packed.model) if node.op_type == "MatMulBnb4")


@pytest.mark.parametrize("book", ["nf4", "fp4"])
@pytest.mark.parametrize("size", [16, 64, 256])
@pytest.mark.parametrize("dtype", list(NAMES))
def test_it_computes_with_the_weight_that_is_meant(rng, book, size, dtype):
    for k, n in ((64, 24), (67, 5)):
        packed = pack_model(
            product(normal(rng, k, n, dtype=dtype)), Form.BNB4, CodebookSpec(book=book, block_size=size)
        )
        assert_computes(
            packed, [{"x": normal(rng, 2, 3, k, dtype=dtype)}], HALF_SQNR if dtype is np.float16 else SQNR[0]
        )


@given(k=st.integers(1, 90), n=st.integers(1, 30), book=st.sampled_from(["nf4", "fp4"]))
def test_any_shape_computes_and_is_read_back_bit_by_bit(k, n, book):
    rng = np.random.default_rng(k * 31 + n)
    packed = pack_model(product(normal(rng, k, n)), Form.BNB4, CodebookSpec(book=book))
    assert_computes(packed, [{"x": normal(rng, 1, 4, k)}], SQNR[0])
    blocks, again = packed.weights["w"], read(node_of(packed))
    np.testing.assert_array_equal(again.codes, blocks.codes)
    np.testing.assert_array_equal(again.absmax, blocks.absmax)
    assert (again.book, again.in_features, again.out_features) == (book, k, n)


def test_a_bias_is_added_behind(rng):
    text = "g (float[A, 40] x) => (float[A, 12] y) { y = Gemm (x, w, b) }"
    packed = pack_model(build(text, {"w": normal(rng, 40, 12), "b": normal(rng, 12)}), Form.BNB4)
    assert packed.ops() == ["MatMulBnb4", "Add"]
    assert_computes(packed, [{"x": normal(rng, 3, 40)}], SQNR[0])


def test_what_the_operator_lacks_is_refused(rng):
    graph, names = ir.Graph([], [], nodes=[], name="g"), NameAllocator()
    blocks = round_to_book(normal(rng, 64, 8), NF4, 64)
    with pytest.raises(OptionError, match="no code book 'fp4_e2m1'; use 'nf4' or 'fp4'"):
        store(graph, names, "w", replace(blocks, book="fp4_e2m1"))
    assert not graph.initializers


@pytest.mark.parametrize(
    ("index", "array", "attribute", "why"),
    [
        (1, np.zeros(3, np.uint8), None, "codes are no constant of the size"),
        (2, np.zeros(3, np.float32), None, "scales are no constant of the size"),
        (0, None, ("quant_type", 7), "unknown code book"),
        (0, None, ("transB", 0), "not transposed"),
    ],
)
def test_other_weights_are_refused(rng, index, array, attribute, why):
    node = node_of(pack_model(product(normal(rng, 64, 8)), Form.BNB4))
    if array is not None:
        node.replace_input_with(index, ir.Value(name="other", const_value=ir.Tensor(array)))
    if attribute is not None:
        node.attributes[attribute[0]] = ir.AttrInt64(*attribute)
    with pytest.raises(UnsupportedModelError, match=why):
        read(node)
