"""A row of the results: its columns and its values."""

UNKNOWN = "unknown"


def columns_of(top, timed=False):
    """Returns the column names of a table with top labels in a row; timed: it is of a video or a camera."""
    more = [f"{name}_{rank}" for rank in range(2, top + 1) for name in ("label", "confidence")]
    return ["file", "label", "confidence", "error"] + more + (["time_s"] if timed else [])


def is_unknown(label):
    """Whether the name of a class reads like the answer UNKNOWN."""
    return label.strip().casefold() == UNKNOWN


def row_of(prediction, top, threshold=None, timed=False):
    """Returns the values of a row, in the order of columns_of(top, timed).

    Args:
        prediction: edge_runtime.classifier.Prediction.
        top: how many labels.
        threshold: as for Prediction.answer: below this confidence (0 to 1) the label is UNKNOWN; None: never.
        timed: it is a frame of a video or a camera, and its time in seconds comes last.

    Returns:
        a list. An unreadable photo's confidences are None: an empty cell in a table, null in JSON.
    """
    time = [round(prediction.item.time_s, 3)] if timed else []
    if prediction.error:
        return [prediction.name, "", None, prediction.error] + ["", None] * (top - 1) + time
    cells = [cell for label, confidence in prediction.top(top) for cell in (label, round(confidence, 6))]
    return [prediction.name, prediction.answer(threshold), cells[1], ""] + cells[2:] + time
