"""Every pass does work in proportion to the graph: twice the blocks, about twice the calls."""

import numpy as np
import onnx
import pytest

from models.build import Weights, build
from vqonnx.graph.io import load
from vqonnx.transforms.batch_norm_conv import batch_norms_to_convs
from vqonnx.transforms.border_layout import channels_last_at_border
from vqonnx.transforms.clips import clips_to_relus
from vqonnx.transforms.cross_layer import CrossLayerEqualization, equalize_layers
from vqonnx.transforms.dpu_simulation import simulate_dpu
from vqonnx.transforms.fixed_shapes import fix_shapes
from vqonnx.transforms.fuse_gelu import fuse_gelus
from vqonnx.transforms.fuse_instance_norm import fuse_instance_norms
from vqonnx.transforms.fuse_l2_norm import fuse_l2_norms
from vqonnx.transforms.fuse_layer_norm import fuse_layer_norms
from vqonnx.transforms.fuse_space_to_depth import fuse_space_to_depths
from vqonnx.transforms.half_precision import half_to_float
from vqonnx.transforms.large_pools import split_large_pools
from vqonnx.transforms.repeated_pairs import join_pairs
from vqonnx.transforms.shapes import infer_shapes
from vqonnx.transforms.sharing import copy_shared_biases, copy_shared_initializers
from vqonnx.transforms.splits import splits_to_slices

BLOCK = """
  c{i} = Conv <pads = [1, 1, 1, 1]> (x{i}, w{i}, b) r{i} = Clip (c{i}, zero, six)
  d{i} = Conv <group = 4, pads = [1, 1, 1, 1]> (r{i}, v{i}, b) n{i} = BatchNormalization (d{i}, b, b, b, ones)
  l{i} = LeakyRelu (n{i}) o{i} = ReduceMean (l{i}, axis) s{i} = Sub (l{i}, o{i}) q{i} = Mul (s{i}, s{i})
  a{i} = ReduceMean (q{i}, axis) e{i} = Add (a{i}, half) t{i} = Sqrt (e{i}) m{i} = Div (s{i}, t{i})
  f{i} = Div (m{i}, root) g{i} = Erf (f{i}) h{i} = Add (g{i}, one) j{i} = Mul (m{i}, h{i}) k{i} = Mul (j{i}, half)
  u{i}, z{i} = Split <axis = 1, num_outputs = 2> (k{i}) y{i} = Concat <axis = 1> (z{i}, u{i})
  p{i} = AveragePool <kernel_shape = [1, 3], pads = [0, 1, 0, 1]> (y{i})
  i{i} = ReduceL2 (p{i}, axis) w_{i} = Div (p{i}, i{i}) x{next} = Add (w_{i}, x{i})
"""

PASSES = {
    "batch_norms_to_convs": batch_norms_to_convs,
    "channels_last_at_border": channels_last_at_border,
    "clips_to_relus": clips_to_relus,
    "copy_shared_biases": copy_shared_biases,
    "copy_shared_initializers": copy_shared_initializers,
    "equalize_layers": lambda model: equalize_layers(model, CrossLayerEqualization(through_clips=True, rounds=3)),
    "fix_shapes": lambda model: fix_shapes(model, {"N": 2}),
    "fuse_gelus": fuse_gelus,
    "fuse_instance_norms": fuse_instance_norms,
    "fuse_l2_norms": fuse_l2_norms,
    "fuse_layer_norms": fuse_layer_norms,
    "fuse_space_to_depths": fuse_space_to_depths,
    "join_pairs": join_pairs,
    "half_to_float": half_to_float,
    "simulate_dpu": simulate_dpu,
    "split_large_pools": split_large_pools,
    "splits_to_slices": splits_to_slices,
}


def blocks(count: int) -> onnx.ModelProto:
    """That many blocks with something for most passes in each."""
    weights = Weights(0)
    for i in range(count):
        weights.normal(f"w{i}", 4, 4, 3, 3)
        weights.normal(f"v{i}", 4, 1, 3, 3)
    numbers = {"zero": 0.0, "six": 6.0, "half": 0.5, "one": 1.0, "root": np.sqrt(2)}
    arrays = {name: np.float32(number) for name, number in numbers.items()}
    arrays |= {"b": np.full(4, 0.1, np.float32), "ones": np.ones(4, np.float32), "axis": np.int64([3])}
    text = "".join(BLOCK.replace("{i}", str(i)).replace("{next}", str(i + 1)) for i in range(count))
    signature = f"g (float[N, 4, 6, 6] x0) => (float[N, 4, 6, 6] x{count})"
    return build(f"{signature} {{ {text} }}", {**weights.arrays, **arrays}, opset=20)


@pytest.fixture(scope="module")
def models():
    made = {}
    for count in (10, 20):
        proto = blocks(count)
        model = load(proto)
        infer_shapes(model)
        made[count] = model
    return made


@pytest.mark.parametrize("name", PASSES)
def test_twice_the_graph_is_twice_the_work(models, count_calls, name):
    single, double = (count_calls(PASSES[name], load(models[count])) for count in (10, 20))
    assert double < 2.2 * single
