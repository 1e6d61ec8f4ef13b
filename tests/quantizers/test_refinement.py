"""Refinement starts from what the quantizer's methods say, and corrected biases stay on their positions."""

from dataclasses import replace

import numpy as np

from tests.planning.npu import normal, parsed, planned
from tests.quantizers.flow import normals, run
from vqonnx.calibration.statistics.histogram import Histogram
from vqonnx.graph.io import load
from vqonnx.kernels.scale_grid import position_of
from vqonnx.quantizers.qdq_quantizer import QDQQuantizer
from vqonnx.quantizers.refinement import refined_plan
from vqonnx.runtime.session import add_outputs
from vqonnx.stages.correct import correct
from vqonnx.stages.correct_fast import correct_fast
from vqonnx.stages.emit import emit
from vqonnx.stages.solve import solve
from vqonnx.targets.vitis import NPU_RULES


def test_the_quantizers_own_numbers_are_where_it_starts():
    model = parsed("c = Conv (x, w, b)\n y = Relu (c)", {"w": normal(6, 4, 3, 3), "b": normal(6)})

    class Coarse(QDQQuantizer):
        def calculate_quantization_params(self):
            return {
                key: replace(one, scale=one.scale * 4) for key, one in super().calculate_quantization_params().items()
            }

        def constant_params(self, name, spec):
            found = super().constant_params(name, spec)
            return replace(found, scale=found.scale * 2)

    positions = {}
    for kind in (QDQQuantizer, Coarse):
        quantizer = kind(model)
        quantizer.model, quantizer.plan = model, planned(model)
        x = Histogram().of(normal(1000))
        quantizer.tensors_range = {"x": x, "y": (0.0, 40.0)}
        plan, refinement = refined_plan(quantizer, NPU_RULES)
        assert refinement.violations == ()
        positions[kind] = refinement.positions
        assert plan.tensors["b"].fixed is not None
    changed = {key: positions[QDQQuantizer][key] - positions[Coarse][key] for key in positions[Coarse]}
    assert changed == {"x": 2, "y": 2, "w": 1, "b": 1}


def test_biases_with_own_scales_are_corrected_on_them():
    text = "c = Conv (x, w, b)\n r = Relu (c)\n y = Conv (r, v, d)"
    constants = {"w": normal(6, 4, 3, 3), "b": normal(6), "v": normal(5, 6, 3, 3, seed=1), "d": normal(5, seed=2)}
    model = parsed(text, constants)
    feeds = normals(8, {"x": (1, 4, 8, 8)})
    watched = add_outputs(load(model), ["r", "y"])
    float_runs = [run(watched, feed) for feed in feeds]
    quantizer = QDQQuantizer(model)
    quantizer.model, quantizer.plan = model, planned(model)
    statistics = {"x": Histogram().of(np.stack([feed["x"] for feed in feeds]))}
    for name in ("r", "y"):
        statistics[name] = Histogram().of(np.stack([one[name] for one in float_runs]))
    quantizer.tensors_range = statistics
    quantizer.plan, _ = refined_plan(quantizer, NPU_RULES)
    plain = solve(model, quantizer.plan, quantizer)

    def shift(solutions):
        runs = [run(emit(model, quantizer.plan, solutions), feed)["y"] for feed in feeds]
        means = [np.mean(some, axis=(0, 1, 3, 4)) for some in (runs, [one["y"] for one in float_runs])]
        return np.abs(means[0] - means[1])

    for way in (correct, correct_fast):
        corrected = way(model, quantizer.plan, plain, feeds)
        for key in ("b", "d"):
            assert corrected.constants[key].codes.dtype == np.int8
            assert corrected.constants[key].params is plain.constants[key].params
        assert shift(corrected).mean() <= shift(plain).mean()
    step = 2.0 ** -float(position_of(plain.constants["d"].params.scale))
    output = 2.0 ** -float(position_of(plain.activations["y"].scale))
    assert shift(correct(model, quantizer.plan, plain, feeds)).max() <= step + output
