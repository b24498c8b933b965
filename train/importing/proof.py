"""The original's own answers beside the bundle's: is it a classifier at all, and do both give the same labels?"""

import collections
import concurrent.futures
import functools
import itertools
import typing

import numpy as np

from edge_runtime.bundle.reading import Sample
from edge_runtime.console import progress, say
from edge_runtime.errors import ImageError, ParityError, UsageError
from edge_runtime.gate.interval import share_interval
from edge_runtime.machine import cpu
from edge_runtime.machine.libraries import require
from edge_runtime.photos import read
from edge_runtime.text import printable
from train.importing.preprocessing import as_input
from train.model import calibrate, metrics

MIN_AGREEMENT = 0.99  # share of the photos that must get the label that they get in the makers' own way
MIN_PHOTOS = 20  # that are compared; fewer prove nothing
MIN_LABELLED = 50  # labelled photos that can decide something
SAMPLE_PHOTOS = 128  # kept in the bundle
IMAGENET_WITH_BACKGROUND = 1001
BATCH = 16
_SUM_TOLERANCE = 5e-3  # of a row of probabilities; float16 rounds a thousand of them
_MAX_BACKGROUND = 0.01  # share of photos of real things that a background class may win


class Proof(typing.NamedTuple):
    """An imported model beside the original.

    Attributes:
        photos: how many were compared.
        same_label: of them, how many get the same label from the bundle, on its own pictures, as from the original on
            its makers' own pictures.
        interval: 95 % interval of that share among all photos like these, 0..1 each.
        labelled: how many photos with a true label the accuracies and metrics are measured on.
        independent: none of these chose the preprocessing.
        accuracy_ours, accuracy_theirs: on those, 0..1; None where there are none.
        interval_ours, interval_theirs: 95 % intervals of the accuracies, or None.
        largest_difference: of a probability, between the two on their own pictures each.
        graph_difference: of a probability, between the bundle and the original on the sample's pictures.
        temperature: to divide the logits by (with_temperature); 1.0 where no photo has a true label.
        metrics: dict for the manifest, as train writes it: figures after calibration.
        sample: edge_runtime.bundle.reading.Sample: the bundle's pictures, and the original's own answers to them,
            divided by the temperature.
    """

    photos: int
    same_label: int
    interval: typing.Tuple[float, float]
    labelled: int
    independent: bool
    accuracy_ours: typing.Optional[float]
    accuracy_theirs: typing.Optional[float]
    interval_ours: typing.Optional[typing.Tuple[float, float]]
    interval_theirs: typing.Optional[typing.Tuple[float, float]]
    largest_difference: float
    graph_difference: float
    temperature: float
    metrics: typing.Dict[str, typing.Any]
    sample: Sample


def logits_or_probabilities(original, answers):
    """Tells what an original's answers are.

    Args:
        original: train.importing.original.Original.
        answers: float [n, outputs], its answers to n photos of several classes; ten or more tell.

    Returns:
        "logits" or "probabilities".

    Raises:
        UsageError: they are those of no classifier with one label per photo.
    """
    path, answers = original.path, np.asarray(answers, np.float64)
    if answers.ndim != 2:
        raise UsageError(
            f"{path}: answers with an array of {answers.ndim} dimensions; a classifier gives [photos, classes]. A "
            "detector or a segmentation network cannot be imported; another output may be chosen with --output"
        )
    if answers.shape[1] < 2:
        raise UsageError(
            f"{path}: answers with one number per photo (a yes or no by sigmoid, or a measure); expected one per "
            "class, 2 or more"
        )
    _require_finite_answers(original, answers)
    if len(answers) > 1 and float(np.ptp(answers, axis=0).max()) <= 1e-7 * max(1.0, float(np.abs(answers).max())):
        raise UsageError(
            f"{path}: answers the same to {len(answers)} different photos. Its weights may be missing, or its scale "
            "may be another (--scale)"
        )
    in_range = answers.min() >= -1e-6 and answers.max() <= 1 + _SUM_TOLERANCE
    sums = answers.sum(axis=1)
    if in_range and np.abs(sums - 1).max() <= _SUM_TOLERANCE:
        return "probabilities"
    if in_range and len(answers) > 1:
        raise UsageError(
            f"{path}: answers with numbers from 0 to 1 whose sum is {sums.min():.3g} to {sums.max():.3g}, not 1: "
            "several labels per photo (sigmoid). Only one label per photo can be imported"
        )
    lengths = np.sqrt((answers**2).sum(axis=1))
    if len(answers) > 1 and np.abs(lengths - 1).max() <= 1e-3:
        raise UsageError(
            f"{path}: answers with vectors of length 1, an embedding (features to compare), not one number per class. "
            "Export the network with its last layer, or choose another with --output"
        )
    return "logits"


def background(original, answers=None):
    """Tells whether the first of an original's outputs is the class "background", which is left out.

    Args:
        original: train.importing.original.Original with class_names.
        answers: float [n, outputs] to labelled photos of real things, most of which get the right label where the first
            output is left out (a label that lacks elsewhere would shift the others); None where there are no such
            photos: then only TensorFlow's ImageNet networks have one.

    Raises:
        UsageError: the number of labels does not fit the number of outputs.
    """
    outputs, labels = original.outputs, len(original.class_names)
    if outputs == labels:
        return False
    if outputs == labels + 1:
        share = 0.0 if answers is None else float(np.mean(np.argmax(answers, axis=1) == 0))
        if share <= _MAX_BACKGROUND and (answers is not None or outputs == IMAGENET_WITH_BACKGROUND):
            say(
                f"{original.path}: has {outputs} outputs and {labels} labels: the first output is taken for a "
                f"background class and left out; the second one is {printable(original.class_names[0])}"
            )
            return True
        if answers is not None:
            raise UsageError(
                f"{original.path}: has {outputs} outputs and {labels} labels. The first output is no background class: "
                f"it is the best on {100 * share:.0f} % of the photos. Give one label per output with --labels"
            )
        raise UsageError(
            f"{original.path}: has {outputs} outputs and {labels} labels. Is the first output a background class, or "
            f"does a label lack? {MIN_LABELLED} labelled photos or more with --check tell; else give one label per "
            "output with --labels"
        )
    raise UsageError(f"{original.path}: has {outputs} outputs and {labels} labels; give one per output with --labels")


def _require_finite_answers(original, answers):
    finite = np.isfinite(answers).all(axis=1)
    if not finite.all():
        raise UsageError(f"{original.path}: answers NaN or infinity on {_count(~finite)} photos")


def as_probabilities(answers, kind, without_background):
    """Returns an original's answers as probabilities, float32 [n, classes].

    Args:
        answers: float [n, outputs], finite.
        kind: "logits" or "probabilities".
        without_background: leave out the first output; the others then sum to 1.
    """
    values = np.asarray(answers, np.float64)[:, 1 if without_background else 0 :]
    if kind == "logits":
        values = np.exp(values - values.max(axis=1, keepdims=True))
    values = np.maximum(values, 0)
    return (values / np.maximum(values.sum(axis=1, keepdims=True), 1e-30)).astype(np.float32)


def require_finite(original, preprocessing):
    """Raises UsageError where an original answers NaN or infinity to a picture of one colour, as of a covered lens."""
    shape = preprocessing.input_spec.shape
    for level, name in ((0, "black"), (128, "grey"), (255, "white")):
        pictures = np.full((1,) + shape, level, np.uint8)
        if not np.isfinite(original.run(as_input(original, preprocessing, pictures))).all():
            raise UsageError(
                f"{original.path}: answers NaN or infinity to a {name} picture; on a device that would stop the run. "
                "Look for a division by the picture's own spread in the network"
            )


def read_pictures(paths, input_specs):
    """Reads photos as several InputSpecs have them.

    Args:
        paths: list of file names.
        input_specs: list of edge_runtime.photos.spec.InputSpec.

    Returns:
        one list per photo: a uint8 [height, width, 3] per spec, or an ImageError for a photo that cannot be read.
    """
    with concurrent.futures.ThreadPoolExecutor(cpu.core_count()) as pool:
        return list(pool.map(functools.partial(_read_one, input_specs=input_specs), paths))


def _read_one(path, input_specs):
    try:
        return [read.read_image(path, one) for one in input_specs]
    except ImageError as error:
        return error


def prove(original, choice, infer, photos, exact):
    """Compares a bundle's model with the original that it was made from, and calibrates it.

    Args:
        original: train.importing.original.Original with class_names.
        choice: train.importing.find.Choice: its makers' preprocessing, and what its answers are.
        infer: function from uint8 [n, height, width, 3], RGB, to float32 [n, classes], probabilities: the bundle's
            model, of temperature 1.
        photos: list of (path, index of the true class or None).
        exact: the bundle uses the makers' filter; else the device's own, which is faster.

    Returns:
        Proof.

    Raises:
        UsageError: fewer than MIN_PHOTOS photos can be read, or the original answers NaN.
        ParityError: fewer than MIN_AGREEMENT of the photos get the same label; the message says what causes it.
    """
    preprocessing, class_names = choice.preprocessing, original.class_names
    require_finite(original, preprocessing)
    turns = class_turns(np.array([-1 if index is None else index for _, index in photos]))
    device_spec = preprocessing.input_spec if exact else preprocessing.input_spec._replace(filter="area")
    kept: typing.List[tuple] = []
    theirs, ours = [], []
    own: typing.List[np.ndarray] = []  # the original's answers to the bundle's pictures
    pictures: typing.List[np.ndarray] = []  # these
    for part in _parts(progress([photos[turn] for turn in turns], what="comparing")):
        read_photos, batches = _read_part(part, [preprocessing.input_spec, device_spec])
        if not read_photos:
            continue
        kept += read_photos
        theirs.append(original.run(as_input(original, preprocessing, batches[0])))
        ours.append(infer(batches[1]))
        if len(pictures) < SAMPLE_PHOTOS:
            own.append(theirs[-1] if exact else original.run(as_input(original, preprocessing, batches[1])))
            pictures += list(batches[1])
    if len(kept) < MIN_PHOTOS:
        raise too_few(len(kept), len(photos))
    raw, kind, dropped = np.concatenate(theirs), choice.kind, choice.without_background
    _require_finite_answers(original, raw)
    expected, answers = as_probabilities(raw, kind, dropped), np.concatenate(ours)
    same = answers.argmax(axis=1) == expected.argmax(axis=1)
    if same.mean() < MIN_AGREEMENT:
        raise _refusal(original, choice, infer, kept, expected.argmax(axis=1), same, exact)
    calibrated = functools.partial(_calibrated, np.concatenate(own), kind, dropped)
    return _proof(kept, expected, answers, calibrated, np.stack(pictures), class_names, choice.used)


def too_few(readable, given):
    """Returns the UsageError for so few photos that nothing can be proven."""
    return UsageError(
        f"--check: {readable} of its {given} photos can be read; expected {MIN_PHOTOS} or more: the bundle is compared "
        f"with the original on them, and its engines later. Give a folder or a table with --check ({SAMPLE_PHOTOS} "
        "photos are enough, without labels, too)"
    )


def _calibrated(answers, kind, without_background, temperature):
    """Returns an original's answers as probabilities, after a temperature.

    Logits are divided themselves: where the network is nearly certain, probabilities end at 0, and no temperature could
    bring them back.
    """
    if kind == "logits":
        return as_probabilities(np.asarray(answers, np.float64) / temperature, kind, without_background)
    probabilities = as_probabilities(answers, kind, without_background)
    return probabilities if temperature == 1 else calibrate.apply_temperature(probabilities, temperature)


def _read_part(photos, specs):
    """Returns (those photos that can be read, their pictures, one array per InputSpec); says which cannot."""
    loaded = list(zip(photos, read_pictures([path for path, _ in photos], specs)))
    for (path, _), pictures in loaded:
        if isinstance(pictures, ImageError):
            say(f"{printable(path)}: {pictures} (left out)")
    loaded = [(photo, pictures) for photo, pictures in loaded if not isinstance(pictures, ImageError)]
    return [photo for photo, _ in loaded], [np.stack(batch) for batch in zip(*(pictures for _, pictures in loaded))]


def _parts(items):
    items = iter(items)
    return iter(lambda: list(itertools.islice(items, BATCH)), [])


def _refusal(original, choice, infer, photos, expected, same, exact):
    """Returns the ParityError for too few equal labels, with the cause: the resize or the graph.

    Args:
        photos: list of (path, anything).
        expected: int [photos], the original's labels on its makers' pictures.
        same: bool [photos], whether the bundle gives them.
    """
    text = (
        f"{original.path}: the bundle gives the original's label on {_share(same)} photos, less than "
        f"{100 * MIN_AGREEMENT:.0f} %; nothing was written.\n"
    )
    if len(same) * (1 - MIN_AGREEMENT) < 1 and share_interval(_count(same), len(same))[1] >= MIN_AGREEMENT:
        text += (
            f"So few photos cannot tell whether it is {100 * MIN_AGREEMENT:.0f} % of all: give "
            f"{int(round(1 / (1 - MIN_AGREEMENT)))} or more with --check; {SAMPLE_PHOTOS} are better.\n"
        )
    same_graph, spec = same, choice.preprocessing.input_spec
    if not exact:
        labels = []
        for part in _parts(progress(photos, what="looking for the cause")):
            labels.append(infer(_read_part(part, [spec])[1][0]).argmax(axis=1))
        same_graph = np.concatenate(labels) == expected
    if not exact and same_graph.mean() >= MIN_AGREEMENT:
        whose = "assumed: no file or option names the makers' own" if choice.filter_assumed else "the makers' own"
        text += (
            f"The cause is the resize: on pictures of Pillow's {spec.filter} filter ({whose}) the bundle gives the "
            f"original's label on {_share(same_graph)}. Add --exact-resize: the device then resizes with that filter, "
            "too, which takes longer"
        )
    else:
        text += (
            f"The cause is the graph, not the resize: on the very same pictures it is {_share(same_graph)}. Please "
            "report it with the model"
        )
    return ParityError(text)


def _share(same):
    return f"{_count(same)} of {len(same)} ({100 * same.mean():.1f} %)"


def _count(marks):
    return int(np.sum(marks))


def _proof(photos, theirs, ours, calibrated, pictures, class_names, used):
    """Returns the Proof of photos, the classes in turn.

    Args:
        theirs: float32 [photos, classes], the original's answers to its makers' pictures.
        ours: likewise, the bundle's to its own.
        calibrated: function of a temperature: float32 [n, classes], the original's answers to the bundle's pictures of
            the first n photos.
        pictures: uint8 [n, height, width, 3], these.
        used: file names of the photos that chose the preprocessing.
    """
    same = theirs.argmax(axis=1) == ours.argmax(axis=1)
    own = calibrated(1.0)
    graph_difference = float(np.abs(own - ours[: len(own)]).max())
    truth = np.array([-1 if index is None else index for _, index in photos])
    known = truth >= 0
    chose = np.array([path in used for path, _ in photos])
    independent = not (known & chose).any() or _count(known & ~chose) >= MIN_LABELLED
    measured = known & ~chose if independent else known
    figures: typing.Dict[str, typing.Any] = {
        "agreement": {
            "model.onnx": {
                "max_abs_difference": graph_difference,
                "top1_equal": _count(own.argmax(axis=1) == ours[: len(own)].argmax(axis=1)),
                "photos": len(own),
            }
        }
    }
    temperature = 1.0
    accuracies: typing.List[typing.Any] = [None, None]
    intervals: typing.List[typing.Any] = [None, None]
    if known.any():
        temperature = calibrate.fit_temperature(ours[known], truth[known])
        figures.update(_figures(ours[measured], truth[measured], class_names, temperature))
        right = [_count(rows[measured].argmax(axis=1) == truth[measured]) for rows in (ours, theirs)]
        accuracies = [float(count / measured.sum()) for count in right]
        intervals = [share_interval(count, _count(measured)) for count in right]
    labels = ["" if index < 0 else class_names[index] for index in truth]
    names = [printable(path) for path, _ in photos]
    sample = slice(min(len(own), SAMPLE_PHOTOS))
    probabilities = calibrated(temperature)
    return Proof(
        photos=len(photos),
        same_label=_count(same),
        interval=share_interval(_count(same), len(photos)),
        labelled=_count(measured),
        independent=independent,
        accuracy_ours=accuracies[0],
        accuracy_theirs=accuracies[1],
        interval_ours=intervals[0],
        interval_theirs=intervals[1],
        largest_difference=float(np.abs(theirs - ours).max()),
        graph_difference=graph_difference,
        temperature=temperature,
        metrics=figures,
        sample=Sample(names[sample], pictures[sample], labels[sample], probabilities[sample]),
    )


def _figures(probabilities, truth, class_names, temperature):
    """Returns the figures that train writes into a manifest, of labelled photos."""
    calibrated = _calibrated_by_halves(probabilities, truth)
    predicted = [class_names[best] for best in probabilities.argmax(axis=1)]
    accuracy, macro_f1, table = metrics.score([class_names[index] for index in truth], predicted, class_names)
    return {
        "val_accuracy": accuracy,
        "val_macro_f1": macro_f1,
        "val_photos": len(truth),
        "calibration": {
            "temperature": temperature,
            "ece_before": metrics.expected_calibration_error(probabilities, truth),
            "ece_after": metrics.expected_calibration_error(calibrated, truth),
        },
        "per_class": [row._asdict() for row in table],
    }


def _calibrated_by_halves(probabilities, truth):
    """Returns probabilities, each half after the temperature that the other half gives: no photo fits its own."""
    half, result = np.random.RandomState(0).permutation(len(truth)) % 2, probabilities.copy()
    for number in (0, 1):
        own, other = half == number, half != number
        if own.any() and other.any():
            temperature = calibrate.fit_temperature(probabilities[other], truth[other])
            result[own] = calibrate.apply_temperature(probabilities[own], temperature)
    return result


def class_turns(truth):
    """Returns indices of all photos, the classes in turn: any first part has about as many photos of each class.

    The classes and the photos of each are shuffled, always in the same way: a first part is no run of one folder.

    Args:
        truth: int [n], indices of classes.
    """
    by_class = collections.defaultdict(list)
    for index in np.random.RandomState(0).permutation(len(truth)):
        by_class[int(truth[index])].append(int(index))
    turns = itertools.zip_longest(*by_class.values())
    return [index for turn in turns for index in turn if index is not None]


def with_temperature(model, temperature):
    """Returns a copy of a bundle's model whose logits are divided by a temperature; labels do not change.

    Args:
        model: onnx.ModelProto with one output, probabilities.
        temperature: more than 0.
    """
    if temperature == 1:
        return model
    onnx = require("onnx")
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    output = graph.output[0].name
    last = next(node for node in graph.node if output in node.output)
    names = {name for node in graph.node for name in list(node.input) + list(node.output)}
    prefix = "temperature"
    while prefix in names:
        prefix += "_"
    graph.initializer.append(require("onnx.numpy_helper").from_array(np.float32(1 / temperature), prefix))
    if last.op_type == "Softmax":
        scaled = prefix + "_logits"
        node = onnx.helper.make_node("Mul", [last.input[0], prefix], [scaled])
        last.input[0] = scaled
        graph.node.insert(list(graph.node).index(last), node)
        return changed
    # Of what is no softmax at the end the logarithms serve: softmax(log p / T). As float32 they end at 1e-30.
    steps = [prefix + "_" + step for step in ("probabilities", "at_least", "log", "logits")]
    last.output[list(last.output).index(output)] = steps[0]
    graph.initializer.append(require("onnx.numpy_helper").from_array(np.float32(1e-30), prefix + "_least"))
    graph.node.extend(
        [
            onnx.helper.make_node("Max", [steps[0], prefix + "_least"], [steps[1]]),
            onnx.helper.make_node("Log", [steps[1]], [steps[2]]),
            onnx.helper.make_node("Mul", [steps[2], prefix], [steps[3]]),
            onnx.helper.make_node("Softmax", [steps[3]], [output], axis=1),
        ]
    )
    return changed


def describe(proof):
    """Returns a Proof as lines of text for people."""
    low, high = proof.interval
    lines = [
        f"same label as the original on {proof.same_label} of {proof.photos} photos "
        f"({100 * proof.same_label / proof.photos:.1f} %; 95 % interval {100 * low:.1f} to {100 * high:.1f} %); on the "
        f"same pictures the largest difference of a probability is {proof.graph_difference:.1e}"
    ]
    if proof.labelled:
        ours, theirs = (
            f"{100 * accuracy:.1f} % ({100 * interval[0]:.1f} to {100 * interval[1]:.1f} %)"
            for accuracy, interval in (
                (proof.accuracy_ours, proof.interval_ours),
                (proof.accuracy_theirs, proof.interval_theirs),
            )
        )
        lines.append(f"accuracy on {proof.labelled} labelled photos: bundle {ours}, original {theirs}")
        if not proof.independent:
            lines.append("the same photos chose the preprocessing: on other photos accuracy may be lower")
        calibration = proof.metrics["calibration"]
        lines.append(
            f"calibration: temperature {proof.temperature:.2f}, expected calibration error "
            f"{calibration['ece_before']:.3f} before, {calibration['ece_after']:.3f} after"
        )
    return "\n".join(lines)
