"""Models that were trained elsewhere become bundles.

readers/            one module per kind of file: it is opened without running code in it, and gives an Original
archives.py         zips are unpacked without trusting what they claim
labels.py           the names of the classes, from the files that models come with
onnx_weights.py     an ONNX file's bytes: what it claims is checked before it is believed
trial.py            an unknown ONNX graph is run in a process with limits first
batch.py opsets.py  a fixed batch is freed; opset 13, with the same numbers
original.py         what all readers return
preprocessing.py    how its makers turned photos into numbers: presets, and what the files say
find.py             which preprocessing fits labelled photos best
graph.py            the bundle's model.onnx: the original with its preprocessing inside, from uint8 to probabilities
check_photos.py     the photos of --check
proof.py            the original's own answers beside the bundle's
"""
