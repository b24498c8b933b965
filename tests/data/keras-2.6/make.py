"""Writes the files beside it, as Keras 2.6 does: python3.6 make.py. No newer Keras writes such files."""

import json
import os

import numpy as np
import tensorflow as tf

keras, layers = tf.keras, tf.keras.layers


def mobile():
    """A network within a network, whose DepthwiseConv2D says `groups`."""
    source = layers.Input((32, 32, 3))
    x = layers.Conv2D(4, 3, strides=2, use_bias=False)(source)
    x = layers.BatchNormalization()(x)
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    return keras.Model(source, layers.ReLU(6.0)(x), name="mobilenetv2_0.35_32")


def transfer(preprocess_input):
    """As TensorFlow's guide to transfer learning has it: preprocess_input becomes layers of their own."""
    source = layers.Input((32, 32, 3))
    x = mobile()(preprocess_input(layers.RandomFlip("horizontal")(source)), training=False)
    x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(source, layers.Dense(3)(x))


def teachable_machine():
    base = keras.Sequential([mobile(), layers.GlobalAveragePooling2D()])
    top = keras.Sequential([layers.Dense(8, "relu", input_shape=(4,)), layers.Dense(3, "softmax", use_bias=False)])
    return keras.Sequential([base, top])


def others():
    """What else Keras 3 refuses: names with slashes, arguments and classes that it lacks, tensors that are added."""
    source = layers.Input((32, 32, 3))
    x = layers.Conv2D(4, 3, strides=2, name="conv1/conv")(source / 255.0)
    x = layers.SeparableConv2D(4, 3, padding="same")(x) + layers.Conv2DTranspose(4, 3, padding="same")(x)
    x = layers.experimental.SyncBatchNormalization(name="conv1/bn")(tf.nn.relu(x))
    return keras.Model(source, layers.Dense(3)(layers.Flatten()(x)))


if __name__ == "__main__":
    os.chdir(os.path.dirname(os.path.abspath(__file__)))
    pictures = np.random.RandomState(0).uniform(0, 255, (3, 32, 32, 3)).astype(np.float32)
    answers = {}
    for name, build in [
        ("teachable_machine", teachable_machine),
        ("transfer", lambda: transfer(keras.applications.mobilenet_v2.preprocess_input)),
        ("others", others),
        ("caffe", lambda: transfer(keras.applications.resnet50.preprocess_input)),
    ]:
        tf.random.set_seed(0)
        model = build()
        model.save(name + ".h5", include_optimizer=False)
        answers[name] = model.predict(pictures).tolist()
    with open("answers.json", "w") as file:
        json.dump(answers, file)
