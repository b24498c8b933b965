"""Where an engine is accepted or refused, by how it answered beside the original (edge_runtime.gate.compare)."""

from edge_runtime.errors import ParityError
from edge_runtime.gate.compare import format_table
from edge_runtime.text import printable


def require_agreement(engine_name, parity, min_agreement):
    """Raises ParityError when the engine answered NaN or infinity, or too few photos get the original's label."""
    if parity.non_finite:
        raise refusal(engine_name, f"{parity.non_finite} of its probabilities are NaN or infinite", parity)
    if parity.top1_agreement < min_agreement:
        share = f"{100 * parity.top1_agreement:.2f} % of {parity.photos} photos"
        reason = f"same label as the original for {share}, {100 * min_agreement:.2f} % are needed (--min-agreement)"
        raise refusal(engine_name, reason, parity)


def refusal(engine_name, reason, parity):
    """Returns the ParityError to raise for an engine that is refused, with all figures."""
    worst = ", ".join(map(printable, parity.worst_photos))
    table = format_table(engine_name, parity)
    return ParityError(f"{engine_name} is refused and was not kept: {reason}.\n{table}\nMost different: {worst}")
