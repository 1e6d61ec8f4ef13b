"""Solve asks a solver for every number of a plan, weights before biases, each once."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest

from models.matmuls import linear_bias
from models.sharing import both_ways, one_weight
from tests.quantizers.flow import EAGER, plan_of, prepared
from vqonnx.core.params import QuantizedTensor, QuantParams
from vqonnx.core.spec import QuantSpec
from vqonnx.quantizers.options import QuantizerOptions
from vqonnx.stages.solve import solve


class Scribe:
    """Answers with made-up numbers and writes down what it was asked."""

    def __init__(self, plan: Any) -> None:
        self.plan = plan
        self.asked: list[tuple[Any, ...]] = []

    def calculate_quantization_params(self) -> Mapping[str, QuantParams]:
        self.asked.append(("activations",))
        return {form.key: QuantParams(np.float32(1), np.uint8(0), form.spec) for form in self.plan.activations()}  # type: ignore[arg-type]

    def quantize_weight(
        self,
        node: onnx.NodeProto,
        indices: Sequence[int],
        reduce_range: bool = False,
        op_level_per_channel: bool = False,
        axis: int = -1,
        from_subgraph: bool = False,
    ) -> tuple[list[str], list[str], list[str], list[onnx.NodeProto]]:
        assert not from_subgraph
        self.asked.append(("weight", node.name, *indices, reduce_range, op_level_per_channel, axis))
        name = f"{node.name}/{indices[0]}"
        return [name], [f"{name}/zero"], [f"{name}/scale"], []

    def quantize_bias_static(self, bias_name: str, input_name: str, weight_name: str, beta: float = 1.0) -> str:
        self.asked.append(("bias", bias_name, input_name, weight_name, beta))
        return f"codes of {bias_name}"

    def quantized_tensor(self, q_name: str, spec: QuantSpec) -> QuantizedTensor:
        codes = np.frombuffer(q_name.encode(), np.uint8)
        return QuantizedTensor(codes, QuantParams(np.float32(1), np.int8(0), spec))  # type: ignore[arg-type]


def asked(model: onnx.ModelProto, **arguments: Any) -> tuple[list[tuple[Any, ...]], Any]:
    plan = plan_of(model, **arguments)
    scribe = Scribe(plan)
    solutions = solve(prepared(model, QuantizerOptions.of(target=EAGER)), plan, scribe)
    return scribe.asked, solutions


def test_weights_are_asked_for_before_biases() -> None:
    questions, _ = asked(linear_bias())
    assert questions == [
        ("activations",),
        ("weight", "MatMul_0", 1, False, True, 1),
        ("weight", "MatMul_3", 1, False, True, 1),
        ("bias", "a_b", "x", "a_w", 1.0),
        ("bias", "b_b", "r", "b_w", 1.0),
    ]


@pytest.mark.parametrize(
    ("arguments", "question"),
    [
        ({"per_channel": False}, ("weight", "MatMul_0", 1, False, False, -1)),
        ({"reduce_range": True}, ("weight", "MatMul_0", 1, True, True, 1)),
    ],
)
def test_a_question_says_what_was_planned(arguments: dict[str, Any], question: tuple[Any, ...]) -> None:
    assert question in asked(linear_bias(), **arguments)[0]


def test_a_form_is_asked_for_once_however_many_nodes_read_it() -> None:
    questions, _ = asked(one_weight())
    assert [one[1] for one in questions if one[0] == "weight"] == ["Conv_0"]
    assert [one[1] for one in questions if one[0] == "bias"] == ["c_b", "c_b_2"]


def test_a_weight_with_two_forms_is_asked_for_twice() -> None:
    questions, _ = asked(both_ways())
    assert [one[1:] for one in questions if one[0] == "weight"] == [
        ("Gemm_0", 1, False, True, 1),
        ("Gemm_2", 1, False, True, 0),
    ]


def test_the_answers_are_what_is_found() -> None:
    _, solutions = asked(linear_bias())
    assert bytes(solutions.constants["a_w"].codes) == b"MatMul_0/1"
    assert bytes(solutions.constants["b_b"].codes) == b"codes of b_b"
    assert set(solutions.constants) == {"a_w", "b_w", "a_b", "b_b"}
    assert set(solutions.activations) == {"x", "r"}
    assert solutions.params("a_w") is solutions.constants["a_w"].params
    assert solutions.params("r") is solutions.activations["r"]
