"""Each packed layer, run by itself, gives the product with its packed weight; what does not is found and named."""

from dataclasses import replace

import ml_dtypes
import numpy as np
import onnx_ir as ir
import pytest

from models import weights as cases
from models.build import Weights, build
from models.registry import load as load_cases
from tests.stages.weights.packing import FORMS, PRODUCTS, emitted, packing_of, verified
from vqonnx.core.blocks import BlockSpec
from vqonnx.core.weight_plan import Reader, WeightForm
from vqonnx.errors import VerificationError
from vqonnx.graph.walk import nodes_by_name
from vqonnx.stages.weights.verify import LEAST_DB, LayerEnds

CASES = load_cases()
LAYERED = ["gemm", "leading_ones", "pointwise", "tied", "cache", "merged", "constants", "foreign", "half"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", LAYERED)
def test_every_layer_computes_with_its_packed_weight(name, form, tmp_path):
    lookups = form in ("matmul_nbits", "qdq")
    op_types = (*PRODUCTS, "Gather") if lookups else PRODUCTS
    packing, written = emitted(CASES[f"weights/{name}"].build(), op_types=op_types, **FORMS[form])
    found, notes = verified(packing, written, tmp_path)
    assert list(found) == list(packing.plan.layers)
    assert min(found.values()) > LEAST_DB + 5
    assert notes == []


def test_float_kernels_are_nearly_exact_and_tables_wholly_so(tmp_path):
    packing, written = emitted(cases.tied_copies(), accuracy_level=1)
    found, _ = verified(packing, written, tmp_path)
    readers = {name: layer.reader for name, layer in packing.plan.layers.items()}
    assert all(db > 80 for name, db in found.items() if readers[name] is Reader.PRODUCT)
    assert all(db > 120 for name, db in found.items() if readers[name] is Reader.LOOKUP)


def test_it_tells_how_far_it_is(tmp_path):
    told = []
    packing, written = emitted(cases.gemm_forms())
    verified(packing, written, tmp_path, progress=lambda *step: told.append(step))
    assert told[0] == ("verify", 0, 5)
    assert told[-1] == ("verify", 5, 5)


def wrong(packed, change):
    """A copy of packed blocks with a change made to its arrays."""
    arrays = {name: np.array(getattr(packed, name)) for name in ("codes", "scales", "zero_points")}
    change(arrays)
    return replace(packed, **arrays)


def swap_codes(arrays):
    arrays["codes"] = arrays["codes"][::-1].copy()


def negate_a_channel(arrays):
    arrays["scales"][3] *= -1


def clear_zero_points(arrays):
    arrays["zero_points"][:] = 0


@pytest.mark.parametrize("change", [swap_codes, negate_a_channel, clear_zero_points])
def test_a_product_with_another_weight_is_found(change, tmp_path):
    packing, written = emitted(cases.decoder_with_cache(), op_types=["MatMul"])
    key = packing.plan.layers["MatMul_2"].weight
    other = wrong(written.packed(key), change)

    class Elsewhere:
        ends = written.ends

        @staticmethod
        def packed(asked):
            return other if asked == key else written.packed(asked)

    with pytest.raises(VerificationError, match=r"MatMul node 'MatMul_2' computes something else .*\(-?\d+\.\d dB\)"):
        verified(packing, Elsewhere, tmp_path)


@pytest.mark.parametrize("row", [0, -1])
def test_a_table_whose_first_or_last_row_is_wrong_is_found(row, tmp_path):
    packing, written = emitted(cases.decoder_with_cache(), op_types=["Gather"])

    def change(arrays):
        arrays["scales"][row] *= 5

    class Elsewhere:
        ends = written.ends

        @staticmethod
        def packed(asked):
            return wrong(written.packed(asked), change)

    with pytest.raises(VerificationError, match="Gather node 'Gather_0' computes something else"):
        verified(packing, Elsewhere, tmp_path)


def test_a_layer_that_the_runtime_refuses_is_named(tmp_path):
    packing, written = emitted(cases.decoder_with_cache(), op_types=["MatMul"])
    node = nodes_by_name(packing.model)["MatMul_1"]
    node.attributes["K"] = ir.AttrInt64("K", 17)
    with pytest.raises(VerificationError, match="run MatMul node 'MatMul_1' with its packed weight"):
        verified(packing, written, tmp_path)


def linear(k, n, *, dtype=np.float32, bias=None, weight_size=1.0, addend="c"):
    """A Gemm with its bias, float32 or float16."""
    weights = Weights(31)
    weights.normal("w", k, n, gain=weight_size)
    arrays = {"w": weights.arrays["w"].astype(dtype)}
    if bias is not None:
        arrays["c"] = np.asarray(bias, dtype)
    kind = "float16" if dtype == np.float16 else "float"
    return build(f"linear ({kind}[N, {k}] x) => ({kind}[N, {n}] y) {{ y = Gemm (x, w, {addend}) }}", arrays)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_bias_far_larger_than_the_product_is_no_fault(dtype, tmp_path):
    proto = linear(32, 24, dtype=dtype, bias=np.full(24, 500.0), weight_size=0.01)
    (db,) = verified(*emitted(proto), tmp_path)[0].values()
    assert db > LEAST_DB


def test_outputs_that_are_masked_by_an_infinite_bias_are_left_out(tmp_path):
    bias = np.zeros(24)
    bias[5] = -np.inf
    (db,) = verified(*emitted(linear(32, 24, bias=bias)), tmp_path)[0].values()
    assert LEAST_DB < db < 100


def test_a_weight_of_zeros_is_exact(tmp_path):
    (db,) = verified(*emitted(linear(32, 24, bias=np.zeros(24), weight_size=0.0)), tmp_path)[0].values()
    assert db == np.inf


def test_a_gemm_that_adds_its_own_input_is_told_not_run(tmp_path):
    packing, written = emitted(linear(24, 24, addend="x"))
    found, notes = verified(packing, written, tmp_path)
    assert found == {}
    assert notes == ["Gemm node 'Gemm_0' was written but not run by itself: it adds its own input to the product"]


def test_a_type_that_the_runtime_takes_no_arrays_of_is_told_not_run(tmp_path):
    packing, written = emitted(linear(32, 24, bias=np.zeros(24)))
    ends = {name: replace(own, dtype=np.dtype(ml_dtypes.bfloat16)) for name, own in written.ends.items()}
    found, notes = verified(packing, replace(written, ends=ends), tmp_path)
    assert found == {}
    assert "takes no bfloat16 arrays" in notes[0]


def test_a_gemm_with_an_addend_that_is_computed_is_run_with_zeros_for_it(tmp_path):
    weights = Weights(33)
    weights.normal("w", 24, 24)
    text = """computed (float[N, 24] x) => (float[N, 24] y) {
        c = Sigmoid (x)
        m = Gemm <beta = 2.0> (x, w, c)
        y = Gemm <transA = 1> (m, w, m)
    }"""
    packing, written = emitted(build(text.replace("N,", "24,"), weights.arrays))
    found, notes = verified(packing, written, tmp_path)
    assert written.ends["Gemm_1"].addend == "c"
    assert found["Gemm_1"] > LEAST_DB
    assert len(notes) == 1


def test_a_gemm_with_an_addend_that_counts_for_nothing_needs_none(tmp_path):
    text = "free (float[N, 32] x, float[N, 24] c) => (float[N, 24] y) { y = Gemm <beta = 0.0> (x, w, c) }"
    weights = Weights(32)
    weights.normal("w", 32, 24)
    packing, written = emitted(build(text, weights.arrays))
    assert [own.addend for own in written.ends.values()] == [None]
    assert len(verified(packing, written, tmp_path)[0]) == 1


def ends_of(proto, **rules):
    packing = packing_of(proto, **rules)
    return {name: LayerEnds.of(layer) for name, layer in packing.layers.items()}


def test_ends_say_how_rows_lie():
    gemm = ends_of(cases.gemm_forms())
    assert [own.transposed for own in gemm.values()] == [True, False, False, False, False]
    assert [own.addend for own in gemm.values()] == [None] * 5
    assert [own.row_count for own in gemm.values()] == [4, 4, 3, 4, 4]
    conv = ends_of(cases.pointwise())
    assert {own.rank for own in conv.values()} == {3, 4}
    assert all(own.channels_second for own in conv.values())
    assert {own.rank for own in ends_of(cases.leading_ones()).values()} == {3}


@pytest.mark.parametrize(
    "ends",
    [
        LayerEnds("x", "y", np.dtype(np.float32)),
        LayerEnds("x", "y", np.dtype(np.float32), rank=4),
        LayerEnds("x", "y", np.dtype(np.float32), rank=5, channels_second=True),
    ],
)
def test_rows_come_back_as_they_were_laid(ends):
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert ends.laid(rows).ndim == ends.rank
    np.testing.assert_array_equal(ends.rows(ends.laid(rows)), rows)


def test_rows_of_a_transposed_input_lie_as_columns():
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(LayerEnds("x", "y", np.dtype(np.float32), transposed=True).laid(rows), rows.T)


def test_one_scale_a_channel_over_all_of_k(tmp_path):
    packing, written = emitted(
        cases.decoder_with_cache(), op_types=["MatMul"], form=WeightForm.QDQ, spec=BlockSpec(bits=8, block_size=-1)
    )
    assert min(verified(packing, written, tmp_path)[0].values()) > LEAST_DB
