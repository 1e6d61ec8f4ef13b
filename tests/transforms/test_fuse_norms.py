"""Layer and instance normalizations that exporters write out become the operators; outputs stay."""

import numpy as np
import pytest

from models.build import build
from vqonnx.graph.io import load
from vqonnx.graph.walk import constant, nodes
from vqonnx.transforms.fuse_instance_norm import fuse_instance_norms
from vqonnx.transforms.fuse_layer_norm import fuse_layer_norms
from vqonnx.transforms.shapes import infer_shapes

RNG = np.random.default_rng(0)

# {m} is the mean over the axes, {k} the same without keepdims.
_PLAIN = "u = {m} (x) d = Sub (x, u) q = Pow (d, two) v = {m} (q) a = Add (v, e) s = Sqrt (a)"
FORMS = {
    "torch": f"{_PLAIN} n = Div (d, s) t = Mul (n, g) y = Add (t, b)",
    "torch, by hand": f"{_PLAIN} n = Div (d, s) t = Mul (g, n) y = Add (b, t)",
    "HuggingFace, by product": (
        "u = {m} (x) d = Sub (x, u) q = Mul (d, d) v = {m} (q) a = Add (e, v) s = Sqrt (a) "
        "n = Div (d, s) t = Mul (n, g) y = Add (t, b)"
    ),
    "torch.var, old exporter": (
        "u = {m} (x) w = {m} (x) d = Sub (x, w) q = Mul (d, d) v = {m} (q) c = Sub (x, u) a = Add (v, e) s = Sqrt (a) "
        "r = Div (one, s) n = Mul (c, r) t = Mul (n, g) y = Add (t, b)"
    ),
    "torch.var, new exporter": (
        "u = {m} (x) w = {m} (x) d = Sub (x, w) q = Mul (d, d) k = {k} (q) v = Reshape (k, kept) c = Sub (x, u) "
        "a = Add (v, e) s = Sqrt (a) r = Reciprocal (s) n = Mul (c, r) t = Mul (n, g) y = Add (t, b)"
    ),
    "power of -1/2": (
        "u = {m} (x) d = Sub (x, u) q = Pow (d, two) v = {m} (q) a = Add (v, e) r = Pow (a, minus_half) "
        "n = Mul (d, r) t = Mul (n, g) y = Add (t, b)"
    ),
    "TensorFlow": (
        "u = {m} (x) d = Sub (x, u) q = Mul (d, d) v = {m} (q) a = Add (v, e) s = Sqrt (a) r = Reciprocal (s) "
        "f = Mul (r, g) p = Mul (x, f) o = Mul (u, f) t = Sub (b, o) y = Add (p, t)"
    ),
    "TensorFlow without a scale": (
        "u = {m} (x) d = Sub (x, u) q = Mul (d, d) v = {m} (q) a = Add (v, e) s = Sqrt (a) r = Reciprocal (s) "
        "p = Mul (x, r) o = Mul (u, r) t = Sub (b, o) y = Add (p, t)"
    ),
    "TensorFlow without a shift": (
        "u = {m} (x) d = Sub (x, u) q = Mul (d, d) v = {m} (q) a = Add (v, e) s = Sqrt (a) r = Reciprocal (s) "
        "f = Mul (r, g) p = Mul (x, f) o = Mul (u, f) y = Sub (p, o)"
    ),
    "without scale and shift": f"{_PLAIN} y = Div (d, s)",
    "without a scale": f"{_PLAIN} n = Div (d, s) y = Add (n, b)",
    "without a shift": f"{_PLAIN} n = Div (d, s) y = Mul (n, g)",
}


def norm(form="torch", dims="N, 3, 8", axes=(-1,), *, opset=17, dtype="float", affine=(8,), epsilon=1e-3, more=""):
    numpy = {"float": np.float32, "float16": np.float16, "double": np.float64}[dtype]
    sizes = dims.split(", ")
    reduced = {axis % len(sizes) for axis in axes}
    known = all(map(str.isdigit, sizes))
    kept = [1 if axis in reduced else int(size) for axis, size in enumerate(sizes)] if known else []
    numbers = {"two": 2.0, "one": 1.0, "minus_half": -0.5, "e": epsilon}
    arrays = {name: np.array(number, numpy) for name, number in numbers.items()}
    arrays |= {"g": RNG.normal(size=affine).astype(numpy), "b": RNG.normal(size=affine).astype(numpy)}
    arrays |= {"kept": np.int64(kept), "axes": np.int64(axes)}
    mean = "ReduceMean" if opset >= 18 else f"ReduceMean <axes = {list(axes)}>"
    without = "ReduceMean <keepdims = 0>" if opset >= 18 else f"ReduceMean <axes = {list(axes)}, keepdims = 0>"
    text = FORMS.get(form, form).replace("{k} (q)", f"{without} (q{', axes' * (opset >= 18)})")
    for value in "xq":
        text = text.replace(f"{{m}} ({value})", f"{mean} ({value}{', axes' * (opset >= 18)})")
    return build(f"g ({dtype}[{dims}] x) => ({dtype}[{dims}] y{more}) {{ {text} }}", arrays, opset=opset)


def layer(model):
    infer_shapes(model)
    return fuse_layer_norms(model)


def instance(model):
    infer_shapes(model)
    return fuse_instance_norms(model)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("opset", [17, 18, 21])
def test_every_form_of_a_layer_norm(check, form, opset):
    dims = "2, 3, 8" if "new" in form else "N, 3, 8"
    changed = check(norm(form, dims, opset=opset), layer)
    assert (changed.count, changed.ops) == (1, ["LayerNormalization"])
    node = changed.model.graph[0]
    assert node.attributes.get_float("epsilon") == pytest.approx(1e-3)
    assert node.attributes.get_int("axis") == -1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("opset", [11, 13, 17, 18])
def test_every_form_of_an_instance_norm(check, form, opset):
    dims = "2, 3, 4, 5" if "new" in form else "N, 3, H, W"
    changed = check(norm(form, dims, (2, 3), opset=opset, affine=(3, 1, 1)), instance)
    assert (changed.count, changed.ops) == (1, ["InstanceNormalization"])


@pytest.mark.parametrize(
    ("dims", "axes", "affine", "shape"),
    [
        ("N, 3, 8", (2,), (1, 8), (8,)),
        ("N, 3, 8", (2,), (1, 1, 8), (8,)),
        ("N, 3, 8", (2,), (1,), (8,)),
        ("N, 3, 8", (2,), (), (8,)),
        ("N, 3, 8", (1, 2), (3, 8), (3, 8)),
        ("N, 3, 8", (-2, -1), (3, 1), (3, 8)),
        ("N, 3, 4, 5", (2, 3), (4, 5), (4, 5)),
        ("N, 6", (1,), (6,), (6,)),
    ],
)
def test_layer_norms_over_the_last_axes(check, dims, axes, affine, shape):
    changed = check(norm("torch", dims, axes, affine=affine), layer)
    assert changed.ops == ["LayerNormalization"]
    assert constant(changed.model.graph[0].inputs[1]).shape == shape


@pytest.mark.parametrize(
    ("dims", "axes", "affine"),
    [
        ("N, 3, L", (2,), (3, 1)),
        ("N, 3, 4, 5", (2, 3), (1, 3, 1, 1)),
        ("N, 3, 4, 5", (-1, -2), ()),
        ("N, 3, 2, 2, 2", (2, 3, 4), (3, 1, 1, 1)),
    ],
)
def test_instance_norms_over_all_axes_behind_the_channels(check, dims, axes, affine):
    changed = check(norm("torch", dims, axes, affine=affine), instance)
    assert changed.ops == ["InstanceNormalization"]
    assert constant(changed.model.graph[0].inputs[1]).shape == (3,)


@pytest.mark.parametrize(
    ("proto", "expected"),
    [
        (norm("torch", "N, 3, 8"), "LayerNormalization"),
        (norm("torch", "N, 3, 8", affine=(3, 1)), "InstanceNormalization"),
        (norm("without scale and shift", "N, 3, 8"), "LayerNormalization"),
        (norm("without scale and shift", "N, 3, 4, 5", (2, 3)), "InstanceNormalization"),
        (norm("torch", "N, 3, 4, 5", (2, 3), affine=(4, 5)), "LayerNormalization"),
        (norm("torch", "N, 3, 4, 5", (2, 3), affine=(3, 1, 1)), "InstanceNormalization"),
    ],
)
def test_which_of_the_two_it_is(check, proto, expected):
    """In the order in which they are run."""
    assert check(proto, lambda model: instance(model) + layer(model)).ops == [expected]


def test_a_scale_of_another_kind_stays_behind(check):
    changed = check(norm("torch", "N, 3, 8", affine=(3, 8)), layer)
    assert changed.ops == ["LayerNormalization", "Mul", "Add"]
    changed = check(norm("torch", "N, 3, L", affine=(3, 1)), lambda model: instance(model) + layer(model))
    assert changed.ops == ["InstanceNormalization"]


@pytest.mark.parametrize(
    ("step", "dims", "axes", "affine"), [(layer, "N, 3, 8", (2,), (8,)), (instance, "N, 3, 4, 5", (2, 3), (3, 1, 1))]
)
def test_half_precision(check, step, dims, axes, affine):
    changed = check(norm("torch", dims, axes, affine=affine, dtype="float16"), step)
    assert changed.count == 1
    assert constant(changed.model.graph[0].inputs[1]).dtype == np.float16


CASTS = {
    "outside": (
        "x = Cast <to = 1> (h) u = ReduceMean <axes = [-1]> (x) d = Sub (x, u) q = Pow (d, two) "
        "v = ReduceMean <axes = [-1]> (q) a = Add (v, e) s = Sqrt (a) n = Div (d, s) t = Mul (n, g) o = Add (t, b) "
        "y = Cast <to = 10> (o)"
    ),
    "before the scale": (
        "x = Cast <to = 1> (h) u = ReduceMean <axes = [-1]> (x) d = Sub (x, u) q = Pow (d, two) "
        "v = ReduceMean <axes = [-1]> (q) a = Add (v, e) s = Sqrt (a) n = Div (d, s) c = Cast <to = 10> (n) "
        "t = Mul (c, g16) y = Add (t, b16)"
    ),
    "around the square": (
        "u = ReduceMean <axes = [-1]> (h) d = Sub (h, u) f = Cast <to = 1> (d) q = Pow (f, two) "
        "v = ReduceMean <axes = [-1]> (q) a = Add (v, e) s = Sqrt (a) r = Cast <to = 10> (s) n = Div (d, r) "
        "t = Mul (n, g16) y = Add (t, b16)"
    ),
}


@pytest.mark.parametrize(("place", "ops"), [("outside", 3), ("before the scale", 2), ("around the square", 1)])
def test_casts_in_between(check, place, ops):
    arrays = {"two": np.float32(2), "e": np.float32(1e-3), "g": np.float32(RNG.normal(size=8))}
    arrays |= {"b": np.float32(RNG.normal(size=8)), "g16": np.float16(arrays["g"]), "b16": np.float16(arrays["g"])}
    proto = build(f"g (float16[N, 3, 8] h) => (float16[N, 3, 8] y) {{ {CASTS[place]} }}", arrays)
    changed = check(proto, layer)
    assert changed.count == 1
    assert sum(op != "Cast" for op in changed.ops) == 1
    assert len(changed.ops) == ops


def test_bodies_and_several_at_once(check):
    axes = "axes = [-1]"
    text = f"""
    g (float[N, 3, 8] x, bool flag) => (float[N, 3, 8] y) {{
      {FORMS["torch"].replace("{m}", f"ReduceMean <{axes}>").replace("y = ", "z = ")}
      y = If (flag) <
        then_branch = p () => (float[N, 3, 8] p9) {{
          p1 = ReduceMean <{axes}> (z) p2 = Sub (z, p1) p3 = Mul (p2, p2) p4 = ReduceMean <{axes}> (p3)
          p5 = Add (p4, e) p6 = Sqrt (p5) p9 = Div (p2, p6)
        }},
        else_branch = r () => (float[N, 3, 8] r1) {{ r1 = Neg (z) }}>
    }}
    """
    arrays = {"two": np.float32(2), "e": np.float32(1e-3), "g": np.ones(8, np.float32), "b": np.ones(8, np.float32)}
    changed = check(build(text, arrays), layer)
    assert (changed.count, changed.ops) == (2, ["LayerNormalization", "If", "LayerNormalization", "Neg"])


def unchanged(model, step):
    before = [node.name for node in nodes(model)]
    return step(model) == 0 and [node.name for node in nodes(model)] == before


@pytest.mark.parametrize(
    "proto",
    [
        norm(opset=16),
        norm(dtype="double"),
        norm("torch", "N, 3, 8", (1,), affine=()),
        norm("torch", "N, 3, 8", (0, 2), affine=()),
        norm("torch", "N, 3, L", affine=()),
        norm("torch", more=", float[N, 3, 8] d"),
        norm(FORMS["torch"].replace("q = Pow (d, two)", "q = Pow (d, one)")),
        norm(FORMS["torch"].replace("v = {m} (q)", "v = ReduceMean <axes = [1]> (q)")),
        norm(FORMS["torch"].replace("d = Sub (x, u)", "d = Sub (u, x)")),  # its negative
        norm(FORMS["torch"] + " z = Neg (s)", more=", float[N, 3, 1] z"),
    ],
)
def test_what_is_no_layer_norm_stays(proto):
    assert unchanged(load(proto), layer)


@pytest.mark.parametrize(
    "proto",
    [
        norm("torch", "N, 3, 4, 5", (2, 3), dtype="double", affine=(3, 1, 1)),
        norm("torch", "N, C, 4, 5", (2, 3), affine=()),
        norm("torch", "N, 3, 4, 5", (1, 2, 3), affine=()),
        norm("torch", "N, 3, 4, 5", (3,), affine=()),
        norm("torch", "N, 3, 4, 5", (2, 3), affine=(3, 1, 1), more=", float[N, 3, 4, 5] d"),
        norm("without scale and shift", "N, 3, 8"),
    ],
)
def test_what_is_no_instance_norm_stays(proto):
    assert unchanged(load(proto), instance)


def test_an_unknown_rank_stays():
    proto = norm()
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    assert unchanged(load(proto), layer)
    assert unchanged(load(proto), instance)
