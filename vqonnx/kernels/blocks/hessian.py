"""The second moment of a layer's inputs, H = sum x x^T, and what follows from it.

For a layer y = x W the squared output error of a changed weight, summed over all inputs seen, is
``tr((W - V)^T H (W - V))``. So H [K, K] is all that GPTQ and AWQ need to know of any number of samples.
"""

import numpy as np
import numpy.typing as npt

from vqonnx.errors import OptionError
from vqonnx.kernels.blas import one_blas_thread, over_columns
from vqonnx.kernels.blocks.cholesky import cholesky, inverse_of_upper

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
FloatArray = npt.NDArray[np.floating]

_PANEL = 256  # columns of H that one thread computes
_CHUNK = 4096  # rows of x whose products are summed in single precision


def accumulate(hessian: F64, x: FloatArray, *, threads: int | None = None) -> None:
    """Add sum x x^T to ``hessian`` in place; the same bits for any number of threads.

    Products of at most 4096 rows are summed in float32, the sums in float64, in the order of the calls.

    Args:
        hessian: float64 [K, K].
        x: Inputs [.., K], any float type; all leading axes count as samples.
        threads: Threads to use; as many as there are processors if None.

    Raises:
        OptionError: ``x`` has another number of features, or holds NaN or infinity.
    """
    k = hessian.shape[0]
    if x.shape[-1:] != (k,):
        raise OptionError(f"inputs of shape {x.shape} do not end in the Hessian's {k} features", option="x")
    rows = np.ascontiguousarray(x, np.float32).reshape(-1, k)
    if not np.isfinite(rows).all():
        raise OptionError("the inputs hold NaN or infinite values", option="x")

    def panel(left: int, right: int) -> None:
        for start in range(0, rows.shape[0], _CHUNK):
            part = rows[start : start + _CHUNK]
            product = part[:, left:].T @ part[:, left:right]
            corner = np.tril(product[: right - left])  # BLAS may round its two halves differently
            product[: right - left] = corner + np.tril(corner, -1).T
            hessian[left:, left:right] += product
            hessian[left:right, right:] += product[right - left :].T

    with one_blas_thread():
        over_columns(panel, k, tile=_PANEL, threads=threads)


def output_error(weight: FloatArray, other: FloatArray, hessian: FloatArray, *, threads: int | None = None) -> float:
    """Squared output error of ``other`` in place of ``weight``: tr((W - V)^T H (W - V)).

    Args:
        weight: [K, N].
        other: [K, N].
        hessian: [K, K], the sum (or mean) of x x^T; in float32 the product is too, at half the time.
        threads: Threads to use; as many as there are processors if None.
    """
    columns = column_errors(weight, other, hessian, threads=threads)
    return float(columns.sum())


def column_errors(weight: FloatArray, other: FloatArray, hessian: FloatArray, *, threads: int | None = None) -> F64:
    """Squared output error of each column, [N]; see ``output_error``."""
    errors = np.empty(weight.shape[1])

    def tile(left: int, right: int) -> None:
        change = (weight[:, left:right].astype(np.float64) - other[:, left:right]).astype(hessian.dtype)
        errors[left:right] = np.einsum("kn,kn->n", change, hessian @ change, dtype=np.float64)

    with one_blas_thread():
        over_columns(tile, weight.shape[1], threads=threads)
    return errors


def checked_hessian(hessian: FloatArray, k: int) -> F64:
    """``hessian`` in double precision.

    Raises:
        OptionError: It is not [K, K], holds NaN or infinity, or has a negative diagonal.
    """
    moment = np.asarray(hessian, np.float64)
    if moment.shape != (k, k):
        raise OptionError(f"the Hessian of {k} inputs must have shape {(k, k)}, got {moment.shape}", option="hessian")
    if not np.isfinite(moment).all() or (np.diagonal(moment) < 0).any():
        raise OptionError("the Hessian must be finite and its diagonal not negative", option="hessian")
    return moment


def damped(hessian: F64, damping: float) -> F64:
    """H + damping * mean(diag H) * I; a copy. Inputs that were always 0 get a diagonal of 1, so they stand alone."""
    moment = hessian.copy()
    diagonal = np.einsum("kk->k", moment)
    dead = diagonal == 0
    diagonal += damping * diagonal.mean()
    diagonal[dead] = 1.0
    return moment


def inverse_factor(hessian: F64) -> F64:
    """The upper triangular U with U^T U = H^-1 (GPTQ's ``Cholesky(H^-1)^T``), without inverting H.

    With R R^T = H, R upper triangular, U is R^-1; and R is the Cholesky factor of H with rows and columns reversed.

    Raises:
        OptionError: H is not positive definite.
    """
    lower, dependent = cholesky(hessian[::-1, ::-1], 0.0)
    if dependent.any():
        raise OptionError(
            "the Hessian is not positive definite; raise damping (0.01 to 0.1 is usual)", option="damping"
        )
    return inverse_of_upper(lower[::-1, ::-1])
