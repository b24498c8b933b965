"""Makes a convolutional base with random weights useful as a fixed feature extractor (`--weights none`)."""

import numpy as np

from edge_runtime.machine.libraries import require

SHIFT = 2.0  # beta of every batch norm: ReLU then sees mean 2, standard deviation 1


def calibrate_batch_norm(base, batches):
    """Sets every batch norm of a freshly initialised Keras `base` from data, in place; returns `base`.

    `batches` yields float32 arrays [n, height, width, 3], preprocessed as for training; two batches of 32
    shuffled training photos are enough. Call it once, before the features are computed. It draws no random
    number: with the same weights and batches the result is the same.

    Why: with random weights and the norms' initial statistics (mean 0, variance 1) the signal fades from layer
    to layer, until all photos have the same features (standard deviation below 1e-4). Two remedies, both needed:

    * The moving mean and variance of each norm are measured on the photos, so that every layer passes on values
      of standard deviation 1. This is the data-dependent initialisation of Krähenbühl et al. 2016,
      arXiv:1511.06856, with the statistics kept in the batch norms instead of the kernels.
    * beta is set to `SHIFT`. At beta 0 a ReLU cuts away half of each channel and a stack this deep loses the
      product: half of the features' variance lies along one direction, which follows brightness and contrast
      (macro-F1 0.7 to 0.9 on drawn photos). At beta 2 few values are cut, so that near photos keep near
      features, yet enough curvature is left to tell shapes apart (0.9 to 1.0). beta
      alone does not help (standard deviation 2e-3).

    The statistics are means over the batches' own means and variances. A frozen base (`trainable = False`) is
    fine: the norms' `trainable` and `momentum` are put back afterwards, so a saved model shows no trace.
    """
    tf = require("tensorflow")
    norms = [layer for layer in base.layers if isinstance(layer, tf.keras.layers.BatchNormalization)]
    if not norms:
        raise ValueError(f"calibrate_batch_norm: {base.name} has no batch norm among its layers")
    before = [(layer.momentum, layer.trainable) for layer in norms]
    for layer in norms:
        layer.beta.assign(np.full(layer.beta.shape, SHIFT, np.float32))
        layer.momentum = 0.0  # the moving statistics become those of the latest batch
        layer.trainable = True  # a frozen norm would ignore training=True
    totals = [[0.0, 0.0] for _ in norms]
    count = 0
    try:
        for batch in batches:
            base(tf.convert_to_tensor(batch), training=True)
            count += 1
            for total, layer in zip(totals, norms):
                total[0] = total[0] + layer.moving_mean.numpy()
                total[1] = total[1] + layer.moving_variance.numpy()
    finally:
        for layer, (momentum, trainable) in zip(norms, before):
            layer.momentum, layer.trainable = momentum, trainable
    if not count:
        raise ValueError("calibrate_batch_norm: expected one batch of photos or more, got none")
    for layer, (mean, variance) in zip(norms, totals):
        layer.moving_mean.assign(mean / count)
        layer.moving_variance.assign(variance / count)
    return base
