"""The bundle: the folder that training writes, convert adds engines to and everything else reads.

BUNDLE/manifest.json        format version, class names, input spec, metrics, training, sha256 and size of every file,
                            and where there was a key a signature (see edge_runtime/bundle/signing.py)
BUNDLE/model.onnx           opset 13, uint8 [N, height, width, 3] "images" -> float32 [N, classes] "probabilities"
BUNDLE/saved_model/         the same graph, frozen, for TensorFlow and TF-TRT
BUNDLE/sample/              photos at the network's size with the model's own answers: what engines are checked against
BUNDLE/engines/<id>/        engine files and engine.json (see edge_runtime/engines)

Only files that the manifest lists are opened. Opening a bundle checks that all are there, with their sizes; a file's
sum is checked when it is read, so that a start reads no more than it uses. Sums and the id tell a damaged file from a
sound one. They do not tell who made the bundle: see docs/bundle-format.md.
"""
