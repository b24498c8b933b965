"""Fine-tuning: the last InceptionV3 blocks and the head, trained together on augmented photos."""

import contextlib
import math
import time
import typing

import numpy as np

from edge_runtime.console import progress, say
from edge_runtime.machine.libraries import require
from edge_runtime.photos import read
from train.data.batches import photo_batches
from train.model import workers
from train.model.augment import augment, mix
from train.model.network import scale
from train.model.tf_setup import low_precision

DROPOUT = 0.2  # of the pooled features
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7  # of Adam (Kingma and Ba 2015, arXiv:1412.6980)
LABEL_SMOOTHING = 0.1  # share of a label that is given to all classes (Szegedy et al. 2016, arXiv:1512.00567)
_WARM_UP_STEPS = 100
AVERAGE = 0.99  # per step, of the weights' moving average
LOSS_SCALE = 1024.0  # keeps float16 gradients on a GPU from vanishing
_LAST_BLOCK = 10  # InceptionV3's blocks are mixed0 .. mixed10
_BATCH = 32
_TIMED_PHOTOS, _TIMED_S = 96, 5.0  # at least


class Plan(typing.NamedTuple):
    """The settings of one fine-tuning."""

    stage: str  # its name on the screen and in the checkpoint
    blocks: int  # 1..11, how many of mixed0 .. mixed10, counted from the last, are trained
    epochs: int  # passes over the photos, with new augmentation in each
    peak_rate: float  # learning rate after the warm-up
    augment: float  # strength of the augmentation, 0 for none
    mix: typing.Optional[str]  # one of train.model.augment.MIXES, or None
    seed: int  # of the order, the augmentation, the mixing and the dropout


def fine_tune(network, photos, labels, class_weights, validate, plan, checkpoint, on_epoch):
    """Trains the last blocks of the base together with the head, in place.

    Batch norms stay in inference mode: the statistics of small batches would undo what ImageNet taught them.

    Args:
        network: train.model.network.Network, its head trained.
        photos: list of train.data.labels.Photo to train on.
        labels: int [n], the photos' class indices.
        class_weights: float32 [classes], the weight of a photo of each class in the loss.
        validate: a function that takes a function (uint8 batch -> probabilities) and returns a dict with val_loss. The
            epoch with the lowest validation loss is kept. None: the last epoch is kept.
        plan: a Plan.
        checkpoint: train.model.checkpoint.Checkpoint; the state is saved to it after each epoch and resumed from it.
        on_epoch: function of (stage, epoch, {name: value}), called after each epoch.

    Returns:
        (history, interrupted): {"loss": [value per epoch], each name from validate: [value before the first epoch and
        after each]}; whether Ctrl-C ended it, in which case the network has the best weights so far.
    """

    def mean_of_workers(figures):  # or workers would disagree about which epoch is best
        return dict(zip(figures, map(float, workers.mean(network.strategy, list(figures.values())))))

    with low_precision():
        trainer = _Trainer(network, class_weights, plan)
        first = 0
        history: typing.Dict[str, list] = {"loss": []}
        if checkpoint.facts.get("stage") == plan.stage:
            trainer.restore(checkpoint.arrays)
            first, history = checkpoint.facts["epoch"], checkpoint.facts["history"]
            say(f"{plan.stage}: resuming after epoch {first}")
        interrupted = False
        try:
            if validate and not first:
                history.update({name: [value] for name, value in mean_of_workers(validate(trainer.predict)).items()})
            started = time.perf_counter()
            for epoch in range(first, plan.epochs):
                figures = {"loss": trainer.train_epoch(photos, labels, epoch)}
                with trainer.averaged():
                    if validate:
                        figures.update(mean_of_workers(validate(trainer.predict)))
                    last = epoch + 1 == plan.epochs
                    if figures["val_loss"] <= min(history["val_loss"]) if validate else last:
                        trainer.keep()
                for name, value in figures.items():
                    history[name].append(value)
                on_epoch(plan.stage, epoch, figures)
                checkpoint.save({"stage": plan.stage, "epoch": epoch + 1, "history": history}, trainer.state())
                per_epoch_s = (time.perf_counter() - started) / (epoch + 1 - first)
                left_min = per_epoch_s * (plan.epochs - epoch - 1) / 60
                line = "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
                line += f"  {round(left_min)} min left" if left_min >= 1 else ""
                # After the checkpoint: an epoch that was printed is never lost.
                say(f"{plan.stage}: epoch {epoch + 1} of {plan.epochs}  {line}")
        except KeyboardInterrupt:
            interrupted = True
        trainer.finish()
    return history, interrupted


def seconds_per_photo(network, photos, labels, class_weights, plan):
    """Returns how many seconds a photo takes in fine_tune's epochs on this machine; all workers get the same number.

    Times some training steps and then puts the weights back.

    Args:
        network: train.model.network.Network, its head trained.
        photos: list of train.data.labels.Photo to train on.
        labels: int [n], the photos' class indices.
        class_weights: float32 [classes], the weight of a photo of each class in the loss.
        plan: a Plan; its epochs may be None.
    """
    plan = plan._replace(stage="timing", epochs=1)
    order = np.random.RandomState(plan.seed).permutation(len(photos))
    with low_precision():
        trainer = _Trainer(network, class_weights, plan)

        def train_s(count):
            chosen = order[:count]
            started = time.perf_counter()
            trainer.train_epoch([photos[number] for number in chosen], labels[chosen], 0)
            return workers.mean(network.strategy, [time.perf_counter() - started])[0]

        train_s(_BATCH)  # TensorFlow builds its graph
        count = _TIMED_PHOTOS
        elapsed_s = train_s(count)
        while elapsed_s < _TIMED_S and count < len(photos):
            count *= 2
            elapsed_s = train_s(count)
        trainer.finish()
    return elapsed_s / min(count, len(photos))


def learning_rate(step, total, peak):
    """Returns the learning rate of one of `total` steps: linear warm-up to the peak, then half a cosine to 0."""
    warm_up = max(1, min(_WARM_UP_STEPS, total // 3))
    if step < warm_up:
        return peak * (step + 1) / warm_up
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, total - warm_up)))


class _Trainer:
    """The trained variables, Adam's moments and the moving average of each, and the best averages so far."""

    def __init__(self, network, class_weights, plan):
        tensorflow = require("tensorflow")
        self._network, self._plan = network, plan
        self._class_weights = class_weights
        self._worker, self._workers = workers.cluster()
        self._batch = max(1, _BATCH // self._workers) * self._workers
        variables = _unfreeze(network.base, plan.blocks) + network.head.trainable_variables
        # Keras 3 wraps TensorFlow's variables, which tf.distribute wants plain.
        self._variables = [variable if callable(variable.value) else variable.value for variable in variables]
        for variable, value in zip(self._variables, workers.mean(network.strategy, self._values())):
            variable.assign(value)  # rounding made the workers' heads differ a little
        with network.strategy.scope():
            self._moments = [
                [tensorflow.Variable(value * 0, trainable=False) for value in self._values()] for _ in range(2)
            ]
            self._averages = [tensorflow.Variable(value, trainable=False) for value in self._values()]
        self._best = self._values()
        self._step = self._build_step()
        base, head = network.base, network.head
        self.predict = tensorflow.function(lambda pixels: head(base(scale(pixels), training=False)), autograph=False)

    def train_epoch(self, photos, labels, epoch):
        """Makes one pass over the photos. Returns the mean loss."""
        plan, worker, count = self._plan, self._worker, self._workers
        stage = sum(map(ord, plan.stage))
        order = np.random.RandomState([plan.seed, stage, epoch]).permutation(len(photos))
        steps = int(math.ceil(len(photos) / self._batch))
        groups = [order[start : start + self._batch] for start in range(0, len(order), self._batch)]
        # A worker without a photo of its own in the last batch takes one with weight 0.
        own = [group[worker::count] if len(group) > worker else group[:1] for group in groups]
        paths = [photos[number].path for numbers in own for number in numbers]
        losses = []
        with progress(total=len(photos), what=f"{plan.stage} {epoch + 1}/{plan.epochs}") as bar:
            load = _augmented(photos, plan, stage, epoch, self._network.input_spec) if plan.augment else None
            batches = photo_batches(paths, self._batch // count, self._network.input_spec, load)
            for number, pixels in enumerate(batches):
                group, chosen = groups[number], labels[own[number]]
                weights = self._class_weights[chosen] * (len(group) > worker) / len(group)
                targets = _targets(chosen, len(self._class_weights))
                if plan.mix and len(group) > worker:
                    # Five numbers: no seed of an order or a photo has that length.
                    random = np.random.RandomState([plan.seed, stage, epoch, number, worker])
                    pixels, targets, weights = _mixed(pixels.numpy(), targets, weights, random, plan.mix)
                step = epoch * steps + number
                rate = learning_rate(step, plan.epochs * steps, plan.peak_rate)
                loss = self._step(
                    pixels,
                    targets,
                    weights.astype(np.float32),
                    np.array([plan.seed, stage * 1000003 + step], np.int64).astype(np.int32),  # wraps large seeds
                    np.int32(len(group)),
                    np.float32(rate),
                    np.float32(step + 1),
                )
                losses.append(float(loss) * len(group))
                bar.update(len(group))
        return sum(losses) / len(photos)

    def _build_step(self):
        """Returns a function that makes one Adam step on a batch that the workers share."""
        tensorflow = require("tensorflow")
        base, head, strategy, input_spec = self._network
        variables, dense = self._variables, head.layers[-1]
        worker, count = self._worker, self._workers

        def gradients_of(pixels, targets, weights, mask):
            with tensorflow.GradientTape() as tape:
                logits = tensorflow.matmul(base(scale(pixels), training=False) * mask, dense.kernel) + dense.bias
                losses = tensorflow.nn.softmax_cross_entropy_with_logits(targets, logits)
                loss = tensorflow.reduce_sum(weights * losses)
                scaled = loss * LOSS_SCALE
            values = tape.gradient(scaled, variables) + [loss]
            if count == 1:
                return values
            return tensorflow.distribute.get_replica_context().all_reduce(tensorflow.distribute.ReduceOp.SUM, values)

        def update(variable, first, second, average, gradient, rate, number):
            first.assign(BETA_1 * first + (1 - BETA_1) * gradient)
            second.assign(BETA_2 * second + (1 - BETA_2) * gradient * gradient)
            change = (first / (1 - BETA_1**number)) / (tensorflow.sqrt(second / (1 - BETA_2**number)) + EPSILON)
            variable.assign_sub(rate * change)
            decay = tensorflow.minimum(AVERAGE, number / (9.0 + number))
            average.assign(decay * average + (1 - decay) * variable)

        class_count = dense.kernel.shape[1]
        # For any number of photos: an epoch's last batch is smaller, and a graph of its own would take long to build.
        inputs = [((None,) + input_spec.shape, "uint8"), ([None, class_count], "float32"), ([None], "float32")]
        inputs += [([2], "int32"), ([], "int32"), ([], "float32"), ([], "float32")]
        signature = [tensorflow.TensorSpec(shape, kind) for shape, kind in inputs]

        @tensorflow.function(autograph=False, input_signature=signature)
        def step(pixels, targets, weights, seed, rows, rate, number):
            # For the whole batch: a photo loses the same features whichever worker has it.
            shape = [tensorflow.maximum(rows, count), dense.kernel.shape[0]]
            is_used = tensorflow.random.stateless_uniform(shape, seed)[worker::count] >= DROPOUT
            mask = tensorflow.cast(is_used, tensorflow.float32) / (1 - DROPOUT)
            values = strategy.run(gradients_of, args=(pixels, targets, weights, mask))
            *gradients, loss = [strategy.experimental_local_results(value)[0] for value in values]
            gradients = [gradient / LOSS_SCALE for gradient in gradients]
            # float16 may overflow: Adam's moments would never recover from an infinite gradient.
            finite = [tensorflow.reduce_all(tensorflow.math.is_finite(each)) for each in gradients]
            finite = tensorflow.reduce_all(finite)
            gradients = [tensorflow.where(finite, each, tensorflow.zeros_like(each)) for each in gradients]
            for position, variable in enumerate(variables):
                strategy.extended.update(
                    variable,
                    update,
                    args=(
                        self._moments[0][position],
                        self._moments[1][position],
                        self._averages[position],
                        gradients[position],
                        rate,
                        number,
                    ),
                )
            return loss

        return step

    @contextlib.contextmanager
    def averaged(self):
        """Within the block the network has the averaged weights."""
        trained = self._values()
        self._assign([average.numpy() for average in self._averages])
        yield
        self._assign(trained)

    def keep(self):
        """Remembers the network's weights as the best."""
        self._best = self._values()

    def finish(self):
        """Gives the network its best weights, frozen."""
        self._assign(self._best)
        self._network.base.trainable = False

    def state(self):
        """Returns all that restore needs, as {name: array}."""
        lists = [self._values(), self._best]
        lists += [[variable.numpy() for variable in variables] for variables in self._moments + [self._averages]]
        return {f"{kind}/{number}": value for kind, values in enumerate(lists) for number, value in enumerate(values)}

    def restore(self, arrays):
        """Continues from a state."""
        values, best, first, second, averages = (
            [arrays[f"{kind}/{number}"] for number in range(len(self._variables))] for kind in range(5)
        )
        self._assign(values)
        self._best = best
        for variables, saved in zip(self._moments + [self._averages], (first, second, averages)):
            for variable, value in zip(variables, saved):
                variable.assign(value)

    def _values(self):
        return [variable.numpy() for variable in self._variables]

    def _assign(self, values):
        for variable, value in zip(self._variables, values):
            variable.assign(value)


def _unfreeze(base, blocks):
    """Makes the last blocks trainable, without their batch norms; returns their variables."""
    norm = require("tensorflow").keras.layers.BatchNormalization
    names = [layer.name for layer in base.layers]
    first = 0 if blocks > _LAST_BLOCK else names.index(f"mixed{_LAST_BLOCK - blocks}") + 1
    base.trainable = True
    for position, layer in enumerate(base.layers):
        layer.trainable = position >= first and not isinstance(layer, norm)
    return base.trainable_variables


def _augmented(photos, plan, stage, epoch, input_spec):
    """Returns a function path -> augmented picture; its random numbers depend only on seed, stage, epoch and photo."""
    number_of = {photo.path: number for number, photo in enumerate(photos)}

    def load(path):
        random = np.random.RandomState([plan.seed, stage, epoch, number_of[path]])
        return augment(read.read_image(path, input_spec), random, plan.augment)

    return load


def _targets(labels, class_count):
    targets = np.full((len(labels), class_count), LABEL_SMOOTHING / class_count, np.float32)
    targets[np.arange(len(labels)), labels] += 1 - LABEL_SMOOTHING
    return targets


def _mixed(pixels, targets, weights, random, kind):
    """Mixes the photos of a batch and, in the same shares, their labels. Returns (pixels, targets, weights)."""
    pixels, others, shares = mix(pixels, random, kind)
    own, other = shares * weights, (1 - shares) * weights[others]
    weights = own + other
    targets = (own[:, None] * targets + other[:, None] * targets[others]) / weights[:, None]
    return pixels, targets.astype(np.float32), weights
