"""Cholesky factors of large symmetric matrices, semidefinite ones too, and inverses of triangular ones.

In blocks, so that nearly all of the work is in matrix products, which are faster than LAPACK's factorization in
OpenBLAS and can be spread over the cores. The edges of blocks are fixed, and each product is one thread's work: the
result is the same for any number of threads.
"""

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from vqonnx.kernels.blas import one_blas_thread
from vqonnx.kernels.parallel import in_parallel

F64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

_BLOCK = 128


def cholesky(matrix: F64, tolerance: float, *, threads: int | None = None) -> tuple[F64, Bool]:
    """The lower triangular L with L L^T = ``matrix``, but for features that those before determine.

    Where what the features before leave of the diagonal is at most ``tolerance`` times the diagonal, a feature's column
    of L is 0. What is left of a semidefinite matrix there is 0 too, so that nothing but rounding is lost.

    Args:
        matrix: [K, K], symmetric; only its lower triangle is read.
        tolerance: A share: more than the rounding of the matrix.
        threads: Threads to use, one a processor if None; the result does not depend on it.

    Returns:
        L [K, K], and which features were left out, [K].
    """
    from vqonnx.kernels.blocks.cholesky_loops import factor

    lower, dependent = np.zeros(matrix.shape), np.zeros(len(matrix), np.bool_)
    least = tolerance * np.diagonal(matrix)
    with one_blas_thread():
        for start, stop in pairwise(_edges(len(matrix))):
            corner = _rest(matrix, lower, (start, stop), (start, stop))
            factor(corner, least[start:stop], dependent[start:stop])
            lower[start:stop, start:stop] = corner
            _fill_below(matrix, lower, (start, stop), dependent[start:stop], threads)
    return lower, dependent


def _edges(size: int) -> list[int]:
    return [*range(0, size, _BLOCK), size]


def _rest(matrix: F64, lower: F64, rows: tuple[int, int], columns: tuple[int, int]) -> F64:
    """A block of the matrix less what the features before ``columns`` give it."""
    (top, bottom), (left, right) = rows, columns
    rest: F64 = matrix[top:bottom, left:right] - lower[top:bottom, :left] @ lower[left:right, :left].T
    return rest


def _fill_below(matrix: F64, lower: F64, columns: tuple[int, int], dependent: Bool, threads: int | None) -> None:
    """The rows of L below the diagonal block of ``columns``."""
    left, right = columns
    solvable = lower[left:right, left:right] + np.diag(dependent.astype(np.float64))
    back = np.tril(np.linalg.inv(solvable)).T
    back[:, dependent] = 0.0
    edges = [right + edge for edge in _edges(len(lower) - right)]

    def panels(first: int, last: int) -> None:
        for top, bottom in pairwise(edges[first : last + 1]):
            lower[top:bottom, left:right] = _rest(matrix, lower, (top, bottom), columns) @ back

    in_parallel(panels, len(edges) - 1, threads=threads)


def inverse_of_upper(matrix: F64, *, threads: int | None = None) -> F64:
    """The inverse of an upper triangular matrix [K, K] without 0 on its diagonal.

    Args:
        matrix: Only its upper triangle is read.
        threads: Threads to use, one a processor if None; the result does not depend on it.
    """
    edges = _edges(len(matrix))
    blocks = list(pairwise(edges))
    inverse = np.zeros_like(matrix)

    def panels(first: int, last: int) -> None:
        for left, right in blocks[::-1][first:last]:  # the longest first
            inverse[left:right, left:right] = corners[left]
            for top, bottom in reversed(blocks[: left // _BLOCK]):
                known = matrix[top:bottom, bottom:right] @ inverse[bottom:right, left:right]
                inverse[top:bottom, left:right] = -corners[top] @ known

    with one_blas_thread():
        corners = {left: np.triu(np.linalg.inv(np.triu(matrix[left:right, left:right]))) for left, right in blocks}
        in_parallel(panels, len(blocks), threads=threads)
    return inverse
