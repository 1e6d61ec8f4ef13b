"""Round weights to integers: their scales first, one weight at a time; codes follow when the model is written."""

from collections.abc import Mapping

from vqonnx.core.dynamic_plan import DynamicPlan
from vqonnx.emitters.integer_weights import RoundedRows
from vqonnx.errors import QuantRangeError
from vqonnx.kernels.row_codes import rounding_error, row_params
from vqonnx.planning.dynamic.row_weights import RowWeight
from vqonnx.progress import Progress, silent
from vqonnx.report.weights import decibels_of


def round_weights(
    plan: DynamicPlan, sources: Mapping[str, RowWeight], progress: Progress = silent
) -> tuple[dict[str, RoundedRows], dict[str, float]]:
    """Scales and zero points of every planned weight, and the SQNR in dB that rounding leaves, by key.

    Raises:
        QuantRangeError: A weight holds NaN or infinity; it is named.
    """
    rounded: dict[str, RoundedRows] = {}
    decibels: dict[str, float] = {}
    for done, weight in enumerate(plan.weights.values()):
        progress("solve", done, len(plan.weights))
        source = sources[weight.key]
        rows = source.rows()
        try:
            params = row_params(rows, weight.spec)
        except QuantRangeError as error:
            raise QuantRangeError(
                f"weight {weight.key!r} of {', '.join(weight.readers)}: {error}. Repair the model, or leave its "
                "readers float (nodes_to_exclude).",
                tensor=weight.key,
            ) from error
        decibels[weight.key] = decibels_of(rounding_error(rows, params))
        rounded[weight.key] = RoundedRows(source.rows, params, weight.channels, weight.length, weight.table)
        del rows
        source.source.release()
    progress("solve", len(plan.weights), len(plan.weights))
    return rounded, decibels
