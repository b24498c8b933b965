"""picnic-edge explain, on a small network with InceptionV3's blocks whose heat is known."""

import os
import re
import sys

import cv2
import numpy as np
import pytest

from edge_runtime.errors import MissingRequirement, UsageError
from tests import helpers
from train.cli import explain as verb
from train.insight import explain

BLUE, GREEN, RED = sorted(helpers.COLOURS)


@pytest.fixture(scope="module")
def blocks_bundle(tmp_path_factory):
    return helpers.write_blocks_bundle(tmp_path_factory.mktemp("blocks") / "bundle")


def two_colours():
    """Red on the left, blue on the smaller right part."""
    rgb = np.empty((200, 200, 3), np.uint8)
    rgb[:, :120], rgb[:, 120:] = helpers.COLOURS[RED], helpers.COLOURS[BLUE]
    return rgb


def read_png(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB).astype(int)


def read_page(folder):
    with open(os.path.join(str(folder), "explain.html"), encoding="utf-8") as file:
        return file.read()


def names_in(folder):
    return sorted(os.listdir(str(folder)))


def colour_of(heat_png):
    """Returns how far from grey (left part, right part) of two_colours are, in levels of 0..255."""
    spread = heat_png.max(axis=2) - heat_png.min(axis=2)
    return spread[:, :140].mean(), spread[:, 220:].mean()


def test_the_pictures_and_the_page(blocks_bundle, tmp_path, capsys):
    helpers.write_photo(tmp_path / "photo.png", two_colours())
    verb.main([blocks_bundle, str(tmp_path / "photo.png"), "--out", str(tmp_path / "a" / "out")])
    blocks = ["mixed0", "mixed10", "mixed2", "mixed5"]
    names = ["explain.html", "photo-heat.png"] + ["photo-%s.png" % block for block in blocks]
    assert names_in(tmp_path / "a" / "out") == sorted(names)
    heat = read_png(tmp_path / "a" / "out" / "photo-heat.png")
    assert heat.shape == (299, 299, 3)
    left, right = colour_of(heat)
    assert left > 20 and right == 0
    page = read_page(tmp_path / "a" / "out")
    assert re.findall(r'alt="heat for ([^"]+)"', page) == [RED, BLUE]
    bars = [float(share) for share in re.findall(r'<div style="width: ([\d.]+)%">', page)]
    assert len(bars) == 3 and bars == sorted(bars, reverse=True) and sum(bars) == pytest.approx(100, abs=0.2)
    assert "<b>mixed0</b>: 9 x 9 places, 4 channels" in page
    assert len(re.findall('<img src="data:image/jpeg;base64,', page)) == page.count("<img") == 1 + 2 + 4
    assert "http" not in page
    said = capsys.readouterr()
    assert said.out == ""
    assert "1 photo explained, written to " in said.err


def test_heat_for_another_class(blocks_bundle, tmp_path):
    helpers.write_photo(tmp_path / "photo.png", two_colours())
    out = str(tmp_path / "out")
    verb.main([blocks_bundle, str(tmp_path / "photo.png"), "--out", out, "--class", BLUE])
    left, right = colour_of(read_png(tmp_path / "out" / "photo-heat.png"))
    assert left == 0 and right > 20
    verb.main([blocks_bundle, str(tmp_path / "photo.png"), "--out", out, "--class", GREEN])
    assert colour_of(read_png(tmp_path / "out" / "photo-heat.png")) == (0, 0)
    page = read_page(out)
    assert re.findall(r'alt="heat for ([^"]+)"', page) == ["green, fresh &amp; ripe", RED, BLUE]
    assert "no place speaks for <b>green, fresh &amp; ripe</b>" in page


def test_chosen_blocks(blocks_bundle, tmp_path):
    helpers.write_photo(tmp_path / "photo.png", two_colours())
    verb.main([blocks_bundle, str(tmp_path / "photo.png"), "--out", str(tmp_path), "--blocks", "mixed9, mixed3"])
    assert names_in(tmp_path) == ["explain.html", "photo-heat.png", "photo-mixed3.png", "photo-mixed9.png", "photo.png"]


@pytest.mark.parametrize(
    "more, said",
    [
        (["--blocks", "mixed11"], "--blocks mixed11: .*mixed0, .*, mixed10"),
        (["--blocks", "mixed0,features"], "--blocks features: "),
        (["--blocks", ""], "block"),
        (["--class", "purple"], "--class purple: .*%s, .*, red" % BLUE),
    ],
)
def test_unknown_blocks_and_classes_exit_with_2(blocks_bundle, tmp_path, more, said):
    helpers.write_photo(tmp_path / "photo.png", two_colours())
    with pytest.raises(UsageError, match=said):
        verb.main([blocks_bundle, str(tmp_path / "photo.png"), "--out", str(tmp_path / "out")] + more)
    assert not (tmp_path / "out").exists()


def test_unreadable_photos_do_not_stop_the_others(blocks_bundle, tmp_path):
    helpers.write_photo(tmp_path / "good.jpg", two_colours())
    helpers.write_bytes(tmp_path / "bad.jpg", b"nothing <b>of use</b>")
    paths = [tmp_path / name for name in ("bad.jpg", "gone.jpg", "none-*.jpg", "good.jpg")]
    done = helpers.picnic_edge("explain", blocks_bundle, *(paths + ["--out", tmp_path / "out"]))
    assert (done.returncode, done.stdout) == (0, b"")
    page = read_page(tmp_path / "out")
    for name, reason in (
        ("bad.jpg", "is not a JPEG, .* picture, but text"),
        ("gone.jpg", "no such file or folder"),
        ("none-*.jpg", "the pattern matches no file"),
    ):
        assert re.search("%s: %s" % (reason, re.escape(str(tmp_path / name))), done.stderr)
        assert re.search('%s <span class="faint">.*%s</span>' % (re.escape(str(tmp_path / name)), reason), page)
    assert "3 photos could not be read" in page
    assert "1 photo explained" in done.stderr
    assert [name for name in names_in(tmp_path / "out") if name.endswith("-heat.png")] == ["good-heat.png"]


def test_no_photo_can_be_read(blocks_bundle, tmp_path):
    helpers.write_bytes(tmp_path / "bad.jpg", b"nothing")
    verb.main([blocks_bundle, str(tmp_path / "bad.jpg"), "--out", str(tmp_path / "out")])
    assert names_in(tmp_path / "out") == ["explain.html"]


def test_nothing_to_explain_exits_with_2(blocks_bundle, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty: "):
        verb.main([blocks_bundle, str(tmp_path / "empty"), "--out", str(tmp_path / "out")])
    with pytest.raises(UsageError, match="gone.jpg: "):
        verb.main([blocks_bundle, str(tmp_path / "gone.jpg"), "--out", str(tmp_path / "out")])


def shades(blue):
    """Returns a picture of two shades of blue."""
    rgb = np.full((50, 50, 3), (0, 0, blue), np.uint8)
    rgb[:, 25:, 2] += 3
    return rgb


def test_photos_of_one_name_keep_pictures_of_their_own(blocks_bundle, tmp_path):
    for number, name in enumerate(["a/x.png", "b/x.png", "c/x-2.png", "c/x.bmp"]):
        helpers.write_photo(tmp_path / "in" / name, shades(80 * number + 10))
    verb.main([blocks_bundle, str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--class", RED])
    heats = [name for name in names_in(tmp_path / "out") if name.endswith("-heat.png")]
    assert heats == ["x-2-2-heat.png", "x-2-heat.png", "x-3-heat.png", "x-heat.png"]
    colours = [tuple(read_png(tmp_path / "out" / name)[0, 0]) for name in heats]
    assert colours == [(19, 19, 19), (10, 10, 10), (28, 28, 28), (1, 1, 1)]  # no place speaks for red: grey photos
    page = read_page(tmp_path / "out")
    shown = re.findall(r"<h2>(.+)</h2>", page), re.findall(r'<p class="faint">(.+)-\*\.png</p>', page)
    assert list(zip(*shown)) == [("a/x.png", "x"), ("b/x.png", "x-2"), ("c/x-2.png", "x-2-2"), ("c/x.bmp", "x-3")]


@pytest.mark.parametrize("out", ["in", "in/explained"])
def test_a_second_run_does_not_explain_the_first_one_s_pictures(blocks_bundle, tmp_path, out):
    helpers.write_photo(tmp_path / "in" / "a.png", two_colours())
    for _ in range(2):
        verb.main([blocks_bundle, str(tmp_path / "in"), "--out", str(tmp_path / out), "--blocks", "mixed3"])
        assert re.findall("<h2>(.+)</h2>", read_page(tmp_path / out)) == ["a.png"]


def test_odd_names(blocks_bundle, tmp_path):
    names = helpers.NASTY_NAMES + ["<script>alert(1)<&>.jpg", "long" + 240 * "n" + ".jpg"]
    for name in names:
        helpers.write_photo(os.path.join(str(tmp_path / "in"), name), two_colours())
    done = helpers.picnic_edge("explain", blocks_bundle, tmp_path / "in", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    heats = [name for name in names_in(tmp_path / "out") if name.endswith("-heat.png")]
    assert len(heats) == len(names)
    page = read_page(tmp_path / "out")
    assert "<h2>&lt;script&gt;alert(1)&lt;&amp;&gt;.jpg</h2>" in page
    assert page.count("<h2>") == len(names)
    assert page.count("<script>") == 1  # the page's own


@pytest.mark.parametrize("kind", ["glob", "table", "standard input"])
def test_what_classify_takes_is_taken(blocks_bundle, tmp_path, kind):
    for name in ("a.jpg", "b.jpg"):
        helpers.write_photo(tmp_path / "in" / name, two_colours())
    helpers.write_table(tmp_path / "t.tsv", [("a.jpg",), ("b.jpg",), ("../x.jpg",)], header=("file",))
    source, lines = {
        "glob": ([tmp_path / "in" / "*.jpg"], None),
        "table": ([tmp_path / "t.tsv", "--images", tmp_path / "in"], None),
        "standard input": (["-"], "".join("%s\n" % (tmp_path / "in" / name) for name in ("a.jpg", "b.jpg")).encode()),
    }[kind]
    done = helpers.picnic_edge("explain", blocks_bundle, *(source + ["--out", tmp_path / "out"]), input=lines)
    assert done.returncode == 0, done.stderr
    assert [name for name in names_in(tmp_path / "out") if "heat" in name] == ["a-heat.png", "b-heat.png"]
    assert ("../x.jpg" in read_page(tmp_path / "out")) == (kind == "table")


def test_the_page_stays_light(blocks_bundle, tmp_path, monkeypatch, capsys):
    for number in range(explain._BATCH + 3):
        helpers.write_photo(tmp_path / "in" / ("%02d.jpg" % number), two_colours())
    monkeypatch.setattr(explain, "PAGE_BYTES", 1)
    verb.main([blocks_bundle, str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--blocks", "mixed0"])
    page = read_page(tmp_path / "out")
    assert re.findall("<h2>(.+)</h2>", page) == ["00.jpg"]
    assert "Only the first photo is shown" in page and "all 19" in page
    assert (
        "the page shows the first 1 of 19 photos; the pictures of all are in the same folder" in capsys.readouterr().err
    )
    assert len(names_in(tmp_path / "out")) == 2 * 19 + 1


def test_many_unreadable_photos_do_not_swell_the_page(blocks_bundle, tmp_path, monkeypatch):
    for number in range(5):
        helpers.write_bytes(tmp_path / "in" / ("%d.jpg" % number), b"")
    monkeypatch.setattr(explain, "PAGE_PROBLEMS", 2)
    verb.main([blocks_bundle, str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    page = read_page(tmp_path / "out")
    assert "5 photos could not be read" in page and "and 3 more" in page
    assert page.count("is empty (0 bytes)") == 2


def test_feature_maps_show_the_strongest_channels_first():
    block = np.zeros((5, 5, 40), np.float32)
    block[2, 2] = np.arange(40)  # the strongest channel is the last one
    block[0, 0, 39] = 39
    sheet = explain.feature_maps(block)
    assert (sheet.shape, sheet.dtype) == ((4 * 72 - 2, 8 * 72 - 2, 3), np.uint8)
    assert (sheet[70:72] == 128).all() and (sheet[:, 70:72] == 128).all()
    bright, dark = sheet[35, 35], sheet[35, 5]
    assert bright.astype(int).sum() > dark.astype(int).sum() + 200
    assert (sheet[5, 5] == bright).all()  # channel 39 has two bright places, all others one
    for row in range(4):
        for column in range(8):
            assert (sheet[72 * row + 35, 72 * column + 35] == bright).all()  # each scaled to its own maximum
            assert (sheet[72 * row + 5, 72 * column + 5] == (bright if row == column == 0 else dark)).all()
    assert (explain.feature_maps(np.zeros((5, 5, 2), np.float32))[:70, 144:] == 128).all()  # no more channels


@pytest.mark.parametrize("module", ["jinja2", "onnx", "onnxruntime"])
def test_a_missing_library_exits_with_4_before_work_starts(blocks_bundle, tmp_path, monkeypatch, module):
    helpers.write_photo(tmp_path / "photo.jpg", two_colours())
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingRequirement, match="pip install %s" % module):
        verb.main([blocks_bundle, str(tmp_path / "photo.jpg"), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_exits_with_2(blocks_bundle, tmp_path):
    helpers.write_photo(tmp_path / "photo.jpg", two_colours())
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="--out .*file: "):
        verb.main([blocks_bundle, str(tmp_path / "photo.jpg"), "--out", str(tmp_path / "file")])
    (tmp_path / "out" / "photo-heat.png").mkdir(parents=True)
    with pytest.raises(UsageError, match="--out .*out: "):
        verb.main([blocks_bundle, str(tmp_path / "photo.jpg"), "--out", str(tmp_path / "out")])
    assert names_in(tmp_path / "out") == ["photo-heat.png"]  # nothing half written beside it


def test_no_photo_that_is_explained_is_overwritten(blocks_bundle, tmp_path):
    for name in ("photo.png", "photo-heat.png"):
        helpers.write_photo(tmp_path / name, two_colours())
    before = (tmp_path / "photo-heat.png").read_bytes()
    photos = [str(tmp_path / name) for name in ("photo.png", "photo-heat.png")]
    verb.main([blocks_bundle] + photos + ["--out", str(tmp_path), "--blocks", "mixed9"])
    assert (tmp_path / "photo-heat.png").read_bytes() == before
    assert {"photo-2-heat.png", "photo-heat-heat.png"} <= set(names_in(tmp_path))
