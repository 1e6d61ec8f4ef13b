from dataclasses import dataclass

import numpy as np
import pytest

from vqonnx.algorithms.auto import AutoConfig
from vqonnx.algorithms.base import Algorithm, Needs, find_algorithm, one_by_one
from vqonnx.algorithms.gptq import GptqConfig, Grid
from vqonnx.algorithms.options import options_for
from vqonnx.algorithms.rtn import RtnConfig
from vqonnx.errors import OptionError


def given(name, **options):
    return options_for(find_algorithm(name), options)


def test_nothing_given_are_the_defaults():
    assert options_for(find_algorithm("gptq")) == options_for(find_algorithm("gptq"), {}) == GptqConfig()


def test_finished_options_are_taken_as_they_are():
    config = GptqConfig(damping=0.1)
    assert options_for(find_algorithm("gptq"), config) is config


def test_values_become_what_the_options_hold():
    assert given("gptq", damping=np.float32(0.5), grid="min-max") == GptqConfig(damping=0.5, grid=Grid.MIN_MAX)
    assert given("gptq", grid=Grid.MIN_MAX).grid is Grid.MIN_MAX
    assert given("rtn", mse_search=np.True_, quantile=1) == RtnConfig(mse_search=True)
    assert type(given("rtn", quantile=1).quantile) is float
    assert given("auto", candidates=["rtn", "hqq"]) == AutoConfig(candidates=("rtn", "hqq"))


@pytest.mark.parametrize(
    ("name", "option", "value", "text"),
    [
        ("gptq", "damping", "0.1", "takes a number, got '0.1'"),
        ("gptq", "grid", "minmax", "takes one of 'min-max', 'search', got 'minmax'"),
        ("gptq", "static_grids", 1, "takes True or False, got 1"),
        ("rtn", "quantile", True, "takes a number, got True"),
        ("rtn", "double_quant_group_size", 2.5, "takes a whole number, got 2.5"),
        ("auto", "candidates", "rtn", "takes several, each a text, got 'rtn'"),
        ("auto", "candidates", [1], "takes several, each a text"),
        ("auto", "candidates", ["rnt"], r"algorithm 'rnt' is not known \(did you mean 'rtn'"),
        ("auto", "candidates", ["auto"], "other than 'auto'"),
        ("rtn", "group_dim", 0, "along the inputs"),
        ("gptq", "damping", 2, r"must lie in \(0, 1\), got 2.0"),
        ("gptq", "dampening", 0.1, r"no option 'dampening' \(did you mean 'damping'\?\); it has damping"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(name, option, value, text):
    with pytest.raises(OptionError, match=text):
        given(name, **{option: value})


def test_options_of_another_algorithm_are_refused():
    with pytest.raises(OptionError, match="the options of algorithm 'gptq' are a dictionary or GptqConfig, got RtnCon"):
        options_for(find_algorithm("gptq"), RtnConfig())


def test_an_optional_number_may_be_none_but_not_a_text():
    @dataclass(frozen=True)
    class Options:
        count: int | None = 3

    algorithm = Algorithm(
        name="x", summary="", needs=Needs.NOTHING, options=Options, solve=one_by_one(lambda problem, options: None)
    )
    assert options_for(algorithm, {"count": None}).count is None
    assert options_for(algorithm, {"count": 5}).count == 5
    with pytest.raises(OptionError, match="takes a whole number or None, got 'x'"):
        options_for(algorithm, {"count": "x"})
