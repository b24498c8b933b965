"""Models that were trained elsewhere become bundles.

readers/            one module per kind of file: it is opened without running code in it, and gives an Original
original.py         what all readers return
preprocessing.py    how its makers turned photos into numbers: presets, and what the files say
find.py             which preprocessing fits labelled photos best
graph.py            the bundle's model.onnx: the original with its preprocessing inside, from uint8 to probabilities
proof.py            the original's own answers beside the bundle's
"""
