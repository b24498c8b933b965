"""picnic-edge convert: the command line."""

import argparse
import importlib
import math
import os

from convert import labelled
from convert.conversion import convert
from edge_runtime.bundle.reading import Bundle
from edge_runtime.cli.options import parsed, positive, share
from edge_runtime.engines import gpu_check
from edge_runtime.engines.record import (
    DEFAULT_BATCH,
    MAX_BATCH,
    MAX_F1_DROP,
    MIN_AGREEMENT,
    MIN_AGREEMENT_INT8,
    default_min_agreement,
    engine_name,
)
from edge_runtime.errors import UsageError
from edge_runtime.gate.compare import format_table
from edge_runtime.gate.judge import MAX_LOG_ODDS_CHANGE, describe
from edge_runtime.sources.table_reader import is_table

# --to -> the builder: a module with
#   PRECISIONS                         the default first
#   check(precision)                   raises MissingRequirement before any work
#   build(bundle, settings, folder)    writes the engine's files, returns facts for engine.json; files that are not to
#                                      be published are in its folder edge_runtime.engines.record.SCRATCH
# and where it needs them
#   also_runs_in(precision)            the precision with the least rounding that the same files can be computed in
#   stand_ins(info)                    [EngineInfo] to check in the place of an engine that cannot be opened here; all
#                                      must pass, and the last one's figures are kept
#   families(text)                     the value of --gpus, checked
#   SOURCE                             what of the bundle it converts, where that is not model.onnx
TARGETS = {
    "onnxruntime": "convert.onnxruntime",
    "openvino": "convert.openvino",
    "litert": "convert.litert",
    "tensorrt": "convert.tensorrt",
    "tensorrt-rtx": "convert.tensorrt_rtx",
    "tf-trt": "convert.tf_trt",
}


def parser():
    """Returns the argument parser of `picnic-edge convert`."""
    this = argparse.ArgumentParser(
        prog="picnic-edge convert",
        description="Build an engine for this machine from a bundle and compare its answers with the original's on "
        "photos. An engine that differs too much is refused.",
        epilog="example: picnic-edge convert bundle --to openvino --precision int8",
    )
    this.add_argument("bundle", help="folder written by `picnic-edge train` or `import`")
    this.add_argument("--to", required=True, choices=list(TARGETS), help="library that will run the engine")
    this.add_argument(
        "--precision",
        choices=["fp32", "fp16", "bf16", "int8"],
        help="default: fp32; for tensorrt, tensorrt-rtx and tf-trt fp16",
    )
    this.add_argument(
        "--max-batch",
        type=positive,
        default=DEFAULT_BATCH,
        metavar="N",
        help="largest batch that the engine must take, and is best at (default %(default)s); a GPU's engine for "
        "another batch has it in its name, such as tensorrt-fp16-b1",
    )
    this.add_argument(
        "--calibration",
        metavar="DIR",
        help="photos to compare on; for int8 also to calibrate with (default: the sample in the bundle)",
    )
    this.add_argument(
        "--labels",
        metavar="TSV",
        help="labelled photos (columns file and label, or a folder of class folders): also refuse the engine if its "
        "macro-F1 on them is too far below the original's (--max-f1-drop)",
    )
    this.add_argument(
        "--images",
        metavar="DIR",
        help="folder of the files of a TSV for --labels or --calibration (default: the TSV's folder)",
    )
    this.add_argument(
        "--min-agreement",
        type=share,
        metavar="P",
        help="refuse the engine if, with 95 %% certainty, fewer photos than this share get the original's label, near "
        f"ties left out (default {MIN_AGREEMENT}; int8 {MIN_AGREEMENT_INT8})",
    )
    this.add_argument(
        "--max-log-odds-change",
        type=lambda text: parsed(float, text, lambda value: 0 <= value < math.inf, "a number of 0 or more"),
        metavar="P",
        help="refuse the engine if it changes how strongly the model prefers its best label to the next ones (the "
        "log-odds) by more than this share (default "
        + ", ".join(f"{name} {value}" for name, value in MAX_LOG_ODDS_CHANGE.items())
        + "; that of fp16 comes from its roundings, computed on a CPU, and was not run on hardware)",
    )
    this.add_argument(
        "--max-f1-drop",
        type=share,
        default=MAX_F1_DROP,
        metavar="P",
        help="with --labels: refuse the engine if, with 95 %% certainty, its macro-F1 is lower by more than this "
        "(default %(default)s)",
    )
    this.add_argument(
        "--workspace-mib",
        type=positive,
        metavar="N",
        help="memory for building a GPU engine (default: chosen for this machine)",
    )
    this.add_argument(
        "--gpus",
        metavar="A,B",
        help="for tensorrt-rtx: the families of GPUs that the engine is for, of turing, ampere, ada, blackwell "
        "(default: all from Ampere on)",
    )
    return this


def main(argv=None):
    """Converts a bundle. Raises PicnicError as the exit codes say."""
    options = parser().parse_args(argv)
    bundle = Bundle.open(options.bundle)
    builder = importlib.import_module(TARGETS[options.to])
    precision = options.precision or builder.PRECISIONS[0]
    if precision not in builder.PRECISIONS:
        raise UsageError(f"--to {options.to} makes {' or '.join(builder.PRECISIONS)}, not {precision}")
    source = getattr(builder, "SOURCE", "model.onnx")
    if not bundle.lists(source):
        others = [to for to, module in TARGETS.items() if not hasattr(importlib.import_module(module), "SOURCE")]
        raise UsageError(
            f"--to {options.to}: converts a bundle's {source}, which {options.bundle} does not have (bundles of "
            f"`picnic-edge train` do); expected --to {', '.join(others)}"
        )
    if options.max_batch > MAX_BATCH:
        raise UsageError(f"--max-batch {options.max_batch}: expected 1 to {MAX_BATCH} photos")
    labels_table = options.labels is not None and not os.path.isdir(options.labels)
    if options.images is not None and not labels_table and not is_table(options.calibration or ""):
        raise UsageError(
            f"--images {options.images}: is for the files of a TSV, with --labels TSV or --calibration TSV"
        )
    if options.gpus is not None:
        if options.to != "tensorrt-rtx":
            raise UsageError(
                f"--gpus: is for --to tensorrt-rtx; an engine of --to {options.to} is for the machine here"
            )
        options.gpus = builder.families(options.gpus)
    if options.min_agreement is None:
        options.min_agreement = default_min_agreement(precision)
    if options.max_log_odds_change is None:
        options.max_log_odds_change = MAX_LOG_ODDS_CHANGE[precision]
    name = engine_name(options.to, precision, options.max_batch)
    record, parity, verdict = convert(bundle, options.to, builder, precision, options)
    print(format_table(name, parity))
    print(describe(verdict, halves=precision == "int8"))
    if record["parity"]["labelled"]:
        print(labelled.format_table(record["parity"]["labelled"]))
        print(labelled.describe(record["parity"]["labelled"], options.max_f1_drop, parity.log_odds_change))
    if record["images_per_s"] is None:
        print(f"built in {record['build_s']:.1f} s; {gpu_check.UNCHECKED}: the model that it is made of was compared,")
        print(f"through ONNX Runtime. The first PC with a GPU that opens {name} checks it, before the first photo.")
        return
    speed = f"{record['images_per_s']:.1f} images/s at batch {record['batch_profile']['max']}"
    print(f"built in {record['build_s']:.1f} s, {speed}; use it with --engine {name}, or leave it to --engine auto")
