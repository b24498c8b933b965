"""TensorRT for RTX: a plan for NVIDIA's desktop GPUs (RTX 20 and newer), built on any x86-64 PC, without a GPU.

The precision is the model's own: convert.tensorrt_model writes it. The plan is no machine code: the library compiles
the kernels on the machine that runs it (edge_runtime.engines.tensorrt.rtx).

The building runs in this project's tests, with NVIDIA's library. Not yet run on hardware: the plan.
"""

import os

from convert import onnx_precision
from convert.child import run_in_child
from convert.tensorrt import add_profile, parse, progress_of_log
from convert.tensorrt_model import write_model
from edge_runtime.console import say
from edge_runtime.engines.record import SCRATCH, EngineInfo, engine_name
from edge_runtime.engines.tensorrt import engine, versions
from edge_runtime.engines.tensorrt.rtx import LIBRARY
from edge_runtime.errors import MissingRequirement, UsageError
from edge_runtime.machine.libraries import require

PRECISIONS = ("fp16", "fp32", "int8")
# --gpus: the families, and their compute capabilities by the library's names
GPUS = {"turing": ("SM75",), "ampere": ("SM80", "SM86"), "ada": ("SM89",), "blackwell": ("SM120",)}
_MODEL = "model.onnx"  # in SCRATCH: what the plan is made of
_ROUNDED_MODEL = "rounded.onnx"  # in SCRATCH, for fp16: what it gives on a GPU


def families(text):
    """Returns names of GPUS that a text lists with commas, in the order of GPUS, without repeats, as such a text.

    Raises:
        UsageError: it lists another name.
    """
    names = {name.strip().lower() for name in text.split(",")}
    if not names <= set(GPUS):
        raise UsageError(f"--gpus {text}: expected some of {', '.join(GPUS)}, with commas between them")
    return ",".join(name for name in GPUS if name in names)


def check(precision):
    """Raises MissingRequirement: TensorRT for RTX, onnx or onnxruntime is missing, or for fp16 and int8 its tools."""
    for library in (LIBRARY, "onnx", "onnxruntime"):
        require(library)
    if precision != "fp32":
        onnx_precision.check(precision)


def build(bundle, settings, folder):
    """Writes the plan into folder, and into its folder SCRATCH the models that are checked in its place without a GPU.

    Args:
        bundle: an open Bundle.
        settings: convert.conversion.Settings; of the GPUs that its field gpus names, all from Ampere on where None.
        folder: of the engine.

    Returns:
        facts for engine.json: libraries, gpu (None), gpus, gpu_checks (none yet), machine, input_dtype.

    Raises:
        MissingRequirement: the library is missing, or refused the model and gave reasons, which the message has.
        BundleError: TensorRT cannot read the model, and it cannot be changed so that it can.
    """
    onnx, tensorrt = require("onnx"), require(LIBRARY)
    where = settings.gpus or "GPUs from Ampere on"
    say(f"TensorRT for RTX {tensorrt.__version__}, for {where}; no GPU is needed for this")
    scratch = os.path.join(folder, SCRATCH)
    os.mkdir(scratch)
    model = os.path.join(scratch, _MODEL)
    input_dtype = write_model(onnx, tensorrt, bundle, settings, model)
    capabilities = [name for family in (settings.gpus or "").split(",") if family for name in GPUS[family]]
    run_in_child(
        engine_name("tensorrt-rtx", settings.precision, settings.max_batch),
        build_plan,
        *(model, os.path.join(folder, engine.PLAN), settings.max_batch, settings.workspace_mib, capabilities),
    )
    if settings.precision == "fp16":
        original = onnx.load_model_from_string(bundle.read("model.onnx"))
        onnx.save(onnx_precision.with_half_rounding(original), os.path.join(scratch, _ROUNDED_MODEL))
    return {
        "libraries": {"tensorrt-rtx": tensorrt.__version__},
        "gpu": None,
        "gpus": settings.gpus,
        "gpu_checks": [],
        "machine": {"architecture": "x86_64", "cpu_features": []},  # another PC runs it, too
        "input_dtype": input_dtype,
    }


def stand_ins(info):
    """Returns the EngineInfos to check, through ONNX Runtime, in the place of a new engine that cannot run here.

    The first is the model that the plan is made of. ONNX Runtime's CPU computes an fp16 one in float32, so for fp16
    there is a second: the bundle's model in float32, rounded wherever a GPU rounds (with_half_rounding).
    """
    names = [_MODEL, _ROUNDED_MODEL] if info.precision == "fp16" else [_MODEL]
    models = [os.path.join(info.path, SCRATCH, name) for name in names]
    return [EngineInfo(info.name, "onnxruntime", info.precision, model, None) for model in models]


def build_plan(model, plan, max_batch, workspace_mib, capabilities):
    """Builds a plan on the CPU. A timing cache must not be used: it makes the library look for a GPU.

    Args:
        model: .onnx file.
        plan: file to write.
        max_batch: the profile is 1 to this, and best at this.
        workspace_mib: memory that the layers may use on the GPU; None: as much as they want.
        capabilities: names of the library's ComputeCapability; empty: all from SM80 on.

    Raises:
        MissingRequirement: the library refused; with its reasons.
    """
    tensorrt = require(LIBRARY)
    with progress_of_log() as note:
        log = engine.make_log(tensorrt, note)
        builder = engine.start(tensorrt.Builder, log)
        network = versions.create_network(builder)
        parser = tensorrt.OnnxParser(network, log)  # kept to the end: the network may use the parser's weights
        parse(tensorrt, parser, network, log, model)
        config = builder.create_builder_config()
        config.clear_flag(tensorrt.BuilderFlag.TF32)  # fp32 means that
        if workspace_mib:
            versions.set_workspace(tensorrt, config, workspace_mib << 20)
        add_profile(builder, config, network, max_batch)
        config.num_compute_capabilities = len(capabilities)
        for place, name in enumerate(capabilities):
            if not config.set_compute_capability(getattr(tensorrt.ComputeCapability, name), place):
                raise MissingRequirement(f"TensorRT for RTX {tensorrt.__version__} does not build for {name} (--gpus)")
        blob = builder.build_serialized_network(network, config)
        if blob is None:
            raise MissingRequirement(f"TensorRT for RTX built nothing:\n{log.reason()}")
        with open(plan, "wb") as file:
            file.write(blob)
