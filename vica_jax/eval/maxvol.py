"""Rows of a matrix that span the largest volume, and frames chosen by them (MaxInfo).

The method of the public ``maxvolpy`` (``maxvol``, ``rect_maxvol``) and of MaxInfo,
which selects video frames with it, in numpy float64. LU and the triangular solve are
written out, where maxvolpy calls LAPACK: every row goes through the same sequence of
elementwise operations, so equal rows (repeated frames) tie exactly and the rule for
ties decides, not the rounding of a BLAS. That holds for the rows given; the singular
vectors that ``maxinfo`` makes them from come from LAPACK.

Deviations: a matrix of deficient rank is reduced to its numerical rank first, and no
row is taken twice where ``min_rows`` asks for rows that add nothing.
"""

from typing import Any

import numpy as np

from vica_jax.errors import InputError

__all__ = ["MaxvolError", "maxinfo", "numerical_rank", "rect_maxvol", "unit_columns"]

START_TOL = 1.05  # the square start is good enough when no entry of C passes this
START_SWAPS = 10


class MaxvolError(InputError):
    """A matrix or an option that rows cannot be chosen by."""


def rect_maxvol(
    A: Any,
    *,
    tol: float = 1.0,
    max_rows: int | None = None,
    min_rows: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows ``B`` of ``A [N, r]`` of a large volume sqrt(det(B^T B)), chosen greedily.

    Starts from r rows of a large |det| (pivots of LU, then at most 10 swaps until no
    coefficient passes 1.05), then adds the row whose coefficients C = A B^+ have the
    largest norm (the lowest number where several have) while that norm passes ``tol``.
    LU takes the first of equal pivots in its current order of rows; the largest
    coefficient to swap at is the first one column by column.

    ``max_rows`` (None: N) and ``min_rows`` (None: r) are clamped to [r, N], and
    ``min_rows`` to ``max_rows``. With N <= r all rows are returned as they stand. r is
    the numerical rank where that is below the number of columns.

    Returns:
      ``int64[r]`` the starting rows, and ``int64[K]`` all rows in the order taken,
      which begins with them.

    Raises:
      MaxvolError: not a finite real matrix, without rows or columns, of zeros only,
        or ``tol`` negative or not a number.
    """
    A = _as_matrix(A, "A")
    if not tol >= 0:
        raise MaxvolError(f"tol must be a number not below 0, got {tol}")
    count, rank = A.shape
    if count <= rank:
        return np.arange(count), np.arange(count)
    A = _full_rank(A)
    rank = A.shape[1]
    most = count if max_rows is None else min(max(max_rows, rank), count)
    least = rank if min_rows is None else min(max(min_rows, rank), most)
    rows, C = _square_maxvol(A)
    start = np.array(rows)
    free = np.ones(count, bool)
    free[rows] = False
    norms = (C * C).sum(0)
    while len(rows) < most:
        # -inf, not 0: rounding may leave the norm of a free row below 0.
        best = int(np.where(free, norms, -np.inf).argmax())
        if norms[best] <= tol * tol and len(rows) >= least:
            break
        row = C[:, best].copy()
        products = (C * row[:, None]).sum(0)
        gain = 1 / (1 + products[best])
        C -= row[:, None] * (gain * products)
        C = np.concatenate([C, (gain * products)[None]])
        norms -= gain * products * products
        free[best] = False
        rows.append(best)
    return start, np.array(rows)


def _square_maxvol(A: np.ndarray) -> tuple[list[int], np.ndarray]:
    """r rows of a large |det|, and C = A A[rows]^-1, transposed: ``float64[r, N]``."""
    count, rank = A.shape
    lower, order = A.copy(), np.arange(count)
    for step in range(rank):
        pivot = step + int(np.abs(lower[step:, step]).argmax())
        lower[[step, pivot]], order[[step, pivot]] = (
            lower[[pivot, step]],
            order[[pivot, step]],
        )
        if lower[step, step]:  # 0 where the rank is in doubt: then any row will do
            lower[step + 1 :, step] /= lower[step, step]
        lower[step + 1 :, step + 1 :] -= (
            lower[step + 1 :, step, None] * lower[step, None, step + 1 :]
        )
    # A[order] = L U, so C[order] = L L[:r]^-1: U cancels.
    solved = np.tril(lower)
    solved[np.arange(rank), np.arange(rank)] = 1
    top = solved[:rank].copy()
    for column in reversed(range(rank)):
        for later in range(column + 1, rank):
            solved[:, column] -= solved[:, later] * top[later, column]
    C = np.empty((rank, count))
    C[:, order] = solved.T
    rows = order[:rank].tolist()
    for _ in range(START_SWAPS):
        place, row = divmod(int(np.abs(C).argmax()), count)
        if abs(C[place, row]) <= START_TOL:
            break
        rows[place] = row
        change = C[:, row].copy()
        change[place] -= 1
        C -= change[:, None] * (C[place] / C[place, row])
    return rows, C


def maxinfo(
    embeddings: Any, *, rank: int = 8, tol: float = 0.3, max_frames: int
) -> np.ndarray:
    """Frames whose embeddings ``[n, d]`` span the most: MaxInfo.

    ``rect_maxvol`` on A = U Sigma of the truncated singular value decomposition of the
    embeddings, which are neither centred nor normalised. ``rank`` is lowered to the
    numerical rank and to ``max_frames``, so that no more are ever returned. With n <=
    ``max_frames`` nothing is selected: all are returned.

    Returns:
      Sorted places ``int64[<= max_frames]`` among the n.

    Raises:
      MaxvolError: as ``rect_maxvol``, or ``rank`` or ``max_frames`` below 1.
    """
    for name, value in (("rank", rank), ("max_frames", max_frames)):
        if value < 1:
            raise MaxvolError(f"{name} must be at least 1, got {value}")
    Q = _as_matrix(embeddings, "the embeddings")
    if len(Q) <= max_frames:
        return np.arange(len(Q))
    U, sigma, _ = np.linalg.svd(Q, full_matrices=False)
    rank = min(rank, max_frames, _rank_of(sigma, Q.shape))
    if not rank:
        raise MaxvolError("the embeddings are zeros only")
    _, rows = rect_maxvol(U[:, :rank] * sigma[:rank], tol=tol, max_rows=max_frames)
    return np.sort(rows)


def unit_columns(A: Any) -> np.ndarray:
    """A with columns of norm 1 (zero columns stay): U, where A is U Sigma."""
    A = _as_matrix(A, "A")
    norms = np.linalg.norm(A, axis=0)
    return A / np.where(norms > 0, norms, 1)


def numerical_rank(A: Any) -> int:
    """Singular values above the largest times max(A.shape) times float64's epsilon."""
    A = _as_matrix(A, "A")
    return _rank_of(np.linalg.svd(A, compute_uv=False), A.shape)


def _full_rank(A: np.ndarray) -> np.ndarray:
    """A itself, or U Sigma of its numerical rank where that is lower."""
    rank = numerical_rank(A)
    if rank == A.shape[1]:
        return A
    if not rank:
        raise MaxvolError("a matrix of zeros: its rows span nothing")
    U, sigma, _ = np.linalg.svd(A, full_matrices=False)
    return U[:, :rank] * sigma[:rank]


def _rank_of(sigma: np.ndarray, shape: tuple[int, ...]) -> int:
    smallest = sigma.max() * max(shape) * np.finfo(np.float64).eps
    return int((sigma > smallest).sum())


def _as_matrix(values: Any, name: str) -> np.ndarray:
    """A finite matrix ``float64[N, r]`` of at least one row and column."""
    try:
        matrix = np.asarray(values)
        if np.iscomplexobj(matrix):
            raise TypeError
        matrix = matrix.astype(np.float64)
    except (TypeError, ValueError):
        raise MaxvolError(f"{name} must be a matrix of real numbers") from None
    if matrix.ndim != 2 or not matrix.size:
        raise MaxvolError(
            f"{name} must be a matrix of at least one row and column, got shape "
            f"{matrix.shape}"
        )
    if not np.isfinite(matrix).all():
        wrong = int((~np.isfinite(matrix)).any(1).sum())
        raise MaxvolError(f"{name}: {wrong} of {len(matrix)} rows are not finite")
    return matrix
