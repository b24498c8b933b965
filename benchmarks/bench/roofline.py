"""The share of the hardware's peak that each engine reaches: a roofline (Williams et al., CACM 52(4), 2009).

The work of one photo is counted in the bundle's ONNX graph, the machine's two limits (arithmetic, memory) are measured
in the same run, and an engine's images/s are compared with the lower of them.
"""

import concurrent.futures
import time
import typing

import numpy as np

from convert.child import run_in_child
from edge_runtime.bundle.manifest import INPUT_NAME, OUTPUT_NAME
from edge_runtime.errors import BundleError, MissingRequirement
from edge_runtime.machine import cpu, libraries
from edge_runtime.machine.libraries import require
from edge_runtime.machine.memory import memory_available_bytes

VALUE_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1}
CPU_KINDS = ("onnxruntime", "openvino", "tensorflow")
_SIDE = 2048  # of the square matrices: 17 GFLOP, and 16 MiB each in float32
_COPY_BYTES = 256 << 20  # more than any cache that these cores have to themselves
_MULTIPLY = ("Conv", "ConvTranspose", "MatMul", "Gemm")
_POOL = ("MaxPool", "AveragePool", "GlobalAveragePool")


def count_work(model):
    """Counts the work of one photo in a bundle's model.onnx.

    Counted are convolutions and matrix products, two FLOP (a multiplication and an addition) per multiply-accumulate.
    Pools, activations, sums with a bias and the softmax are left out: they are hardly 1 % of InceptionV3's work, and
    mostly computed along with a convolution. Its published 5.7 GMAC at 299 x 299 are counted in the same way.

    Args:
        model: name of an .onnx file.

    Returns:
        {"macs_per_image", "flops_per_image", "weight_values", "activation_values_per_image" (outputs of convolutions,
        products and pools), "input_bytes_per_image"}: ints.

    Raises:
        MissingRequirement: onnx is not installed, or ONNX Runtime, which runs networks whose shapes are not written
            down. BundleError: the file is no model, or one that takes pictures of several sizes.
    """
    onnx = require("onnx")
    try:
        loaded = onnx.load(model)
        del loaded.graph.value_info[:]  # of any number of photos
        for value in list(loaded.graph.input) + list(loaded.graph.output):
            if value.name in (INPUT_NAME, OUTPUT_NAME):
                value.type.tensor_type.shape.dim[0].dim_value = 1
        graph = onnx.shape_inference.infer_shapes(loaded, data_prop=True).graph
    except Exception as error:  # protobuf's DecodeError, onnx's InferenceError, OSError, ...
        raise BundleError(f"{model}: cannot be read as an ONNX model ({error})")
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    weights = set(shapes)  # and what depends on nothing else: constants, weights in another type or order
    for value in list(graph.input) + list(graph.value_info) + list(graph.output):
        shapes.setdefault(value.name, [dim.dim_value for dim in value.type.tensor_type.shape.dim])
    counted = []
    for node in graph.node:
        if weights.issuperset(filter(None, node.input)):
            weights.update(node.output)
        elif node.op_type in _MULTIPLY + _POOL:
            counted.append(node)
    needed = {name for node in counted for name in list(node.input[:2]) + [node.output[0]]}
    unknown = sorted(name for name in needed if not all(shapes.get(name) or [0]))
    if unknown:
        shapes.update(_shapes_of_a_run(model, loaded, unknown))
    macs = weight_values = activations = 0
    for node in counted:
        outputs = _product(shapes[node.output[0]])
        activations += outputs
        if node.op_type in _MULTIPLY:
            macs += _macs(node, shapes)
            weight_values += sum(_product(shapes[name]) for name in node.input if name in weights)
    return {
        "macs_per_image": macs,
        "flops_per_image": 2 * macs,
        "weight_values": weight_values,
        "activation_values_per_image": activations,
        "input_bytes_per_image": _product(shapes[INPUT_NAME]),
    }


def measure_peaks(seconds=1.0, copy_bytes=_COPY_BYTES, side=_SIDE):
    """Returns the peaks (see measure_peaks_here), measured in a process of its own.

    With numpy's and OpenVINO's threads in one process a later Ctrl-C crashed it (OpenVINO 2026.4 and numpy 2.4; the
    cause is unknown).

    Raises:
        convert.child.ChildError, MissingRequirement: the process failed.
    """
    return run_in_child("the measurement of this machine's peaks", measure_peaks_here, seconds, copy_bytes, side)


def measure_peaks_here(seconds, copy_bytes, side):
    """Measures the peak speed of all this machine's cores together, and of its memory. The best of many tries counts.

    Arithmetic is the product of two square matrices: in float32 by numpy's BLAS, and where OpenVINO is installed by it
    in float32, in bfloat16 if the CPU has it, and in int8 (operands quantized as in a quantized network). A BLAS
    library that does not know a CPU uses an older one's instructions and reaches half of its peak, so that the better
    of both is the roof. Memory is a copy between two large arrays, read and written bytes counted.

    Args:
        seconds: for each measurement, about.
        copy_bytes: size of one array, at most an eighth of the free memory.
        side: of the matrices.

    Returns:
        flat dict: threads, copy_bytes_per_s, numpy_fp32_flops_per_s, numpy_blas, and openvino_version,
        openvino_fp32_flops_per_s, openvino_bf16_flops_per_s, openvino_int8_flops_per_s as far as they can be measured.
    """
    random = np.random.RandomState(0)
    left, right = (random.rand(side, side).astype(np.float32) for _ in range(2))
    product = np.empty_like(left)
    flops = 2 * side**3
    peaks: typing.Dict[str, typing.Any] = {
        "threads": cpu.core_count(),
        "copy_bytes_per_s": _copy_rate(seconds, copy_bytes),
        "numpy_fp32_flops_per_s": flops / _best_s(lambda: np.dot(left, right, product), seconds),
        "numpy_blas": _blas(),
    }
    try:
        openvino = require("openvino")
    except MissingRequirement:
        return peaks
    peaks["openvino_version"] = libraries.library_version("openvino")
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for precision in ("fp32", "bf16", "int8"):
        if precision != "bf16" or "BF16" in capabilities:
            request = _openvino_product(openvino, right, precision)
            took_s = _best_s(lambda request=request: request.infer([left], share_inputs=True), seconds)
            peaks[f"openvino_{precision}_flops_per_s"] = flops / took_s
    return peaks


def place(work, peaks, kind, precision, batch, images_per_s):
    """Compares an engine's speed with the roof.

    The bytes are a lower bound for a machine that keeps nothing between layers: weights are read once per batch; the
    outputs of convolutions, products and pools are written once and read once; all else costs no memory traffic. With
    caches it can be less (and with Winograd's convolutions fewer FLOP), so that an engine can exceed the roof.

    Args:
        work: of count_work.
        peaks: of measure_peaks, from the same run.
        kind, precision: of the engine, such as "openvino", "bf16".
        batch: photos per call.
        images_per_s: of the model alone, as measured.

    Returns:
        {"skipped": why} for an engine that this roof does not apply to, or a flat dict: flops_per_image,
        bytes_per_image, flops_per_byte (arithmetic intensity), flops_per_s (reached), peak_flops_per_s,
        peak_measured_by, fraction_of_peak, compute_roof_images_per_s, memory_roof_images_per_s, bound ("compute" or
        "memory", the lower roof), fraction_of_roof.
    """
    if kind not in CPU_KINDS:
        return {"skipped": f"{kind} does not run on the CPU, whose limits were measured"}
    measured = {
        library: peaks[f"{library}_{precision}_flops_per_s"]
        for library in ("numpy", "openvino")
        if f"{library}_{precision}_flops_per_s" in peaks
    }
    if not measured:
        return {"skipped": f"the peak of this CPU in {precision} was not measured; it needs OpenVINO"}
    best = max(measured, key=lambda library: measured[library])
    size = VALUE_BYTES[precision]
    flops = work["flops_per_image"]
    moved = size * (work["weight_values"] / batch + 2 * work["activation_values_per_image"])
    moved += work["input_bytes_per_image"]
    compute, memory = measured[best] / flops, peaks["copy_bytes_per_s"] / moved
    return {
        "flops_per_image": flops,
        "bytes_per_image": moved,
        "flops_per_byte": flops / moved,
        "flops_per_s": images_per_s * flops,
        "peak_flops_per_s": measured[best],
        "peak_measured_by": best,
        "fraction_of_peak": images_per_s / compute,
        "compute_roof_images_per_s": compute,
        "memory_roof_images_per_s": memory,
        "bound": "compute" if compute <= memory else "memory",
        "fraction_of_roof": images_per_s / min(compute, memory),
    }


def _shapes_of_a_run(model, loaded, names):
    """Returns {name: shape} of tensors whose shapes are computed by the graph itself: it is run with a black photo."""
    onnx, onnxruntime = require("onnx"), require("onnxruntime")
    (shape,) = [
        [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in loaded.graph.input
        if value.name == INPUT_NAME
    ]
    try:
        loaded.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
        session = onnxruntime.InferenceSession(loaded.SerializeToString(), providers=["CPUExecutionProvider"])
        arrays = session.run(names, {INPUT_NAME: np.zeros(shape, np.uint8)})
    except Exception as error:  # ONNX Runtime's own
        raise BundleError(f"{model}: the shape of {', '.join(names)} is unknown: its work cannot be counted ({error})")
    return {name: list(array.shape) for name, array in zip(names, arrays)}


def _macs(node, shapes):
    first, second, output = (shapes[name] for name in (node.input[0], node.input[1], node.output[0]))
    if node.op_type == "Conv":  # weights [outputs, inputs / groups, height, width]
        return _product(output) * _product(second[1:])
    if node.op_type == "ConvTranspose":  # each input is spread; weights [inputs, outputs / groups, height, width]
        return _product(first) * _product(second[1:])
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return _product(output) * (first[0] if transposed else first[-1])


def _product(dims):
    product = 1  # numpy's product would overflow on some machines
    for dim in dims:
        product *= dim
    return product


def _copy_rate(seconds, size):
    """Returns the bytes per second that copying reads and writes; each core copies a part of its own."""
    cores = cpu.core_count()
    available = memory_available_bytes() or 8 * size
    part = max(1, min(size, available // 8) // cores)
    arrays = [(np.zeros(part, np.uint8), np.ones(part, np.uint8)) for _ in range(cores)]
    with concurrent.futures.ThreadPoolExecutor(cores) as pool:
        took_s = _best_s(lambda: list(pool.map(lambda pair: np.copyto(*pair), arrays)), seconds)
    return 2 * part * cores / took_s


def _best_s(call, seconds):
    call()
    times: typing.List[float] = []
    until = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < until:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)


def _blas():
    """Returns the name of numpy's BLAS, with its instructions and threads, which decide how fast it is."""
    try:
        import threadpoolctl
    except ImportError:
        return f"numpy {np.__version__}'s own"
    names = {
        f"{one['internal_api']} {one['version']} ({one.get('architecture', '?')}, {one['num_threads']} threads)"
        for one in threadpoolctl.threadpool_info()
        if one.get("user_api") == "blas"
    }
    return ", ".join(sorted(names)) or f"numpy {np.__version__}'s own"


def _openvino_product(openvino, right, precision):
    """Returns an inference request that multiplies a float32 [n, n] in 0..1 by right, computed in a precision."""
    ops = require("openvino.opset13")
    data = ops.parameter(list(right.shape), np.float32)
    first, second = data, ops.constant(right)
    if precision == "int8":  # what NNCF puts before each quantized operation
        low, high = np.float32(0), np.float32(1)
        first = ops.fake_quantize(first, low, high, low, high, 256)
        second = ops.fake_quantize(second, -high, high, -high, high, 255)
    model = openvino.Model([ops.matmul(first, second, False, False)], [data])
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": cpu.core_count(),
    }
    return openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
