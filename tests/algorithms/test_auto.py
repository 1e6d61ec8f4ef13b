import numpy as np
import pytest

from vqonnx.algorithms.auto import AutoConfig, data_free
from vqonnx.algorithms.base import LayerProblem, find_algorithm
from vqonnx.core.blocks import BlockSpec
from vqonnx.core.weight_plan import CodebookSpec
from vqonnx.kernels.blocks.errors import SecondMoment
from vqonnx.kernels.blocks.packing import dequantize_blocks

CHEAP = ("rtn", "clip_search", "scale_search", "hqq")


def solve(problem, config=None):
    (found,) = find_algorithm("auto").solve([problem], config or AutoConfig())
    return found


def problem_of(rng, spec, outliers):
    weight = rng.standard_t(2 if outliers else 50, size=(96, 40)).astype(np.float32)
    x = rng.normal(size=(400, 96)) * np.exp(rng.normal(size=96))
    return LayerProblem(weight=weight, spec=spec, hessian=SecondMoment(x.T @ x))


def trace_error(problem, packed):
    change = problem.weight - dequantize_blocks(packed).astype(np.float64)
    return np.einsum("kn,kj,jn->", change, problem.hessian.matrix, change)


@pytest.mark.parametrize("spec", [BlockSpec(), BlockSpec(bits=2), BlockSpec(symmetric=True)], ids=str)
@pytest.mark.parametrize("outliers", [False, True])
def test_the_least_output_error_is_kept(rng, spec, outliers):
    problem = problem_of(rng, spec, outliers)
    errors = {}
    for name in CHEAP:
        algorithm = find_algorithm(name)
        if algorithm.refusal(spec) is None:
            (found,) = algorithm.solve([problem], algorithm.options())
            errors[name] = trace_error(problem, found.packed)
    found = solve(problem)
    assert trace_error(problem, found.packed) == pytest.approx(min(errors.values()), rel=1e-5)
    assert errors[found.algorithm] == pytest.approx(min(errors.values()), rel=1e-5)


def test_candidates_are_chosen_by_the_user(rng):
    assert solve(problem_of(rng, BlockSpec(), True), AutoConfig(candidates=("hqq",))).algorithm == "hqq"
    # The only candidate refuses the spec.
    assert solve(problem_of(rng, BlockSpec(symmetric=True), True), AutoConfig(candidates=("hqq",))).algorithm == "rtn"


def test_gptq_may_be_a_candidate(rng):
    problem = problem_of(rng, BlockSpec(), False)
    assert solve(problem, AutoConfig(candidates=("rtn", "gptq"))).algorithm == "gptq"


@pytest.mark.parametrize(
    ("spec", "name"),
    [(BlockSpec(), "scale_search"), (BlockSpec(symmetric=True), "rtn"), (CodebookSpec(), "rtn")],
    ids=str,
)
def test_without_data_the_spec_decides(rng, spec, name):
    problem = LayerProblem(weight=rng.normal(size=(64, 8)).astype(np.float32), spec=spec)
    assert solve(problem).algorithm == name == data_free(spec)
