"""Auto: each weight by the best of several fast algorithms, as its own data tell.

With calibration data the best is the one of the least output error tr((W - V)^T H (W - V)). Without data the squared
error of the weight says too little to choose by. Perplexity of SmolLM2-135M at 4 bits, block 32 (float 22.4):

    =============  ====  ====  =====  ============  ====
    data-free      rtn   clip  scale  scale, f = 1  hqq
    symmetric      31.8  34.2  33.9   32.5          -
    asymmetric     30.6  29.7  28.7   29.1          29.5
    =============  ====  ====  =====  ============  ====

(f is scale search's ``favour``), although all of them have less squared error than rtn. So a spec then has one answer:
scale search where there are zero points, round to nearest where there are none.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from vqonnx.algorithms.base import Algorithm, LayerProblem, LayerSolution, Needs, WeightSpec, find_algorithm, register
from vqonnx.core.blocks import BlockSpec
from vqonnx.errors import OptionError
from vqonnx.kernels.blocks.errors import Candidate, SecondMoment, output_errors


@dataclass(frozen=True, slots=True, kw_only=True)
class AutoConfig:
    """Options of the choice.

    Attributes:
        candidates: Algorithms that are tried where there are data, each with its defaults; of equals the first wins.
            Those that refuse a weight's spec are left out.
    """

    candidates: tuple[str, ...] = ("rtn", "clip_search", "scale_search", "hqq")

    def __post_init__(self) -> None:
        if not self.candidates or "auto" in self.candidates:
            raise OptionError("candidates must name algorithms, other than 'auto'", option="candidates")
        for name in self.candidates:
            find_algorithm(name)


def data_free(spec: WeightSpec) -> str:
    """The algorithm for a weight about whose inputs nothing is known."""
    return "scale_search" if isinstance(spec, BlockSpec) and not spec.symmetric else "rtn"


def _solve(problems: Sequence[LayerProblem], config: AutoConfig) -> Iterator[LayerSolution]:
    candidates = [find_algorithm(name) for name in config.candidates]
    for problem in problems:
        if problem.hessian is None:
            yield _solved_by(find_algorithm(data_free(problem.spec)), problem)
            continue
        suitable = [algorithm for algorithm in candidates if algorithm.refusal(problem.spec) is None]
        yield _best(problem, problem.hessian, suitable or [find_algorithm("rtn")])


def _best(problem: LayerProblem, moment: SecondMoment, algorithms: Sequence[Algorithm[object]]) -> LayerSolution:
    """The solution of the least output error; at most two are in memory at a time."""
    best = _solved_by(algorithms[0], problem)
    if len(algorithms) == 1:
        return best
    least = _output_error(problem, best, moment)
    for algorithm in algorithms[1:]:
        found = _solved_by(algorithm, problem)
        error = _output_error(problem, found, moment)
        if error < least:
            best, least = found, error
    return best


def _output_error(problem: LayerProblem, found: LayerSolution, moment: SecondMoment) -> float:
    return float(output_errors(problem.weight, [Candidate(found.packed)], [moment])[0, 0])


def _solved_by(algorithm: Algorithm[object], problem: LayerProblem) -> LayerSolution:
    alone = replace(problem, scalable=False)  # layers that share inputs would have to choose alike
    (found,) = algorithm.solve([alone], algorithm.options())
    return replace(found, algorithm=algorithm.name)


register(
    Algorithm(
        name="auto",
        summary="for each weight the best of rtn, clip_search, scale_search and hqq by the error of its own output",
        needs=Needs.ENERGY,
        options=AutoConfig,
        solve=_solve,
        refusal=lambda spec: None,
    )
)
