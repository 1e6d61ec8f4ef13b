"""The weight-only plan: every weight and layer is in it; what rules change, what is refused, what is noted."""

import ml_dtypes
import numpy as np
import onnx
import pytest

from models.build import Array, build
from models.registry import load as load_cases
from models.sharing import both_ways, weight_and_value
from models.weights import decoder_with_cache, deep, half_precision, merged_decoder, pointwise, quantized, tied_copies
from tests.planning.finding import found_in, plan_of
from vqonnx.core.blocks import BlockSpec
from vqonnx.core.weight_plan import CodebookSpec, LayerPlan, Reader, WeightForm, WeightOnlyPlan, WeightPlan
from vqonnx.errors import OptionError, UnsupportedModelError
from vqonnx.planning.rules import Selection
from vqonnx.planning.weights.rules import LayerOverride

CASES = load_cases()
EVERY = Selection(op_types=("MatMul", "Gemm", "Gather", "Conv"))
CHANNELS = BlockSpec(bits=8, block_size=-1, symmetric=True)


def reasons(plan: WeightOnlyPlan) -> dict[str, str]:
    return {skip.node: skip.reason for skip in plan.skips}


def test_a_plan_names_weights_layers_and_skips() -> None:
    plan = plan_of(decoder_with_cache(), selection=EVERY)
    assert plan.weights["head"] == WeightPlan(
        key="head",
        readers=("MatMul_10",),
        in_features=16,
        out_features=24,
        dtype="float32",
        form=WeightForm.MATMUL_NBITS,
        spec=BlockSpec(),
        algorithm="rtn",
        inputs=("sum",),
    )
    assert plan.layers["Gather_0"] == LayerPlan(node="Gather_0", op_type="Gather", weight="table", reader=Reader.LOOKUP)
    assert list(plan.weights) == ["table", "q", "k", "v", "o", "head"]
    assert plan.weights["table"].inputs == ()
    assert list(plan.layers) == ["Gather_0", "MatMul_1", "MatMul_2", "MatMul_6", "MatMul_8", "MatMul_10"]
    assert set(reasons(plan)) == {"MatMul_4", "MatMul_7"}
    assert (plan.accuracy_level, plan.notes) == (4, ())


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_layer_of_odd_models_is_planned_or_skipped_once(name: str) -> None:
    _, layers, skips = found_in(CASES[name].build())
    if not layers:
        with pytest.raises(UnsupportedModelError):
            plan_of(CASES[name].build(), selection=EVERY)
        return
    plan = plan_of(CASES[name].build(), selection=EVERY)
    assert plan.layers.keys() == {layer.name for layer in layers}
    assert reasons(plan).keys() == skips.keys()
    readers = [reader for weight in plan.weights.values() for reader in weight.readers]
    assert sorted(readers) == sorted(plan.layers)
    for key, weight in plan.weights.items():
        assert weight.key == key
        assert all(plan.layers[reader].weight == key for reader in weight.readers)


def test_products_are_packed_unless_others_are_asked_for() -> None:
    plan = plan_of(tied_copies())
    assert reasons(plan) == {"Gather_0": "Gather is not in op_types_to_quantize"}
    plan = plan_of(pointwise(), selection=Selection(op_types=("Conv",)))
    assert list(plan.layers) == ["Conv_0", "Conv_7"]
    assert plan.weights["a_w"].inputs == ("x",)


def test_types_of_weights_are_numpy_s_names() -> None:
    assert {weight.dtype for weight in plan_of(half_precision(), selection=EVERY).weights.values()} == {"float16"}


def test_a_shared_weight_names_its_inputs_once() -> None:
    plan = plan_of(merged_decoder())
    inner = plan.weights["inner"]
    assert inner.readers == ("If_1/then_branch/MatMul_0", "If_1/else_branch/MatMul_0")
    assert inner.inputs == ("e",)
    assert plan.weights["head"].inputs == ("r", "t")


def test_a_constant_read_in_both_senses_gives_two_keys() -> None:
    assert list(plan_of(both_ways()).weights) == ["a_w", "a_w_1"]


def test_patterns_choose_layers() -> None:
    plan = plan_of(
        deep(6), selection=Selection(nodes=("re:MatMul_.*",), exclude=("MatMul_0", lambda n: "m3" in n.output))
    )
    assert list(plan.layers) == ["MatMul_3", "MatMul_6", "MatMul_12", "MatMul_15"]
    assert reasons(plan) == dict.fromkeys(["MatMul_0", "MatMul_9"], "excluded by nodes_to_exclude")


def test_patterns_may_name_skipped_and_known_nodes() -> None:
    exclude = Selection(exclude=("MatMul_4", "gone", "Add_*"))
    plan = plan_of(decoder_with_cache(), selection=exclude, known=("gone", "Add_9"))
    assert "MatMul_4" not in plan.layers


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            {"selection": Selection(exclude=("MatMul_99",))},
            "nodes_to_exclude: 'MatMul_99' matches no node of the model",
        ),
        ({"selection": Selection(op_types=("Matmul",))}, "op_types_to_quantize: 'Matmul' has no packed form (did you"),
        ({"selection": Selection(op_types=("Relu",))}, "op_types_to_quantize: 'Relu' has no packed form; there are"),
        ({"layers": {"*down*": LayerOverride(bits=8)}}, "layers: '*down*' matches no node of the model"),
        ({"layers": {"op:Gemm": LayerOverride(bits=8)}}, "layers: 'op:Gemm' matches no node of the model"),
        ({"algorithm": "gtpq"}, "algorithm 'gtpq' is not known (did you mean 'gptq'"),
        (
            {"form": WeightForm.BNB4, "spec": CodebookSpec(), "algorithm": "gptq"},
            "algorithm 'gptq' cannot solve layer 'MatMul_0' with CodebookSpec(book='nf4', block_size=64): code books",
        ),
    ],
)
def test_rules_that_fit_nothing_are_errors(rules: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        plan_of(deep(6), **rules)
    assert str(caught.value).startswith(message)


def test_overrides_apply_in_order() -> None:
    layers = {
        "op:MatMul": LayerOverride(bits=8, algorithm="hqq"),
        "MatMul_3": LayerOverride(block_size=128),
        lambda node: node.output[0] in ("m1", "m2"): LayerOverride(bits=2),
    }
    plan = plan_of(deep(4), layers=layers)
    found = [(weight.spec, weight.algorithm) for weight in plan.weights.values()]
    specs = [BlockSpec(bits=8), BlockSpec(bits=2, block_size=128), BlockSpec(bits=2), BlockSpec(bits=8)]
    assert found == [(spec, "hqq") for spec in specs]


def test_an_override_of_a_node_that_has_no_weight_is_noted() -> None:
    plan = plan_of(decoder_with_cache(), layers={"MatMul_4": LayerOverride(bits=8)})
    assert plan.notes == ("layers: 'MatMul_4' matches only nodes that have no weight to pack",)


def test_what_is_fixed_for_one_reader_holds_for_all() -> None:
    plan = plan_of(tied_copies(), selection=EVERY, layers={"op:Gather": LayerOverride(bits=8)})
    assert plan.weights["table"].readers == ("Gather_0", "Gemm_4", "MatMul_7")
    assert plan.weights["table"].spec == BlockSpec(bits=8)
    assert plan.notes == ()


def test_contradictory_wishes_part_a_tied_weight() -> None:
    wishes = {"op:Gather": LayerOverride(bits=8), "op:Gemm": LayerOverride(bits=2)}
    plan = plan_of(tied_copies(), selection=EVERY, layers=wishes)
    packed = {key: (weight.readers, weight.spec) for key, weight in plan.weights.items()}
    assert packed["table"] == (("Gather_0",), BlockSpec(bits=8))
    assert packed["table_1"] == (("Gemm_4",), BlockSpec(bits=2))
    assert packed["head"] == (("MatMul_7",), BlockSpec())
    assert [note.partition(":")[0] for note in plan.notes] == ["Gemm_4", "MatMul_7"]
    assert "the weight is that of Gather_0, but packed apart" in plan.notes[0]


def test_the_last_product_may_stay_float() -> None:
    plan = plan_of(tied_copies(), selection=EVERY, last_matmul=False)
    assert reasons(plan) == {"MatMul_7": "nearest to the outputs (last_matmul=False)"}
    assert plan.weights["table"].readers == ("Gather_0", "Gemm_4")
    assert plan.notes == ()  # its weight is an initializer of its own
    plan = plan_of(decoder_with_cache(), last_matmul=False)
    assert [node for node, reason in reasons(plan).items() if "last_matmul" in reason] == ["MatMul_10"]


def test_a_constant_that_others_read_is_noted() -> None:
    assert plan_of(weight_and_value()).notes == ("'w' (256 bytes) stays beside its packed form, for Add_1",)
    notes = plan_of(tied_copies()).notes  # the Gather was not asked for
    assert notes == ("'table' (1,536 bytes) stays beside its packed form, for Gather_0",)


@pytest.mark.parametrize(("level", "bits", "slow"), [(4, 8, ""), (1, 4, ""), (1, 8, "8"), (0, 2, "2")])
def test_slow_kernels_are_noted(level: int, bits: int, slow: str) -> None:
    notes = plan_of(deep(2), spec=BlockSpec(bits=bits), accuracy_level=level).notes
    wanted = f"accuracy_level={level}: ONNX Runtime's CPU has no fast kernel for {slow} bits below level 4"
    assert [note.startswith(wanted) for note in notes] == [True] * bool(slow)


def test_the_accuracy_level_is_no_matter_of_other_forms() -> None:
    assert plan_of(deep(2), form=WeightForm.QDQ, spec=BlockSpec(bits=8), accuracy_level=1).notes == ()


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ({"form": WeightForm.BNB4, "spec": CodebookSpec()}, "a table has no packed form with format 'bnb4'"),
        ({"form": WeightForm.CHANNEL_QDQ, "spec": CHANNELS}, "a table has no packed form with format 'channel_qdq'"),
    ],
)
def test_tables_are_left_where_a_form_has_none(rules: dict[str, object], reason: str) -> None:
    plan = plan_of(tied_copies(), selection=EVERY, **rules)
    assert reasons(plan) == {"Gather_0": reason}
    assert plan.weights["table"].readers == ("Gemm_4", "MatMul_7")


def half_model() -> onnx.ModelProto:
    arrays: dict[str, Array] = {
        "t": np.ones((9, 8), ml_dtypes.bfloat16),
        "w": np.ones((8, 6), ml_dtypes.bfloat16),
        "f": np.ones((6, 8), np.float32),
    }
    text = """g (int64[N] i) => (float[N, 8] y) {
        e = Gather (t, i)
        m = MatMul (e, w)
        c = Cast <to = 1> (m)
        y = MatMul (c, f)
    }"""
    return build(text, arrays)


@pytest.mark.parametrize("rules", [{}, {"form": WeightForm.QDQ}])
def test_bfloat16_weights_are_planned_for_providers_that_run_them(rules: dict[str, object]) -> None:
    plan = plan_of(half_model(), selection=EVERY, **rules)
    assert reasons(plan) == {}
    assert {weight.dtype for weight in plan.weights.values()} == {"bfloat16", "float32"}


def test_two_bit_weights_that_would_be_fused_wrongly_are_left() -> None:
    plan = plan_of(half_model(), form=WeightForm.QDQ, spec=BlockSpec(bits=2))
    assert list(plan.layers) == ["MatMul_3"]
    reason = reasons(plan)["MatMul_1"]
    assert reason == "ONNX Runtime fuses 2-bit DequantizeLinear of 6 outputs, no multiple of 4, to wrong numbers"
    plan = plan_of(tied_copies(), form=WeightForm.QDQ, spec=BlockSpec(bits=2), selection=EVERY)
    assert not plan.skips


def test_float16_products_in_bodies_that_would_be_fused_to_zeros_are_left() -> None:
    weight = np.random.default_rng(0).normal(size=(32, 8)).astype(np.float16)
    body = "(float16[N, 8] b) {{ b = MatMul (x, w) }}"
    text = f"""g (float16[N, 32] x, bool c) => (float16[N, 8] y, float16[N, 8] z) {{
        z = MatMul (x, w)
        y = If (c) <then_branch = one () => {body}, else_branch = two () => {body.replace(" b", " a")}>
    }}""".replace("{{", "{").replace("}}", "}")
    for form, spec in ((WeightForm.QDQ, BlockSpec()), (WeightForm.CHANNEL_QDQ, CHANNELS)):
        plan = plan_of(build(text, {"w": weight}), form=form, spec=spec)
        assert list(plan.layers) == ["MatMul_0"]
        assert all("a product of zeros" in reason for reason in reasons(plan).values())
    assert len(plan_of(build(text, {"w": weight})).layers) == 3
    assert (
        len(
            plan_of(
                build(text.replace("float16", "float"), {"w": weight.astype(np.float32)}), form=form, spec=spec
            ).layers
        )
        == 3
    )


def test_a_model_without_weights_says_what_was_in_the_way() -> None:
    with pytest.raises(UnsupportedModelError) as caught:
        plan_of(quantized("blocks"))
    assert str(caught.value) == (
        "no weight of the model can be packed as asked. 1 x MatMul: its weight is quantized already; "
        "requantize=True takes it as a float weight."
    )
    with pytest.raises(UnsupportedModelError, match="there is nothing to pack"):
        plan_of(build("g (float[4] x) => (float[4] y) { y = Relu (x) }"))
    with pytest.raises(UnsupportedModelError, match="6 x MatMul: excluded by nodes_to_exclude"):
        plan_of(deep(6), selection=Selection(exclude=("*",)))


def test_work_grows_with_the_number_of_layers_alone(count_calls: object) -> None:
    def work(number: int) -> int:
        proto = deep(number)
        return count_calls(lambda: plan_of(proto, last_matmul=False))  # type: ignore[operator,no-any-return]

    work(2)
    assert work(80) < 2.2 * work(40)
