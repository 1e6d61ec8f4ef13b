import numpy as np
import onnx
import pytest

from tests.transforms.conftest import random_feeds, run
from vqonnx.graph.io import load
from vqonnx.graph.names import NameAllocator
from vqonnx.graph.walk import constant, values_by_name
from vqonnx.transforms.fold_scales import foldable
from vqonnx.transforms.weights import set_constant

K, N = 6, 4
SHAPES = {
    "gamma": (K,),
    "beta": (K,),
    "row": (1, K),
    "one": (1,),
    "scalar": (),
    "w": (K, N),
    "w2": (K, N),
    "u": (K, K),
    "v": (K, K),
    "flat": (K,),
    "narrow": (K, 1),
}
EACH = {
    "LayerNormalization": "x = LayerNormalization (h, gamma, beta)",
    "LayerNormalization without a bias": "x = LayerNormalization (h, gamma)",
    "SimplifiedLayerNormalization": "x = SimplifiedLayerNormalization (h, gamma)",
    "SkipLayerNormalization": "x = com.microsoft.SkipLayerNormalization (h, g, gamma, beta, row1)",
    "SkipSimplifiedLayerNormalization, its sum read": (
        "x, m, i, sum = com.microsoft.SkipSimplifiedLayerNormalization <epsilon = 1e-5> (h, g, gamma)\n"
        "other = Neg (sum)"
    ),
    "a norm of single operators": (
        "mean = ReduceMean <axes = [-1]> (h)\n c = Sub (h, mean)\n n = Mul (c, gamma)\n x = Add (n, beta)"
    ),
    "a bias in front": "n = Mul (h, gamma)\n x = Add (beta, n)",
    "a constant less a product": "n = Mul (gamma, h)\n x = Sub (beta, n)",
    "one factor for all": "x = Mul (h, scalar)",
    "a factor of two axes": "x = Mul (h, row)",
    "a divisor": "x = Div (h, gamma)",
    "what is divided": "n = Mul (h, gamma)\n d = Exp (s)\n x = Div (n, d)",
    "MatMul": "x = MatMul (h, u)",
    "MatMul and Add": "n = MatMul (h, u)\n x = Add (n, beta)",
    "MatMul and Add of one number": "n = MatMul (h, u)\n x = Add (n, one)",
    "Gemm": "x = Gemm (h, u, beta)",
    "Gemm transposed": "x = Gemm <transB = 1, alpha = 0.5, beta = 2.0> (h, u, row)",
    "Gemm without a bias": "x = Gemm (h, u)",
    "Relu": "n = Gemm (h, u, beta)\n x = Relu (n)",
    "LeakyRelu": "n = Mul (h, gamma)\n x = LeakyRelu <alpha = 0.2> (n)",
    "Identity and Dropout": "n = Mul (h, gamma)\n d = Dropout (n)\n x = Identity (d)",
    "Cast": "n = Cast <to = 11> (h)\n l = LayerNormalization (n, dgamma)\n x = Cast <to = 1> (l)",
    "up times an activation of gate": (
        "gate = MatMul (h, u)\n sig = Sigmoid (gate)\n act = Mul (gate, sig)\n up = MatMul (h, v)\n x = Mul (act, up)"
    ),
    "a decomposed Gelu": (
        "n = MatMul (h, u)\n r = Div (n, scalar)\n e = Erf (r)\n p = Add (e, one)\n f = Mul (n, p)\n x = Mul (f, half)"
    ),
    "Gelu with its half in front": (
        "n = MatMul (h, u)\n e = Erf (n)\n p = Add (e, one)\n a = Mul (n, half)\n x = Mul (a, p)"
    ),
    "a sum of two layers": "a = MatMul (h, u)\n b = MatMul (g, v)\n x = Add (a, b)",
}
NOWHERE = {
    "a graph input": "x = Sqrt (h)",
    "an activation of no factor": "n = MatMul (h, u)\n x = Sigmoid (n)",
    "a value that others read": "n = MatMul (h, u)\n x = Relu (n)\n other = Neg (n)",
    "a square": "n = MatMul (h, u)\n x = Mul (n, n)",
    "a sum with a stream": "n = MatMul (h, u)\n x = Add (n, h)",
    "rounding": "n = Mul (h, gamma)\n i = Cast <to = 6> (n)\n x = Cast <to = 1> (i)",
    "a weight that is computed": "s2 = Exp (u)\n x = MatMul (h, s2)",
    "a weight on the left": "x = MatMul (u, h6)",
    "a product with a vector": "n = MatMul (h66, flat)\n x = Add (n, beta)",
    "one channel for all": "n = MatMul (h, narrow)\n x = Add (n, beta)",
    "a second output": "y0, x = Split <axis = 0> (h)",
}


def proto_of(body, rng, *, outputs=("y", "z"), dtype=np.float32, output="y = MatMul (x, w)\n z = MatMul (x, w2)"):
    name = {np.float32: "float", np.float16: "float16"}[dtype]
    text = f"""<ir_version: 10, opset_import: ["": 17, "com.microsoft": 1]>
        graph ({name}[2, {K}] h, {name}[2, {K}] g, {name}[{K}, {K}] h6, {name}[2, {K}, {K}] h66, {name}[1] s)
        => ({", ".join(f"{name} {one}" for one in outputs)}) {{ {body}\n {output} }}"""
    proto = onnx.parser.parse_model(text)
    arrays = {one: rng.uniform(0.5, 2, shape) * rng.choice([-1, 1], shape) for one, shape in SHAPES.items()}
    arrays |= {"half": np.array(0.5), "row1": arrays["gamma"] + 1, "u": np.abs(arrays["u"])}
    read = {one for node in proto.graph.node for one in node.input}
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(array, dtype), one) for one, array in arrays.items() if one in read
    )
    proto.graph.initializer.append(onnx.numpy_helper.from_array(arrays["gamma"], "dgamma"))
    return onnx.shape_inference.infer_shapes(proto)


def folded(factors, *, planned=(), scalable=(), readers=("y", "z"), found=None):
    """A step that folds factors into x and takes them out of the layers that read it."""

    def step(model):
        names = NameAllocator.of(model)
        x = values_by_name(model)["x"]
        layers = [node for node in model.graph if node.op_type == "MatMul" and node.outputs[0].name in readers]
        fold = foldable(x, layers, K, planned=planned, scalable=scalable)
        if found is not None:
            found.append(fold)
        if fold is None or not fold.apply(factors, names):
            return 0
        for node in layers:
            weight = constant(node.inputs[1])
            set_constant(node, 1, (weight / factors[:, None]).astype(weight.dtype), names, "undone")
        return 1

    return step


def outputs_of(body):
    return ("y", "z", "other") if "other =" in body else ("y", "z")


@pytest.mark.parametrize("name", EACH)
def test_factors_that_layers_undo_change_no_result(check, rng, name):
    factors = np.exp(rng.normal(size=K))
    body = EACH[name]
    changed = check(proto_of(body, rng, outputs=outputs_of(body)), folded(factors))
    assert changed.count == 1


@pytest.mark.parametrize("name", EACH)
def test_the_activation_itself_gets_the_factors(rng, name):
    """Seen as an output of its own, which a fold would refuse, so that only afterwards it is made one."""
    proto, factors = proto_of(EACH[name], rng, output="z = MatMul (x, w2)", outputs=("z",)), np.exp(rng.normal(size=K))
    before, after = load(proto), load(proto)
    assert folded(factors, readers=("z",))(after) == 1
    feeds = random_feeds(proto, rng)
    for model in (before, after):
        model.graph.outputs.append(values_by_name(model)["x"])
    np.testing.assert_allclose(run(after, feeds)["x"], run(before, feeds)["x"] * factors, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("name", NOWHERE)
def test_what_takes_no_factors_is_left(check, rng, name):
    proto, found = proto_of(NOWHERE[name], rng, outputs=outputs_of(NOWHERE[name])), []
    assert check(proto, folded(np.full(K, 2.0), found=found)).count == 0
    assert found == [None]


@pytest.mark.parametrize(
    "output",
    [
        "y = MatMul (x, w)\n z = Neg (x)",  # another node reads it
        "y = MatMul (x, w)\n z = MatMul (h6, x6)\n x6 = Transpose (x)",
        "y = MatMul (x, w)\n z = Gemm <transA = 1> (x, h)",
        "y = MatMul (x, w)\n z = Identity (w2)\n",
    ],
)
def test_only_layers_may_read_the_activation(rng, output):
    if "Transpose" in output:
        output = "y = MatMul (x, w)\n x6 = Transpose (x)\n z = MatMul (h6, x6)"
    model = load(proto_of("x = Mul (h, gamma)", rng, output=output))
    layers = [node for node in model.graph if node.outputs[0].name in ("y", "z")]
    fold = foldable(values_by_name(model)["x"], layers, K)
    assert (fold is not None) == ("Identity" in output)
    # A layer of the group that is not packed counts as any other reader.
    model = load(proto_of("x = Mul (h, gamma)", rng))
    layers = [node for node in model.graph if node.outputs[0].name == "y"]
    assert foldable(values_by_name(model)["x"], layers, K) is None


def test_a_graph_output_keeps_its_numbers(rng):
    model = load(proto_of("x = Mul (h, gamma)", rng, outputs=("y", "z", "x")))
    layers = [node for node in model.graph if node.op_type == "MatMul"]
    assert foldable(values_by_name(model)["x"], layers, K) is None


def test_shared_constants_are_copied(check, rng):
    body = "x = LayerNormalization (h, gamma, beta)\n other = LayerNormalization (g, gamma, beta)"
    changed = check(proto_of(body, rng, outputs=("y", "z", "other")), folded(np.exp(rng.normal(size=K))))
    assert changed.count == 1
    gammas = [node.inputs[1].name for node in changed.model.graph if node.op_type == "LayerNormalization"]
    assert gammas == ["gamma_1", "gamma"]


def test_float16_constants_stay_float16_and_are_not_changed_where_they_would_overflow(check, rng):
    proto = proto_of("x = LayerNormalization (h, gamma, beta)", rng, dtype=np.float16)
    changed = check(proto, folded(np.exp(0.5 * rng.normal(size=K))))
    assert changed.count == 1
    assert constant(values_by_name(changed.model)["gamma"]).dtype == np.float16
    assert check(proto, folded(np.full(K, 1e6))).count == 0


@pytest.mark.parametrize("name", ["MatMul and Add", "Gemm", "up times an activation of gate"])
def test_a_packed_layer_takes_factors_in_its_scales_or_not_at_all(rng, name):
    model = load(proto_of(EACH[name], rng))
    nodes = list(model.graph)
    maker = next(
        node
        for node in reversed(nodes)
        if node.outputs[0].name in ("x", "n", "up") and node.op_type != "Add" and node.op_type != "Mul"
    )
    maker.name = "maker"
    layers = [node for node in nodes if node.outputs[0].name in ("y", "z")]
    x = values_by_name(model)["x"]
    assert foldable(x, layers, K, planned={"maker"}) is None
    fold = foldable(x, layers, K, planned={"maker"}, scalable={"maker"})
    assert fold.packed == ("maker",)
    biases = [operand.node.inputs[operand.index].name for operand in fold.operands]
    assert biases == ([] if "up" in name else ["beta"])
