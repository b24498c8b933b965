"""python -m train.experiments.ablation -- TSV --val TSV --weights W ...: what each part of the training recipe gains.

The recipe of `picnic-edge train` runs once unchanged and once per variant, with one part left out or replaced; each in
a process of its own, from the same head, seed and photos, without the refit. After -- come options of `picnic-edge
train`; give --fine-tune-epochs a small number, since every variant takes as long as a training. With a few hundred
validation photos the accuracy is uncertain by two points: the loss, taken at the best temperature, says more.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
import typing

from edge_runtime.cli.run import run_verb
from edge_runtime.console import say
from edge_runtime.photos import spec
from train.cli import train
from train.data import dataset
from train.model import fine_tune, network, recipe, tf_setup, workers
from train.model.checkpoint import Checkpoint

_LARGE_EPSILON = 1e3  # far larger than any gradient: Adam becomes SGD with momentum
_SGD_RATE = 0.01 / (1 - fine_tune.BETA_1)  # Adam's momentum is a mean of gradients, not their sum

# name -> (changed values of train.model.fine_tune, of train.model.recipe, of the command line)
VARIANTS: typing.Dict[str, tuple] = {
    "as it is": ({}, {}, {}),
    "without augmentation": ({}, {}, {"augment": 0.0}),
    "mixup": ({}, {}, {"mix": "mixup"}),
    "cutmix": ({}, {}, {"mix": "cutmix"}),
    "SGD, momentum 0.9, rate 0.01": ({"EPSILON": _LARGE_EPSILON}, {"PEAK_RATE": _SGD_RATE * _LARGE_EPSILON}, {}),
    "without label smoothing": ({"LABEL_SMOOTHING": 0.0}, {}, {}),
    "two blocks": ({}, {}, {"fine_tune": 2}),
    "without the moving average": ({"AVERAGE": 0.0}, {}, {}),
    "without dropout": ({"DROPOUT": 0.0}, {}, {}),
    "twice the dropout": ({"DROPOUT": 0.4}, {}, {}),
    "four blocks": ({}, {}, {"fine_tune": 4}),
}


def main(argv=None):
    """Trains all variants and prints a line for each. Raises PicnicError as the exit codes say."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    separator = arguments.index("--") if "--" in arguments else len(arguments)
    this = argparse.ArgumentParser(
        prog="python -m train.experiments.ablation",
        description="Train with each part of the recipe left out; say what it gains on the validation photos.",
        epilog="example: python -m train.experiments.ablation -- train.tsv --val val.tsv --fine-tune-epochs 4",
    )
    this.add_argument("--only", nargs="+", choices=list(VARIANTS), metavar="VARIANT", help=", ".join(VARIANTS))
    names = this.parse_args(arguments[:separator]).only or list(VARIANTS)
    with tempfile.TemporaryDirectory() as scratch:
        train_options = arguments[separator + 1 :] + ["--out", os.path.join(scratch, "bundle")]
        options = train.parser().parse_args(train_options)
        if not options.fine_tune:
            options.fine_tune = recipe.BLOCKS
        print("| variant | val loss | accuracy | macro-F1 | minutes |\n| --- | --: | --: | --: | --: |", flush=True)
        with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
            for number, name in enumerate(names):
                head_alone, best, minutes = pool.apply(_train, (name, options))
                if not number:
                    print(f"| the head alone | {' | '.join(f'{value:.3f}' for value in head_alone)} | |")
                print(f"| {name} | {' | '.join(f'{value:.3f}' for value in best)} | {minutes:.1f} |", flush=True)


def _train(name, options):
    """Trains one variant. Returns ((val loss, accuracy, macro-F1) of the head alone, the same at its best, minutes)."""
    started = time.perf_counter()
    of_fine_tune, of_recipe, of_options = VARIANTS[name]
    for module, values in ((fine_tune, of_fine_tune), (recipe, of_recipe), (options, of_options)):
        for key, value in values.items():
            if not hasattr(module, key):  # renamed since
                raise AttributeError(f"{name}: {module} has no {key}")
            setattr(module, key, value)
    say(f"== {name}")
    data = dataset.read_dataset(options)
    tf_setup.load_tensorflow()
    strategy = workers.new_strategy()
    tf_setup.set_seed(options.seed)
    with strategy.scope():
        base, _ = network.build_base(
            options.weights, spec.squash(options.size), [photo.path for photo in data.training]
        )
    settings = train.settings_of(options)
    settings = settings._replace(
        fine_tune_epochs=settings.fine_tune_epochs or recipe.FINE_TUNE_EPOCHS,
        refit=False,
    )
    checkpoint = Checkpoint(options.out + ".training", {}, False)
    outcome = recipe.train(base, strategy, data, settings, checkpoint, _ignore)
    checkpoint.remove()
    curves = outcome.history["fine_tune"]
    best = min(range(len(curves["val_loss"])), key=curves["val_loss"].__getitem__)
    names = ("val_loss", "val_accuracy", "val_macro_f1")
    head_alone, at_best = (tuple(curves[key][epoch] for key in names) for epoch in (0, best))
    return head_alone, at_best, (time.perf_counter() - started) / 60


def _ignore(stage, epoch, figures):
    pass  # the screen shows enough


if __name__ == "__main__":
    sys.exit(run_verb(main, sys.argv[1:]))
