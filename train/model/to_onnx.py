"""TensorFlow graphs as ONNX, in little memory and without tf2onnx's messages."""

import contextlib
import gc
import logging
import threading

from edge_runtime.machine.libraries import require

OPSET = 13  # the newest that TensorRT 8.2 on the Jetson TX2 supports


def to_onnx(graph_def, source, target):
    """Converts a frozen graph. tf2onnx folds the batch norms into the convolutions; a transpose stays at the input.

    Args:
        graph_def: TensorFlow's GraphDef, without variables.
        source, target: names of the tensors that go in and come out, such as "images:0".

    Returns:
        onnx.ModelProto of opset OPSET with one input and one output of the same names.

    Raises:
        what tf2onnx raises, mostly ValueError, where there is no ONNX operator for one of TensorFlow's.
    """
    tf2onnx = quiet_tf2onnx()
    with frequent_garbage_collection():
        model, _ = tf2onnx.convert.from_graph_def(graph_def, input_names=[source], output_names=[target], opset=OPSET)
    return model


def quiet_tf2onnx():
    """Returns the module tf2onnx, which then logs errors only."""
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    return require("tf2onnx")


@contextlib.contextmanager
def frequent_garbage_collection():
    """Collects garbage every half second within the block.

    Each pass of tf2onnx leaves a copy of the graph, weights included, in reference cycles. Python collects these too
    rarely for copies of 90 MB: memory would rise from 1.6 to 7.3 GiB (with this, to 3.2). The half a million objects
    from before the block are frozen: looking through them each time took longer than tf2onnx itself.
    """
    stopped = threading.Event()

    def collect():
        while not stopped.wait(0.5):
            gc.collect()

    thread = threading.Thread(target=collect, daemon=True)
    if hasattr(gc, "freeze"):  # not in Python 3.6
        gc.freeze()
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        if hasattr(gc, "freeze"):
            gc.unfreeze()
