"""The preprocessing that a model expects is found by labelled photos."""

import numpy as np
import pytest

from edge_runtime.errors import UsageError
from edge_runtime.photos.read import read_image
from tests.train.importing import networks
from tests.train.importing.networks import NAMES, options, preprocessing, softmax
from train.importing import find
from train.importing.original import Declared
from train.importing.preprocessing import as_input, from_options

PHOTOS = 64


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    return networks.write_blocks(tmp_path_factory.mktemp("blocks"), PHOTOS)


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    return networks.write_blocks(tmp_path_factory.mktemp("squares"), PHOTOS, [(40, 40)])


def labelled(paths, expected):
    """Returns the photos with the labels that the network gives them when they are prepared as expected."""
    model = networks.original(expected)
    pictures = np.stack([read_image(path, expected.input_spec) for path in paths])
    return list(zip(paths, map(int, model.run(as_input(model, expected, pictures)).argmax(axis=1))))


def choose(model, photos, **given):
    return find.choose(model, photos, from_options(model, options(**given)), options(**given))


@pytest.mark.parametrize(
    "expected",
    [
        preprocessing("caffe", "BGR", "crop", 0.875),
        preprocessing("imagenet", "RGB", "letterbox"),
        preprocessing("0..1", "BGR", "crop", 1.0),
    ],
    ids=["caffe, crop", "ImageNet, letterbox", "0..1, BGR"],
)
def test_photos_show_scale_channels_and_resize(blocks, expected):
    choice = choose(networks.original(expected), labelled(blocks, expected))
    assert choice.preprocessing == expected
    assert choice.photos == PHOTOS and choice.warnings == []
    assert choice.scores[0].accuracy == 1


def test_the_table_has_every_candidate(blocks):
    expected = preprocessing("0..255")
    model = networks.original(expected)
    choice = choose(model, labelled(blocks, expected))
    assert len(find.candidates(model, from_options(model, options()))) == 40
    lines = choice.table.splitlines()
    assert len(lines) == 1 + 40 + 1
    assert "100.0 %" in lines[1] and "taken" in lines[1]
    assert lines[-1].startswith("taken: squash, RGB, 0..255")


def test_on_square_photos_the_files_decide_how_they_are_resized(squares):
    declared = Declared("config.json", "crop", networks.SIZE)
    expected = preprocessing("-1..1", "RGB", "crop", 1.0)
    choice = choose(networks.original(expected, declared=declared), labelled(squares, expected))
    assert (choice.preprocessing, choice.decided_by, choice.warnings) == (expected, "declared", [])
    assert {one.input_spec.resize for one in choice.equal} == {"squash", "letterbox"}


def test_on_square_photos_the_simplest_resize_is_taken_where_nothing_is_declared(squares):
    expected = preprocessing("-1..1", "RGB", "crop", 1.0)
    choice = choose(networks.original(expected), labelled(squares, expected))
    assert (choice.preprocessing, choice.decided_by) == (preprocessing(), "simplest")
    assert expected in choice.equal
    assert "cannot tell" in choice.table and "simplest" in choice.table


def test_files_that_contradict_the_photos_are_a_warning_with_both_accuracies(blocks):
    stated = preprocessing("0..255")
    declared = Declared("config.json", "squash", None, "bilinear", "RGB", stated.mean, stated.std)
    model = networks.original(preprocessing(), declared=declared)
    choice = choose(model, labelled(blocks, preprocessing()))
    assert (choice.preprocessing, choice.decided_by) == (preprocessing(), "photos")
    (warning,) = choice.warnings
    assert "config.json" in warning and "100.0 %" in warning and warning.count("95 %") == 2


def test_what_an_option_says_is_fixed(blocks):
    model = networks.original(preprocessing())
    choice = choose(model, labelled(blocks, preprocessing()), scale="imagenet", channels="RGB")
    assert {score.preprocessing.mean for score in choice.scores} == {preprocessing("imagenet").mean}
    assert {score.preprocessing.channels for score in choice.scores} == {"RGB"}
    assert len(choice.used) == PHOTOS


def test_where_all_is_given_the_photos_choose_nothing(blocks):
    model, photos = networks.original(preprocessing()), labelled(blocks, preprocessing())
    choice = choose(model, photos, scale="-1..1", channels="RGB", resize="squash")
    assert (choice.decided_by, choice.photos, choice.used) == ("declared", PHOTOS, frozenset())
    assert "no other way" in choice.table


def test_a_preset_is_checked_like_a_file(blocks):
    choice = choose(networks.original(preprocessing()), labelled(blocks, preprocessing()), preset="torchvision")
    assert choice.preprocessing.mean == preprocessing().mean
    assert "--preset torchvision" in choice.warnings[0]


def test_means_of_the_files_own_are_a_candidate(blocks):
    own = preprocessing()._replace(mean=(30.0, 90.0, 200.0), std=(40.0, 90.0, 150.0))
    declared = Declared("config.json", None, None, None, "RGB", own.mean, own.std)
    choice = choose(networks.original(own, declared=declared), labelled(blocks, own))
    assert choice.preprocessing == own and choice.warnings == []


def test_few_photos_leave_the_choice_to_what_is_declared(blocks, capsys):
    photos = labelled(blocks[:49], preprocessing())
    choice = choose(networks.original(preprocessing()), photos, preset="keras-tf")
    assert (choice.decided_by, choice.photos, choice.table) == ("declared", 0, "")
    assert choice.preprocessing.input_spec.filter == "nearest"
    assert "too few" in capsys.readouterr().err


@pytest.mark.parametrize("photos", [None, [("a.jpg", None)] * 60, [("a.jpg", 0)] * 10])
def test_without_photos_and_files_a_preset_is_asked_for(photos):
    with pytest.raises(UsageError, match="torchvision") as caught:
        choose(networks.original(preprocessing()), photos)
    assert "--scale" in str(caught.value) and "--check" in str(caught.value)


def test_a_photo_that_cannot_be_read_is_left_out(blocks, tmp_path, capsys):
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    photos = [(str(tmp_path / "broken.jpg"), 0)] + labelled(blocks, preprocessing())
    choice = choose(networks.original(preprocessing()), photos)
    assert (choice.photos, choice.preprocessing) == (PHOTOS, preprocessing())
    assert "broken.jpg" in capsys.readouterr().err


def test_an_original_of_bytes_has_one_scale(blocks):
    expected = preprocessing("0..255", "BGR")
    model = networks.original(expected)._replace(dtype="uint8")
    choice = choose(model, labelled(blocks, expected))
    assert choice.preprocessing == expected
    assert {score.preprocessing.std for score in choice.scores} == {(1.0, 1.0, 1.0)}


def test_nan_on_wrong_pixels_only_costs_the_wrong_candidate(blocks):
    def run(values):
        return np.where(values.max(axis=(1, 2, 3))[:, None] > 100, np.nan, model.run(values))

    model = networks.original(preprocessing())
    choice = choose(model._replace(run=run), labelled(blocks, preprocessing()))
    assert choice.preprocessing == preprocessing()


class TestOrderOfLabels:
    def test_labels_sorted_in_another_way_are_recognized(self, blocks):
        names = ["10 c", "9 b", "2 a", "33 e", "4 d"]  # as the outputs are: no order at all
        sorted_names = sorted(names)
        photos = labelled(blocks, preprocessing())
        photos = [(path, names.index(sorted_names[output])) for path, output in photos]
        with pytest.raises(UsageError, match="sorted as strings, accuracy would be 1.00"):
            choose(networks.original(preprocessing(), names=names), photos)

    def test_any_order_is_found_with_photos_that_did_not_choose_it(self, blocks):
        order = [3, 0, 4, 1, 2]
        photos = [(path, order[output]) for path, output in labelled(blocks, preprocessing())]
        with pytest.raises(UsageError, match="in this order.*class 3, class 0, class 4, class 1, class 2"):
            choose(networks.original(preprocessing()), photos)

    def test_a_swap_of_two_labels_is_a_warning(self, blocks):
        order = [1, 0, 2, 3, 4]
        photos = [(path, order[output]) for path, output in labelled(blocks, preprocessing())]
        counts = np.bincount([output for _, output in photos], minlength=5)
        assert counts[:2].sum() < PHOTOS / 2  # else it is refused
        choice = choose(networks.original(preprocessing()), photos)
        assert "class 1, class 0, class 2" in choice.warnings[-1]

    def test_random_labels_suggest_no_order(self, blocks):
        photos = [(path, number % 5) for number, path in enumerate(blocks)]
        with pytest.raises(UsageError, match="better than chance") as caught:
            choose(networks.original(preprocessing()), photos)
        assert "wrong order" not in str(caught.value)

    def test_random_labels_are_refused_even_where_all_is_declared(self, blocks):
        photos = [(path, number % 5) for number, path in enumerate(blocks)]
        with pytest.raises(UsageError, match="better than chance"):
            choose(networks.original(preprocessing()), photos, preset="vit")

    def test_only_classes_that_occur_are_put_into_an_order(self):
        truth = np.array([7, 20000, 7, 20000, 3, 3])
        probabilities = np.zeros((6, 21000), np.float32)
        probabilities[np.arange(6), [20000, 7, 20000, 7, 3, 3]] = 1
        order, right = find.best_order(probabilities, truth)
        assert right.all() and (order[7], order[20000], order[3], order[5]) == (20000, 7, 3, 5)


class TestBackground:
    def test_one_output_more_is_a_background_class_where_no_photo_is_of_it(self, blocks):
        model = networks.original(preprocessing(), finish=lambda logits: np.pad(logits, ((0, 0), (1, 0)), "minimum"))
        assert choose(model, labelled(blocks, preprocessing())).preprocessing == preprocessing()

    def test_a_lost_label_is_no_background_class_either(self, blocks):
        model = networks.original(preprocessing(), names=NAMES[:4])  # the last one lacks: all others would shift
        photos = [(path, output) for path, output in labelled(blocks, preprocessing()) if output < 4]
        with pytest.raises(UsageError):
            choose(model, photos)
        with pytest.raises(UsageError, match="5 outputs and 4 labels"):  # without labels, too
            choose(model, [(path, None) for path, _ in photos], preset="vit")

    def test_a_lacking_label_is_no_background_class(self, blocks):
        photos = [(path, max(output - 1, 0)) for path, output in labelled(blocks, preprocessing())]
        with pytest.raises(UsageError, match="5 outputs and 4 labels"):
            choose(networks.original(preprocessing(), names=NAMES[1:]), photos)

    def test_more_labels_than_outputs_are_refused(self, blocks):
        model = networks.original(preprocessing(), names=NAMES + ["more"])
        with pytest.raises(UsageError, match="5 outputs and 6 labels"):
            choose(model, labelled(blocks, preprocessing()))


def test_a_good_model_on_photos_of_nearly_one_class_is_not_chance(blocks):
    model = networks.original(preprocessing())
    photos = labelled(blocks, preprocessing())
    counts = np.bincount([output for _, output in photos], minlength=5)
    common, rare = counts.argmax(), np.argsort(counts)[-2]
    of = {label: [path for path, output in photos if output == label] * 20 for label in (common, rare)}
    # 190 and 10 of 200, 98 % right: naming the common class always is right on 95 %.
    many = [(path, common) for path in of[common][:188] + of[rare][:2]]
    many += [(path, rare) for path in of[rare][2:10] + of[common][188:190]]
    choice = choose(model, many)
    assert choice.preprocessing == preprocessing() and choice.kind == "logits"


def test_probabilities_are_scored_as_they_are(blocks):
    model = networks.original(preprocessing("imagenet"), finish=softmax)
    assert choose(model, labelled(blocks, preprocessing("imagenet"))).preprocessing == preprocessing("imagenet")


def test_better_means_beyond_an_interval():
    losses = np.random.RandomState(0).normal(1, 0.3, 100)
    score = find.Score(preprocessing(), losses < 1, losses, np.zeros((100, 2)))
    noise = np.random.RandomState(1).normal(0, 0.3, 100)
    assert not find.is_better(score, score)
    assert not find.is_better(score, score._replace(losses=losses + noise - noise.mean() + 0.001))
    assert find.is_better(score, score._replace(losses=losses + noise - noise.mean() + 0.2))
    assert not find.is_better(score._replace(losses=losses + 0.2), score)
