"""TF-TRT: the bundle's frozen saved_model through TrtGraphConverterV2, its engines built for the batches it will run.

Not yet run on hardware: it is written from the converter's source in TensorFlow 2.6 to 2.17.
"""

import collections
import os
import typing

import numpy as np

from convert.child import run_in_child
from edge_runtime.console import say
from edge_runtime.engines import tf_trt
from edge_runtime.engines.record import engine_name
from edge_runtime.errors import BundleError, MissingRequirement
from edge_runtime.machine.libraries import require

SOURCE = "saved_model"
PRECISIONS = ("fp16", "fp32")
_WORKSPACE_MIB = 512  # a Jetson's GPU shares the board's memory, and TensorFlow's own default takes 1 GiB or all of it
_NO_COMPUTATION = {"Const", "Placeholder", "Identity", "NoOp", "_Arg", "_Retval", "TRTEngineOp"}


class Coverage(typing.NamedTuple):
    """How much of a graph runs in TensorRT."""

    segments: typing.List[str]  # names of the TRTEngineOps
    ops_in_engines: int
    ops: int  # all that compute: without inputs, outputs and constants


def check(precision):
    """Raises MissingRequirement: TensorFlow, its TensorRT or a GPU is missing. Checked in a process of its own."""
    run_in_child(engine_name("tf-trt", precision), tf_trt.local_facts)


def build(bundle, settings, folder):
    """Writes the engine's SavedModel, with its TensorRT engines as assets, into folder; in a process of its own.

    Returns:
        facts for engine.json: libraries, gpu, segments, ops_in_engines, ops, batches.

    Raises:
        MissingRequirement: TensorFlow, its TensorRT, a GPU or memory is missing.
        BundleError: the bundle has no saved_model.
        ChildError: the converter failed.
    """
    source = bundle.checked("saved_model")
    target = os.path.join(folder, tf_trt.SAVED_MODEL)
    workspace_mib = settings.workspace_mib or _WORKSPACE_MIB
    name = engine_name("tf-trt", settings.precision, settings.max_batch)
    shape = bundle.input_spec.shape
    facts = run_in_child(name, convert, source, target, settings.precision, settings.max_batch, workspace_mib, shape)
    segments = "1 segment" if len(facts["segments"]) == 1 else f"{len(facts['segments'])} segments"
    batches = " and ".join(map(str, facts["batches"]))
    share = f"{facts['ops_in_engines']} of {facts['ops']} operations"
    say(f"{name}: {share} run in TensorRT, in {segments}, for batches of {batches}")
    return facts


def convert(source, target, precision, max_batch, workspace_mib, input_shape):
    """Converts a frozen SavedModel and builds its engines.

    Args:
        source, target: SavedModel folders.
        precision: one of PRECISIONS.
        max_batch: engines are built for 1 and for this; smaller batches run in the smallest that fits.
        workspace_mib: memory that TensorRT may use on the GPU beside the weights.
        input_shape: (height, width, 3) of a picture.

    Returns:
        facts for engine.json: libraries, gpu, segments, ops_in_engines, ops, batches.

    Raises:
        MissingRequirement: TensorFlow, its TensorRT or a GPU is missing, or an engine could not be built.
        BundleError: there is no source.
    """
    versions = tf_trt.probe()
    tf_trt.require_tensorrt(versions)
    gpu = tf_trt.require_gpu()
    if not os.path.isdir(source):
        raise BundleError(f"{source}: is missing, which TF-TRT converts; make the bundle again")
    slow = tf_trt.slow_protobuf()
    if slow:
        say("warning: " + slow)
    batches = sorted({1, max_batch})
    module = require("tensorflow.python.compiler.tensorrt.trt_convert")
    # conversion_params alone is what TensorFlow 2.6 to 2.17 all take.
    converter = module.TrtGraphConverterV2(
        input_saved_model_dir=source,
        conversion_params=_parameters(module, versions.tensorflow, precision, len(batches), workspace_mib),
    )
    converted = converter.convert()
    coverage = cover(converted.graph.as_graph_def())
    if not coverage.segments:
        raise MissingRequirement(
            f"TF-TRT put none of the {coverage.ops} operations into TensorRT: its messages are above; use --to tensorrt"
        )
    # Smallest first: a batch that a built engine can hold builds none of its own.
    converter.build(input_fn=lambda: ((np.full((batch, *input_shape), 128, np.uint8),) for batch in batches))
    converter.save(target)
    for segment in coverage.segments:
        _check_engines(target, segment, len(batches))
    return dict(coverage._asdict(), libraries=tf_trt.libraries(versions), gpu=gpu, batches=batches)


def cover(graph_def):
    """Returns the Coverage of a converted GraphDef."""
    functions = {function.signature.name: function.node_def for function in graph_def.library.function}
    nodes = collections.deque(graph_def.node)
    segments, inside, outside = [], 0, 0
    while nodes:
        node = nodes.popleft()
        if node.op == "TRTEngineOp":
            segments.append(node.name)
            inside += _count(functions.get(node.attr["segment_func"].func.name, ()))
        elif node.op in ("PartitionedCall", "StatefulPartitionedCall"):
            nodes.extend(functions.get(node.attr["f"].func.name, ()))
        else:
            outside += _count([node])
    return Coverage(segments, inside, inside + outside)


def _count(nodes):
    return sum(node.op not in _NO_COMPUTATION for node in nodes)


def _parameters(module, tensorflow, precision, engine_count, workspace_mib):
    # With False TensorFlow 2.6 builds nothing in build(); later versions set it in save(). As there is an engine for
    # the largest batch, 2.6 has nothing to build at run time either.
    late = tuple(int(part) for part in tensorflow.split(".")[:2]) < (2, 7)
    return module.DEFAULT_TRT_CONVERSION_PARAMS._replace(
        precision_mode=precision.upper(),
        max_workspace_size_bytes=workspace_mib << 20,
        maximum_cached_engines=engine_count,
        use_calibration=False,
        allow_build_at_runtime=late,
    )


def _check_engines(saved_model, segment, expected):
    """Raises MissingRequirement when some of a segment's engines are missing.

    TensorFlow writes a record for each engine that it could build, and ignores the others.
    """
    path = os.path.join(saved_model, "assets", "trt-serialized-engine." + segment.split("/")[-1])
    built = 0
    if os.path.exists(path):
        tensorflow = require("tensorflow")
        built = sum(1 for _ in tensorflow.data.TFRecordDataset(path))
    if built != expected:
        raise MissingRequirement(
            f"TF-TRT built {built} of {expected} engines of {segment}: TensorRT's messages are above. Most often "
            "there is not enough memory: stop other programs, or try --max-batch 1, or another --workspace-mib"
        )
