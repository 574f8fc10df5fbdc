"""Tables that several commands print."""

from collections.abc import Sequence

from vica_jax.eval.comparison import Row


def print_rows(rows: Sequence[Row], notes: Sequence[str], only_failures: bool) -> None:
    """What was compared, how far apart it is, and a last line that counts."""
    print(f"{'case':<14} {'quantity':<32} {'max error':>10} {'tolerance':>10}")
    for row in rows:
        if row.ok and only_failures:
            continue
        limit = "-" if row.tolerance is None else f"{row.tolerance:.0e}"
        limit = "exact" if row.tolerance == 0 else limit
        error = "equal" if row.tolerance == 0 and row.ok else f"{row.error:.2e}"
        mark = "" if row.ok else "  FAIL"
        detail = f"  {row.detail}" if row.detail else ""
        name = f"{row.case:<14} {row.quantity:<32}"
        print(f"{name} {error:>10} {limit:>10}{mark}{detail}")
    bad = sum(not row.ok for row in rows)
    for note in notes:
        print(f"note: {note}")
    print(f"{len(rows)} quantities compared, {bad} past their tolerance")
