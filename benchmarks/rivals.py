"""Other programs on the same photos, on the same machine, in the same run, each with its own package.

hackathon            the pipeline that this project grew from: tf.data, one photo at a time, and Keras predict
tensorflow           the bundle's SavedModel as TensorFlow's guides run one: parallel tf.data, batches, prefetch
opencv-onnxruntime   the loop of ten lines: cv2.imread, cv2.resize, ONNX Runtime
benchmark_app ...    OpenVINO's own tool, on random pixels and without photos: the limit for the model alone
ultralytics          its own classifier: only the speed is comparable
trtexec ..., tf-trt  NVIDIA's tool and TensorFlow's own way, where there is a GPU

Each runs in a process of its own, so that a crash or a hang costs only this rival, and is bound to the same cores.
"""

import concurrent.futures
import glob
import io
import itertools
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
import typing

import cv2
import numpy as np
from PIL import Image

from benchmarks.commands import run_command
from edge_runtime import files
from edge_runtime.bundle.manifest import INPUT_NAME, OUTPUT_NAME
from edge_runtime.engines import tf_trt
from edge_runtime.engines.openvino import IR_MODEL
from edge_runtime.engines.selection import check_engine, list_engines
from edge_runtime.engines.tensorrt.engine import PLAN
from edge_runtime.errors import ImageError, MissingRequirement, PicnicError
from edge_runtime.machine import cpu, libraries, memory
from edge_runtime.machine.libraries import require
from edge_runtime.machine.processes import die_with_parent
from edge_runtime.photos import decode, read, spec
from edge_runtime.pipeline.latency import MIN_COUNTS

BATCH = 8
HINTS = ("throughput", "latency")  # of benchmark_app: many requests at once; one after the other
LIMIT_S = 900  # for one rival; TF-TRT may take minutes to load
TRTEXEC = "/usr/src/tensorrt/bin/trtexec"  # JetPack's folder, which is not in the PATH
_HACKATHON_BATCH = 32
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_CHILD = "import sys; sys.path.insert(0, sys.argv[1]); from benchmarks import rivals; rivals.child_main(*sys.argv[2:])"
_BENCHMARK_APP = (
    # Without the first line it would report its use to Intel over the network.
    "import sys; sys.modules['openvino_telemetry'] = None\n"
    "from openvino.tools.benchmark.main import main; sys.exit(main())"
)
_WHOLE_PROGRAM = "; its CPU time is the whole program's, starting and loading included"
_CHANGED = (
    "the hackathon's script in TensorFlow 2 calls. Kept: tf.data without parallel calls or prefetch, tf.image, batches "
    "of 32, Keras predict. Changed: the bundle's size (there 192 x 192) and the bundle's own network in its Keras "
    "model's place, whose graph scales the pixels (there they were 0..1 in prediction, -1..1 in training)"
)


def measure(bundle, paths, threads=None, seconds=10.0, batch=BATCH):
    """Runs every rival, one after the other.

    Args:
        bundle: edge_runtime.bundle.reading.Bundle.
        paths: photos that every rival can read (common_photos), at least one.
        threads: cores that each may use; None for all.
        seconds: how long each is measured at least; those that read photos go over all of them, once or more often.
        batch: photos per call, except for the hackathon's 32.

    Yields:
        (name, result). result is {"skipped": why}, or a dict of
            images_per_s, seconds, photos   of the timed part; loading and a first batch come before it
            batch, threads
            cpu_s_per_image    core time of the timed part; for benchmark_app and trtexec of the whole program
            peak_rss_bytes     of the process
            library            {name: version}
            limit              True: the model alone, no photos are read
            labels             one per photo, where it uses the bundle's network; else None
            note               what must be known to compare it
        and for benchmark_app and trtexec latency_..._ms.
    """
    for job in jobs(bundle, paths, threads, seconds, batch):
        yield job["name"], {"skipped": job["skipped"]} if "skipped" in job else run_job(job)


def common_photos(paths):
    """Leaves out the photos that some rival cannot read, so that all are measured on the same ones.

    Returns:
        (paths of readable JPEG and PNG photos with names in UTF-8, [(path, why it is left out)]).
    """
    with concurrent.futures.ThreadPoolExecutor(cpu.core_count()) as pool:
        reasons = list(pool.map(_why_not_common, paths))
    usable = [path for path, reason in zip(paths, reasons) if not reason]
    return usable, [(path, reason) for path, reason in zip(paths, reasons) if reason]


def jobs(bundle, paths, threads=None, seconds=10.0, batch=BATCH):
    """Returns the jobs for run_job, one dict per rival, in the order of running. A job with "skipped" is not run."""
    common = {
        "paths": list(paths),
        "class_names": bundle.class_names,
        "shape": list(bundle.input_spec.shape),  # the rivals squash photos to it, whatever the bundle does
        "threads": min(threads or cpu.core_count(), cpu.core_count()),
        "seconds": seconds,
        "batch": batch,
    }
    onnx_model, saved_model = bundle.checked("model.onnx"), bundle.file("saved_model")
    if bundle.lists("saved_model"):
        bundle.checked("saved_model")
        lacking = {}
    else:
        lacking = {"skipped": "the bundle has no saved_model"}
    all_jobs = [
        dict(common, name="hackathon", rival="hackathon", model=saved_model, batch=_HACKATHON_BATCH, **lacking),
        dict(common, name="tensorflow", rival="tensorflow", model=saved_model, **lacking),
        dict(common, name="opencv-onnxruntime", rival="opencv-onnxruntime", model=onnx_model),
    ]
    engines = [info for info in list_engines(bundle) if info.record is not None]
    problems = {info.name: _why_unusable(bundle, info) for info in engines}
    app = dict(common, rival="benchmark_app", batch=1)
    models = [("model.onnx", onnx_model, "fp32", "")]
    models += [
        (info.name, os.path.join(info.path, IR_MODEL), info.precision, problems[info.name])
        for info in engines
        if info.kind == "openvino"
    ]
    for (name, model, precision, problem), hint in itertools.product(models, HINTS):
        job = dict(app, name=f"benchmark_app {name} {hint}", model=model, precision=precision, hint=hint)
        all_jobs.append(dict(job, skipped=problem) if problem else job)
    weights = sorted(glob.glob("yolo*-cls.pt"))
    all_jobs.append(
        dict(common, name="ultralytics", rival="ultralytics", model=os.path.abspath(weights[0]) if weights else "")
    )
    for kind, rival, name in (("tensorrt", "trtexec", PLAN), ("tf-trt", "tf-trt", tf_trt.SAVED_MODEL)):
        own = [info for info in engines if info.kind == kind]
        for info in own:
            job = dict(common, name=f"{rival} {info.name}", rival=rival, model=os.path.join(info.path, name))
            if problems[info.name]:
                job["skipped"] = problems[info.name]
            else:  # it was built for so many at most
                job["batch"] = min(batch, info.record["batch_profile"]["max"])
            all_jobs.append(job)
        if not own:
            missing = f"the bundle has no {kind} engine; to make one: picnic-edge convert {bundle.path} --to {kind}"
            all_jobs.append({"name": rival, "skipped": missing})
    return all_jobs


def run_job(job, limit_s=LIMIT_S):
    """Runs one of jobs() in a process of its own. Returns its result: see measure."""
    with tempfile.TemporaryDirectory() as scratch:
        job_file, answer = os.path.join(scratch, "job.json"), os.path.join(scratch, "answer.json")
        files.write_json(job_file, job)
        outcome = run_command([sys.executable, "-c", _CHILD, _ROOT, job_file, answer, str(os.getpid())], limit_s)
        try:
            with open(answer, encoding="utf-8") as file:
                return json.load(file)
        except OSError:
            lines = [line for line in outcome["stderr"].splitlines() if line.strip()] or ["no message"]
            return {"skipped": outcome["problem"] or f"its process ended with {outcome['exit_code']}: {lines[-1]}"}


def child_main(job, answer, parent):
    """The main function of a rival's process: runs the job of one JSON file and writes its result into another.

    Args:
        job, answer: file names.
        parent: id of the process that started this one, as text; this process ends with it.
    """
    die_with_parent(int(parent))
    with open(job, encoding="utf-8") as file:
        settings = json.load(file)
    # Libraries differ in what they take a number of threads from; none starts more than it has cores.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: settings["threads"]])
    try:
        rival = settings["rival"]
        result = (
            _time_program(settings) if rival in _PROGRAMS else _time_photos(settings, *_PHOTO_RIVALS[rival](settings))
        )
        result.update(batch=settings["batch"], threads=settings["threads"])
    except Exception as error:
        traceback.print_exc()
        reason = str(error).strip().splitlines() or [""]
        result = {"skipped": reason[0] if isinstance(error, PicnicError) else f"{type(error).__name__}: {reason[0]}"}
    files.write_json(answer, result)


def plain_loop(model, shape, threads, batch=BATCH):
    """The loop of ten lines that most programs begin with: read, resize, collect a batch, run.

    Args:
        model: a bundle's model.onnx.
        shape: (height, width, 3) of its input.
        threads: for ONNX Runtime.
        batch: photos per call.

    Returns:
        a function of file names that returns the index of each photo's class.
    """
    onnxruntime = require("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def classify(paths):
        classes = []
        for start in range(0, len(paths), batch):
            pictures = []
            for path in paths[start : start + batch]:
                bgr = cv2.imread(path)
                pictures.append(cv2.resize(bgr, (shape[1], shape[0]))[:, :, ::-1])
            classes += session.run(None, {INPUT_NAME: np.stack(pictures)})[0].argmax(axis=1).tolist()
        return classes

    return classify


def parse_benchmark_app(text):
    """Reads what OpenVINO's benchmark_app prints.

    Returns:
        {"images_per_s", "calls", "seconds", "latency_p50_ms", "latency_mean_ms", "latency_min_ms", "latency_max_ms"}.

    Raises:
        ValueError: one of them is missing.
    """
    patterns = {
        "images_per_s": r"Throughput: +([\d.]+) FPS",
        "calls": r"Count: +(\d+) iterations",
        "seconds": r"Duration: +([\d.]+) ms",
        "latency_p50_ms": r"Median: +([\d.]+) (ms|us)",
        "latency_mean_ms": r"Average: +([\d.]+) (ms|us)",
        "latency_min_ms": r"Min: +([\d.]+) (ms|us)",
        "latency_max_ms": r"Max: +([\d.]+) (ms|us)",
    }
    figures = _parsed("benchmark_app", patterns, text)
    return dict(figures, seconds=figures["seconds"] / 1000, calls=int(figures["calls"]))


def parse_trtexec(text):
    """Reads the performance summary that trtexec prints (TensorRT 8.2 and newer).

    Returns:
        {"calls_per_s", "seconds", "latency_p50_ms", "latency_mean_ms", "latency_min_ms", "latency_max_ms",
        "latency_p99_ms" (of edge_runtime.pipeline.latency.MIN_COUNTS or more calls)}; latencies are the GPU's compute
        time of a call.

    Raises:
        ValueError: one of them is missing.
    """
    gpu = r"\] GPU Compute Time: [^\n]*"
    patterns = {
        "calls_per_s": r"Throughput: ([\d.]+) qps",
        "seconds": r"Total Host Walltime: ([\d.]+) s",
        "latency_p50_ms": gpu + r"median = ([\d.]+) ms",
        "latency_mean_ms": gpu + r"mean = ([\d.]+) ms",
        "latency_min_ms": gpu + r"min = ([\d.]+) ms",
        "latency_max_ms": gpu + r"max = ([\d.]+) ms",
        "latency_p99_ms": gpu + r"percentile\(99%\) = ([\d.]+) ms",
    }
    figures = _parsed("trtexec", patterns, text)
    if figures["calls_per_s"] * figures["seconds"] < MIN_COUNTS[99]:
        del figures["latency_p99_ms"]
    return figures


def _parsed(program, patterns, text):
    matches = {name: re.search(pattern, text) for name, pattern in patterns.items()}
    missing = sorted(name for name, match in matches.items() if match is None)
    if missing:
        raise ValueError(f"{program} printed no {', '.join(missing)}")
    # A latency below a millisecond is printed in microseconds.
    scale = {name: 1000 if match and match.groups()[1:] == ("us",) else 1 for name, match in matches.items()}
    return {name: float(match.group(1)) / scale[name] for name, match in matches.items() if match}


def _why_not_common(path):
    try:
        path.encode("utf-8")
        data = read.read_bytes(path)
        decode.decode_image(data, spec.INCEPTION_V3)  # whether it can be read does not depend on that
        header = Image.open(io.BytesIO(data))
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    except ImageError as error:
        return str(error)
    if header.format not in ("JPEG", "MPO", "PNG") or header.mode == "CMYK":
        return f"is {header.format} ({header.mode}), which not every rival reads"
    return ""


def _why_unusable(bundle, info):
    try:
        check_engine(bundle, info)
        return ""
    except PicnicError as error:
        return str(error).splitlines()[0]


def _time_photos(job, classify, modules, note):
    """Times a function of file names over all photos of a job, after a first batch that is not timed."""
    paths, class_names = job["paths"], job["class_names"]
    classify(paths[: job["batch"]])
    answers, passes = None, 0
    cpu_s, started = time.process_time(), time.perf_counter()
    while not passes or time.perf_counter() - started < job["seconds"]:
        answers = classify(paths)
        passes += 1
    took_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_s
    photos = passes * len(paths)
    return {
        "images_per_s": photos / took_s,
        "seconds": took_s,
        "photos": photos,
        "cpu_s_per_image": cpu_s / photos,
        "peak_rss_bytes": memory.peak_memory_bytes(),
        "library": _versions(modules),
        "limit": False,
        "labels": None if answers is None else [class_names[index] for index in answers],
        "note": note,
    }


def _versions(modules):
    return {name: str(getattr(require(name), "__version__", "unknown")) for name in modules}


def _hackathon(job):
    tensorflow = _tensorflow_with(job["threads"])
    layers = tensorflow.keras.layers
    model = tensorflow.keras.Sequential(
        [
            layers.InputLayer(tuple(job["shape"]), dtype="uint8"),
            layers.Lambda(_network(tensorflow, job["model"]), output_shape=(len(job["class_names"]),)),
        ]
    )

    def classify(paths):
        dataset = _file_names(tensorflow, paths).map(lambda path: _tf_photo(tensorflow, path, job["shape"]))
        return model.predict(dataset.batch(job["batch"]), verbose=0).argmax(axis=1).tolist()

    return classify, ["tensorflow"], _CHANGED


def _tensorflow(job):
    tensorflow = _tensorflow_with(job["threads"])
    network = _network(tensorflow, job["model"])

    def classify(paths):
        autotune = tensorflow.data.experimental.AUTOTUNE
        dataset = _file_names(tensorflow, paths)
        dataset = dataset.map(lambda path: _tf_photo(tensorflow, path, job["shape"]), num_parallel_calls=autotune)
        classes = []
        for pixels in dataset.batch(job["batch"]).prefetch(autotune):
            classes += network(pixels).numpy().argmax(axis=1).tolist()
        return classes

    return classify, ["tensorflow"], "tf.data with parallel calls and prefetch, tf.image, the SavedModel's signature"


def _tf_trt(job):
    tf_trt.require_tensorrt(tf_trt.probe())
    tf_trt.require_gpu()
    classify, modules, note = _tensorflow(job)
    return classify, modules, note + ", converted by TF-TRT"


def _opencv_onnxruntime(job):
    cv2.setNumThreads(job["threads"])
    note = "cv2.imread, cv2.resize, InferenceSession.run, one after the other"
    return plain_loop(job["model"], job["shape"], job["threads"], job["batch"]), ["onnxruntime", "cv2"], note


def _ultralytics(job):
    # Nothing is downloaded or installed: a rival that lacks something is skipped.
    os.environ.update(YOLO_OFFLINE="true", YOLO_AUTOINSTALL="false")
    ultralytics = require("ultralytics")
    weights = job["model"]
    if not weights:
        folder = str(ultralytics.settings["weights_dir"])
        weights_files = sorted(glob.glob(os.path.join(glob.escape(folder), "yolo*-cls.pt")))
        if not weights_files:
            raise MissingRequirement(
                f"no weights yolo*-cls.pt in this folder or {folder} (this command downloads nothing)"
            )
        weights = weights_files[0]
    model = ultralytics.YOLO(weights)

    def classify(paths):
        # Given all names at once it would read all photos before the first is classified.
        for start in range(0, len(paths), job["batch"]):
            model.predict(paths[start : start + job["batch"]], verbose=False)

    note = f"its own network ({os.path.basename(weights)}) and classes, at its own input size: compare only the speed"
    return classify, ["ultralytics", "torch"], note


_PHOTO_RIVALS: typing.Dict[str, typing.Callable] = {
    "hackathon": _hackathon,
    "tensorflow": _tensorflow,
    "opencv-onnxruntime": _opencv_onnxruntime,
    "ultralytics": _ultralytics,
    "tf-trt": _tf_trt,
}


def _tensorflow_with(threads):
    tensorflow = require("tensorflow")
    tensorflow.config.threading.set_intra_op_parallelism_threads(threads)
    tensorflow.config.threading.set_inter_op_parallelism_threads(threads)
    return tensorflow


def _network(tensorflow, path):
    """Returns a SavedModel as a function: uint8 [n, height, width, 3] -> float32 [n, classes]."""
    loaded = tensorflow.saved_model.load(path)  # kept by the function: a signature does not keep its variables
    return lambda pixels: loaded.signatures["serving_default"](**{INPUT_NAME: pixels})[OUTPUT_NAME]


def _file_names(tensorflow, paths):
    return tensorflow.data.Dataset.from_tensor_slices([os.fsencode(path) for path in paths])


def _tf_photo(tensorflow, path, shape):
    """Reads a photo the hackathon's way: JPEG or PNG, by its first bytes."""
    data = tensorflow.io.read_file(path)
    pixels = tensorflow.cond(
        tensorflow.image.is_jpeg(data),
        lambda: tensorflow.image.decode_jpeg(data, channels=3),
        lambda: tensorflow.image.decode_png(data, channels=3),
    )
    pixels = tensorflow.image.resize(pixels, shape[:2])
    return tensorflow.cast(tensorflow.round(pixels), tensorflow.uint8)


def _time_program(job):
    """Runs another program that times itself."""
    command, parse = _PROGRAMS[job["rival"]](job)
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    text = process.stdout.decode("utf-8", "replace")
    if process.returncode:
        lines = [line for line in text.splitlines() if line.strip()] or ["no message"]
        raise MissingRequirement(f"{job['rival']} ended with {process.returncode}: {lines[-1]}")
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = dict(parse(text, job["batch"]), limit=True, labels=None)
    cpu_s = usage.ru_utime + usage.ru_stime
    return dict(figures, cpu_s_per_image=cpu_s / figures["photos"], peak_rss_bytes=usage.ru_maxrss * 1024)


def _benchmark_app(job):
    version = str(libraries.library_version("openvino"))
    require("openvino.tools.benchmark")
    command = [sys.executable, "-c", _BENCHMARK_APP, "-m", job["model"], "-d", "CPU", "-hint", job["hint"]]
    command += ["-t", f"{max(1, round(job['seconds']))}", "-shape", _shape_of(_dims(job))]
    # The precision of the product's own engine; without this option the tool computes in bf16 if the CPU can.
    command += ["-infer_precision", "bf16" if job["precision"] == "bf16" else "f32"]

    def parse(text, batch):
        figures = parse_benchmark_app(text)
        note = f"random pixels, no photos; hint {job['hint']}{_WHOLE_PROGRAM}"
        return dict(figures, photos=figures["calls"] * batch, library={"openvino": version}, note=note)

    return command, parse


def _trtexec(job):
    program = shutil.which("trtexec") or TRTEXEC
    if not os.path.exists(program):
        raise MissingRequirement(f"no trtexec in the PATH or at {TRTEXEC}; it comes with JetPack's TensorRT")
    command = [program, "--loadEngine=" + job["model"], f"--shapes={INPUT_NAME}:{'x'.join(map(str, _dims(job)))}"]
    command.append(f"--duration={max(1, round(job['seconds']))}")

    def parse(text, batch):
        figures = parse_trtexec(text)
        version = re.search(r"\[TensorRT (v\d+)\]", text)
        photos = int(round(figures["calls_per_s"] * figures["seconds"])) * batch
        figures.update(images_per_s=figures.pop("calls_per_s") * batch, photos=photos)
        note = "random pixels, no photos; the plan that picnic-edge convert built; latency is the GPU's compute time"
        note += _WHOLE_PROGRAM
        return dict(figures, library={"tensorrt": version.group(1) if version else "unknown"}, note=note)

    return command, parse


_PROGRAMS: typing.Dict[str, typing.Callable] = {"benchmark_app": _benchmark_app, "trtexec": _trtexec}


def _dims(job):
    return [job["batch"], *job["shape"]]


def _shape_of(dims):
    return f"[{','.join(map(str, dims))}]"
