"""Which nodes a user's names, globs, expressions, predicates and operators choose."""

import onnx_ir as ir
import pytest

from models.build import Weights, build
from vqonnx.errors import OptionError
from vqonnx.graph.io import load
from vqonnx.planning.rules import Selection
from vqonnx.planning.selection import rejections

NAMES = ("/enc/conv.0", "/enc/conv.1", "/dec/conv[0]", "/dec/relu")


@pytest.fixture
def nodes() -> list[ir.Node]:
    weights = Weights(0)
    for i in range(3):
        weights.normal(f"w{i}", 4, 4, 1, 1)
    text = """chain (float[1, 4, 2, 2] x) => (float[1, 4, 2, 2] y) {
        a = Conv (x, w0)
        b = Conv (a, w1)
        c = Conv (b, w2)
        y = Relu (c)
    }"""
    model = build(text, weights.arrays)
    for node, name in zip(model.graph.node, NAMES, strict=True):
        node.name = name
    return list(load(model).graph)


def kept(graph: list[ir.Node], **selection: object) -> set[str]:
    return set(NAMES) - set(rejections(graph, Selection(**selection)))  # type: ignore[arg-type]


def test_nothing_asked_rejects_nothing(nodes: list[ir.Node]) -> None:
    assert rejections(nodes, Selection()) == {}


@pytest.mark.parametrize(
    ("pattern", "chosen"),
    [
        ("/enc/conv.1", {"/enc/conv.1"}),
        ("/enc/*", {"/enc/conv.0", "/enc/conv.1"}),
        ("*conv.?", {"/enc/conv.0", "/enc/conv.1"}),
        ("re:.*conv.*", {"/enc/conv.0", "/enc/conv.1", "/dec/conv[0]"}),
        ("re:/dec/relu", {"/dec/relu"}),
        ("/dec/conv[0]", {"/dec/conv[0]"}),  # brackets of a name, not of a glob
        (lambda node: node.op_type == "Relu", {"/dec/relu"}),
        (lambda node: list(node.input) == ["x", "w0"], {"/enc/conv.0"}),
    ],
)
def test_a_pattern_chooses_and_excludes_the_same_nodes(nodes: list[ir.Node], pattern: object, chosen: set[str]) -> None:
    assert kept(nodes, nodes=(pattern,)) == chosen
    assert kept(nodes, exclude=(pattern,)) == set(NAMES) - chosen


def test_an_expression_must_match_the_whole_name(nodes: list[ir.Node]) -> None:
    with pytest.raises(OptionError, match="matches no node"):
        rejections(nodes, Selection(nodes=("re:conv",)))


def test_exclusion_wins_over_inclusion(nodes: list[ir.Node]) -> None:
    reasons = rejections(nodes, Selection(nodes=("/enc/*",), exclude=("/enc/conv.0",)))
    assert reasons == {
        "/enc/conv.0": "excluded by nodes_to_exclude",
        "/dec/conv[0]": "not in nodes_to_quantize",
        "/dec/relu": "not in nodes_to_quantize",
    }


def test_operators_limit_what_is_quantized(nodes: list[ir.Node]) -> None:
    assert rejections(nodes, Selection(op_types=("Conv",))) == {"/dec/relu": "Relu is not in op_types_to_quantize"}


def test_an_operator_that_the_model_lacks_is_no_error(nodes: list[ir.Node]) -> None:
    assert kept(nodes, op_types=("Gemm",)) == set()


@pytest.mark.parametrize(("field", "option"), [("nodes", "nodes_to_quantize"), ("exclude", "nodes_to_exclude")])
def test_a_misspelt_name_is_an_error_that_offers_the_nearest(nodes: list[ir.Node], field: str, option: str) -> None:
    with pytest.raises(OptionError) as caught:
        rejections(nodes, Selection(**{field: ("/enc/cov.0",)}))  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"{option}: '/enc/cov.0' matches no node of the model (did you mean '/enc/conv")
    assert "a glob such as '*conv*'" in str(caught.value)
    assert caught.value.option == option


@pytest.mark.parametrize("pattern", ["*nothing*", "re:nothing"])
def test_a_pattern_without_matches_is_an_error(nodes: list[ir.Node], pattern: str) -> None:
    with pytest.raises(OptionError, match="matches no node"):
        rejections(nodes, Selection(exclude=(pattern,)))


def test_a_predicate_may_choose_nothing(nodes: list[ir.Node]) -> None:
    assert kept(nodes, exclude=(lambda _: False,)) == set(NAMES)


def test_a_broken_expression_is_an_error(nodes: list[ir.Node]) -> None:
    with pytest.raises(OptionError, match=r"'re:\(' is not a regular expression: missing \)"):
        rejections(nodes, Selection(nodes=("re:(",)))


@pytest.mark.parametrize("pattern", ["norm_7", "norm_*", "re:norm_[0-9]"])
def test_a_folded_node_may_be_named(nodes: list[ir.Node], pattern: str) -> None:
    assert rejections(nodes, Selection(exclude=(pattern,)), known={"norm_7"}) == {}


def test_a_misspelt_operator_is_an_error_that_offers_the_nearest(nodes: list[ir.Node]) -> None:
    with pytest.raises(OptionError) as caught:
        rejections(nodes, Selection(op_types=("Convv",)))
    assert str(caught.value).startswith(
        "op_types_to_quantize: 'Convv' is neither an ONNX operator nor in the model (did you mean 'Conv'"
    )
    assert caught.value.option == "op_types_to_quantize"
