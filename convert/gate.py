"""The gate: where an engine is accepted or refused, by how it answered beside the original (convert.parity)."""

from convert.parity import format_table
from edge_runtime.errors import ParityError
from edge_runtime.text import printable

MAX_F1_DROP = 0.005  # of macro-F1, 0..1


def require_agreement(engine_name, parity, min_agreement):
    """Raises ParityError when the engine answered NaN or infinity, or too few photos get the original's label."""
    reason = ""
    if parity.non_finite:
        reason = f"{parity.non_finite} of its probabilities are NaN or infinite"
    elif parity.top1_agreement < min_agreement:
        share = f"{100 * parity.top1_agreement:.2f} % of {parity.photos} photos"
        reason = f"same label as the original for {share}, {100 * min_agreement:.2f} % are needed (--min-agreement)"
    if reason:
        raise ParityError(_refusal(engine_name, reason, parity))


def require_macro_f1(engine_name, parity):
    """Raises ParityError when the engine's macro-F1 on the labelled photos is too far below the original's."""
    if parity.labelled["macro_f1_drop"] > MAX_F1_DROP:
        drop = 100 * parity.labelled["macro_f1_drop"]
        reason = f"macro-F1 is {drop:.2f} points below the original's, {100 * MAX_F1_DROP:.1f} are allowed"
        raise ParityError(_refusal(engine_name, reason, parity))


def _refusal(engine_name, reason, parity):
    worst = ", ".join(map(printable, parity.worst_photos))
    table = format_table(engine_name, parity)
    return f"{engine_name} is refused and was not kept: {reason}.\n{table}\nMost different: {worst}"
