import numpy as np
import pytest

from vqonnx.algorithms.base import Algorithm, LayerProblem, Needs, algorithms, find_algorithm, one_by_one, register
from vqonnx.algorithms.options import options_for
from vqonnx.core.blocks import BlockSpec, CodebookBlocks, QuantizedBlocks
from vqonnx.core.weight_plan import CodebookSpec
from vqonnx.errors import OptionError
from vqonnx.kernels.blocks.errors import SecondMoment

NAMES = ["auto", "awq", "clip_search", "gptq", "hqq", "rtn", "scale_search"]
SPECS = [
    BlockSpec(bits=4, block_size=32),
    BlockSpec(bits=2, block_size=16, symmetric=True),
    BlockSpec(bits=8, block_size=-1, symmetric=True),
    CodebookSpec(book="nf4", block_size=64),
]


def test_every_algorithm_is_known_by_its_name():
    assert list(algorithms()) == NAMES
    assert all(find_algorithm(name).name == name for name in NAMES)


@pytest.mark.parametrize(
    ("alias", "name"),
    [("default", "rtn"), ("k_quant", "scale_search"), ("kquant", "scale_search"), ("clip", "clip_search")],
)
def test_peers_names_are_known_too(alias, name):
    assert find_algorithm(alias).name == name


def test_an_unknown_name_is_answered_with_near_ones():
    with pytest.raises(OptionError, match=r"algorithm 'gtpq' is not known \(did you mean 'gptq'") as caught:
        find_algorithm("gtpq")
    assert caught.value.option == "algorithm"


def test_a_name_is_given_once():
    taken = Algorithm(
        name="mine",
        aliases=("kquant",),
        summary="",
        needs=Needs.NOTHING,
        options=object,
        solve=one_by_one(lambda problem, options: None),
    )
    with pytest.raises(OptionError, match="two algorithms are called 'kquant'"):
        register(taken)
    assert "mine" not in algorithms()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_every_algorithm_solves_what_it_does_not_refuse(rng, name, spec):
    """Two weights on the same inputs, one of them a read-only transposed map."""
    algorithm, x = find_algorithm(name), rng.normal(size=(300, 64))
    weights = [rng.normal(size=(64, 40)).astype(np.float32), rng.normal(size=(24, 64)).astype(np.float16).T]
    for weight in weights:
        weight.flags.writeable = False
    moment = SecondMoment(x.T @ x)
    problems = [LayerProblem(weight=weight, spec=spec, hessian=moment) for weight in weights]
    if algorithm.refusal(spec) is not None:
        with pytest.raises(OptionError):
            list(algorithm.solve(problems, options_for(algorithm)))
        return
    solutions = list(algorithm.solve(problems, options_for(algorithm)))
    for weight, solution in zip(weights, solutions, strict=True):
        packed = solution.packed
        assert isinstance(packed, CodebookBlocks if isinstance(spec, CodebookSpec) else QuantizedBlocks)
        assert (packed.in_features, packed.out_features) == weight.shape
        stored = packed.absmax if isinstance(packed, CodebookBlocks) else packed.scales
        assert stored.dtype == weight.dtype


@pytest.mark.parametrize("name", ["gptq", "awq"])
def test_algorithms_that_need_data_say_so(rng, name):
    problem = LayerProblem(weight=rng.normal(size=(32, 4)).astype(np.float32), spec=BlockSpec())
    with pytest.raises(OptionError, match="second moments"):
        list(find_algorithm(name).solve([problem], options_for(find_algorithm(name))))


def test_refusals_say_what_to_do():
    assert "symmetric=False" in find_algorithm("hqq").refusal(BlockSpec(symmetric=True))
    assert "algorithm='rtn'" in find_algorithm("gptq").refusal(CodebookSpec())
    assert find_algorithm("rtn").refusal(CodebookSpec()) is None
