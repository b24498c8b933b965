"""A row of the results: its columns and values."""

UNKNOWN = "unknown"


def columns_of(top, timed=False):
    """Returns the columns of a result table with the top best labels; timed: of a video or a camera."""
    more = [f"{name}_{rank}" for rank in range(2, top + 1) for name in ("label", "confidence")]
    return ["file", "label", "confidence", "error"] + more + (["time_s"] if timed else [])


def is_unknown(label):
    """Whether the name of a class reads like UNKNOWN, so that one cannot be told from the other."""
    return label.strip().casefold() == UNKNOWN


def row_of(prediction, top, threshold=None):
    """Returns the values of a Prediction's row, in the order of columns_of(top).

    An unreadable photo's numbers are None: an empty cell in a table, null in JSON.
    """
    if prediction.error:
        return [prediction.name, "", None, prediction.error] + ["", None] * (top - 1)
    best = prediction.top(top)
    cells = [cell for label, confidence in best for cell in (label, round(confidence, 6))]
    if threshold is not None and best[0][1] < threshold:
        cells[0] = UNKNOWN
    return [prediction.name] + cells[:2] + [""] + cells[2:]
