"""The product nearest to the outputs, in graphs with several outputs, branches and bodies."""

import onnx
import pytest

from models.build import build
from models.weights import decoder_with_cache, deep, merged_decoder
from vqonnx.graph.io import load
from vqonnx.planning.weights.last_products import last_products


def last_of(proto: onnx.ModelProto, without: str = "") -> list[str]:
    graph = load(proto).graph
    products = {node for node in graph.all_nodes() if node.op_type == "MatMul" and node.name != without}
    return [node.name or "" for node in last_products(graph, products)]


def graph(body: str, outputs: str) -> onnx.ModelProto:
    outs = ", ".join(f"float[4, 4] {name}" for name in outputs.split())
    return build(f"g (float[4, 4] x, bool c) => ({outs}) {{ {body} }}")


@pytest.mark.parametrize(
    ("body", "outputs", "last"),
    [
        ("a = MatMul (x, x) b = MatMul (a, x) y = Softmax (b)", "y", ["MatMul_1"]),
        ("a = MatMul (x, x) y = MatMul (a, x) k = MatMul (x, x) z = Add (k, a)", "y z", ["MatMul_2"]),
        ("k = MatMul (x, x) r = Relu (k) y = MatMul (r, x)", "y k", ["MatMul_2"]),
        ("y = MatMul (x, x) k = MatMul (x, x) r = Relu (k)", "y", ["MatMul_0"]),  # the other reaches no output
        ("y = Relu (x)", "y", []),
    ],
)
def test_the_last_product_that_reaches_an_output_and_no_other(body: str, outputs: str, last: list[str]) -> None:
    assert last_of(graph(body, outputs)) == last


def test_a_cache_among_the_outputs_does_not_count() -> None:
    assert last_of(decoder_with_cache()) == ["MatMul_10"]


def test_only_the_given_products_count() -> None:
    assert last_of(decoder_with_cache(), without="MatMul_10") == ["MatMul_8"]


def test_each_branch_has_a_last_one() -> None:
    assert last_of(merged_decoder()) == ["If_1/then_branch/MatMul_2", "If_1/else_branch/MatMul_2"]


BRANCH = """b = If (c) <
    then_branch = yes () => (float[4, 4] p) { p = MatMul (h, x) },
    else_branch = no () => (float[4, 4] q) { q = Identity (x) }
>"""


def test_a_product_that_only_a_body_reads_is_not_the_last() -> None:
    proto = graph(f"h = MatMul (x, x) {BRANCH} y = Relu (b)", "y")
    assert last_of(proto) == ["If_1/then_branch/MatMul_0"]


def test_a_product_behind_a_body_is_the_last() -> None:
    assert last_of(graph(f"h = Relu (x) {BRANCH} y = MatMul (b, x)", "y")) == ["MatMul_2"]


def test_bodies_in_bodies_are_entered() -> None:
    inner = """then_branch = a () => (float[4, 4] i) { i = MatMul (h, x) },
        else_branch = b () => (float[4, 4] j) { j = Relu (h) }"""
    body = f"""h = MatMul (x, x)
    y = If (c) <
        then_branch = yes () => (float[4, 4] p) {{ p = If (c) < {inner} > }},
        else_branch = no () => (float[4, 4] q) {{ q = MatMul (h, h) }}
    >"""
    assert last_of(graph(body, "y")) == ["If_1/then_branch/If_0/then_branch/MatMul_0", "If_1/else_branch/MatMul_0"]


def test_work_grows_with_the_graph_alone(count_calls: object) -> None:
    def work(layers: int) -> int:
        graph = load(deep(layers)).graph
        # Nothing before the last product is looked at, so the only one stands first.
        return count_calls(last_products, graph, {graph[0]})  # type: ignore[operator,no-any-return]

    assert work(80) < 2.2 * work(40)
