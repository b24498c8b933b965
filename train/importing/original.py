"""What every reader makes of the files of a model that was trained elsewhere."""

import typing


class Original(typing.NamedTuple):
    """A classifier as its makers saved it: one picture in, one row of numbers out.

    Attributes:
        path: the file or folder, for messages.
        kind: what it is, for people: "Keras model", "Hugging Face folder".
        model: onnx.ModelProto with one input, the pictures as float numbers (or uint8), and one output, float32
            [n, outputs]. Its batch is dynamic where the graph allows it.
        layout: of the input, "NCHW" or "NHWC".
        dtype: of the input, numpy's name: "float32", "float16" or "uint8".
        height, width: of the input in pixels; None where any size goes.
        outputs: how many numbers it answers for a photo.
        class_names: in the order of the outputs, or None where the files do not say.
        declared: Declared, what the files say about its preprocessing.
        run: function from an array [n, ...] in layout and dtype to float32 [n, outputs]: the model run by its own
            framework, not by way of ONNX.
    """

    path: str
    kind: str
    model: typing.Any
    layout: str
    dtype: str
    height: typing.Optional[int]
    width: typing.Optional[int]
    outputs: int
    class_names: typing.Optional[typing.List[str]]
    declared: "Declared"
    run: typing.Callable


class Declared(typing.NamedTuple):
    """What a model's files say about its preprocessing; None where they say nothing.

    Attributes:
        source: the file that says it, for messages; "" where none does.
        resize: "squash", "crop" or "letterbox".
        shorter_side: for "crop": pixels of the photo's shorter side before the centre is cut out.
        filter: of edge_runtime.photos.spec.FILTERS without "area".
        channels: "RGB" or "BGR".
        mean, std: three numbers each, in the order of the channels, for pixels 0 to 255: (pixel - mean) / std goes in.
        colour: for "letterbox": of the bars, (red, green, blue), 0 to 255 each.
        height, width: in pixels, of what it was trained with; counts where the graph takes any size.
    """

    source: str = ""
    resize: typing.Optional[str] = None
    shorter_side: typing.Optional[int] = None
    filter: typing.Optional[str] = None
    channels: typing.Optional[str] = None
    mean: typing.Optional[typing.Tuple[float, ...]] = None
    std: typing.Optional[typing.Tuple[float, ...]] = None
    colour: typing.Optional[typing.Tuple[int, ...]] = None
    height: typing.Optional[int] = None
    width: typing.Optional[int] = None
