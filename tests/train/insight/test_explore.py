"""picnic-edge explore: every finding planted once, and clean photos that must not be reported."""

import base64
import json
import os
import re
import shutil

import cv2
import numpy as np
import pytest

from edge_runtime.bundle.reading import Bundle
from edge_runtime.errors import MissingRequirement, StorageLost, UsageError
from edge_runtime.files import sha256_of
from edge_runtime.machine import libraries
from tests import helpers
from train.cli import explore as verb
from train.data import photo_facts, similarity
from train.data.labels import Photo
from train.insight import explore, explore_page, label_errors

LABELS = ("milk", "soap", "tea")


def drawn(seed, height=300, width=400):
    """Returns a sharp picture like no other seed's: coloured shapes on a coloured ground, uint8 RGB."""
    random = np.random.RandomState(seed)
    rgb = np.empty((height, width, 3), np.uint8)
    rgb[:] = random.randint(60, 200, 3)
    for _ in range(14):
        colour = [int(value) for value in random.randint(0, 256, 3)]
        corner = [int(value) for value in random.randint(0, [width, height])]
        size = [int(value) for value in random.randint(20, [width // 2, height // 2])]
        cv2.rectangle(rgb, tuple(corner), (corner[0] + size[0], corner[1] + size[1]), colour, -1)
        cv2.circle(rgb, tuple(corner[::-1]), size[0] // 3, colour[::-1], -1)
    return rgb


def write(path, seed, *settings):
    """Writes a drawn picture; returns it."""
    rgb = drawn(seed)
    helpers.write_photo(path, rgb, *settings)
    return rgb


@pytest.fixture(scope="module")
def planted_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    train, val = folder / "train", folder / "val"
    for number, label in enumerate(LABELS):
        for place in range(4):
            write(train / label / ("%d.jpg" % place), 100 * number + place)
        write(val / label / "0.jpg", 100 * number + 50)
    shutil.copy(str(train / "milk" / "0.jpg"), str(val / "milk" / "copy.jpg"))
    helpers.write_photo(val / "soap" / "small.jpg", cv2.resize(drawn(101), (200, 150), interpolation=cv2.INTER_AREA))
    shutil.copy(str(train / "soap" / "0.jpg"), str(train / "tea" / "soap again.jpg"))
    lighter = np.clip(drawn(2) * 1.15 + 5, 0, 255).astype(np.uint8)
    helpers.write_photo(train / "milk" / "lighter.jpg", lighter, [cv2.IMWRITE_JPEG_QUALITY, 40])
    helpers.write_photo(train / "tea" / "dark.jpg", (drawn(301) * 0.25).astype(np.uint8))
    helpers.write_photo(train / "tea" / "bright.jpg", (195 + drawn(302) * 0.23).astype(np.uint8))
    helpers.write_photo(train / "tea" / "blurred.jpg", cv2.GaussianBlur(drawn(303), (0, 0), 9))
    helpers.write_photo(train / "soap" / "black.png", helpers.two_greys(12, 200, 200))
    helpers.write_photo(train / "milk" / "white.png", helpers.two_greys(252, 200, 200))
    helpers.write_photo(train / "milk" / "export.png", np.full((200, 200, 3), 255, np.uint8))
    helpers.write_bytes(train / "tea" / "jpeg.png", helpers.encoded(drawn(304), "jpg"))
    whole = helpers.encoded(drawn(305), "jpg")
    helpers.write_bytes(train / "tea" / "cut.jpg", whole[: len(whole) // 2])
    helpers.write_bytes(train / "tea" / "empty.jpg", b"")
    return folder


@pytest.fixture
def planted(planted_once, tmp_path):
    """Class folders train/ and val/ with clean photos 0.jpg ... and one of each finding; for each test its own."""
    return tuple(shutil.copytree(str(planted_once / name), str(tmp_path / name)) for name in ("train", "val"))


def run(*arguments):
    """Runs the verb in this process; returns (explore.json as a dict, explore.html as text)."""
    report = str(arguments[arguments.index("--report") + 1])
    verb.main([str(argument) for argument in arguments])
    with open(os.path.join(report, "explore.json"), encoding="utf-8") as file:
        document = json.load(file)
    with open(os.path.join(report, "explore.html"), encoding="utf-8") as file:
        return document, file.read()


def names(rows):
    return [(row["split"], row["file"]) for row in rows]


# ---- each finding


def test_every_planted_finding_and_nothing_else(planted, tmp_path):
    document, _ = run(planted[0], "--val", planted[1], "--report", tmp_path / "report")
    groups = [(group["kind"], names(group["photos"])) for group in document["duplicates"]]
    assert groups == [
        ("exact", [("train", "milk/0.jpg"), ("val", "milk/copy.jpg")]),
        ("alike", [("train", "soap/1.jpg"), ("val", "soap/small.jpg")]),
        ("exact", [("train", "soap/0.jpg"), ("train", "tea/soap again.jpg")]),
        ("alike", [("train", "milk/2.jpg"), ("train", "milk/lighter.jpg")]),
    ]
    assert [group["across_splits"] for group in document["duplicates"]] == [True, True, False, False]
    assert [group["several_labels"] for group in document["duplicates"]] == [False, False, True, False]
    assert document["leaking_val_photos"] == 2
    assert names(document["dark"]) == [("train", "tea/dark.jpg")]
    assert names(document["bright"]) == [("train", "tea/bright.jpg")]
    assert names(document["blurred"]) == [("train", "tea/blurred.jpg")]
    assert names(document["uniform"]) == [("train", "milk/white.png"), ("train", "soap/black.png")]
    assert [(row["file"], row["format"]) for row in document["wrong_suffixes"]] == [("tea/jpeg.png", "JPEG")]
    assert [(row["file"], row["problem"]) for row in document["problems"]] == [
        ("milk/export.png", "is one colour"),
        ("tea/cut.jpg", "is damaged (JPEG without its end: truncated)"),
        ("tea/empty.jpg", "is empty (0 bytes)"),
    ]
    assert document["label_check"] is None


def test_counts_sizes_and_formats(planted, tmp_path):
    train, val = planted
    write(os.path.join(val, "only here", "0.jpg"), 999)
    turned = helpers.encoded(drawn(998), "jpg", exif=orientation(6))
    helpers.write_bytes(os.path.join(train, "milk", "turned.jpg"), turned)
    document, _ = run(train, "--val", val, "--report", tmp_path / "report")
    assert document["classes"] == [
        {"label": "milk", "train": 7, "val": 2},
        {"label": "only here", "train": 0, "val": 1},
        {"label": "soap", "train": 5, "val": 2},
        {"label": "tea", "train": 9, "val": 1},
    ]
    first, second = document["splits"]
    assert (first["name"], first["listed"], first["readable"], first["classes"]) == ("train", 24, 21, 3)
    assert (first["largest_class"], first["smallest_class"], first["imbalance"]) == ("tea", "soap", 1.8)
    assert (first["missing_classes"], second["missing_classes"]) == (["only here"], [])
    assert document["formats"] == {"JPEG": 25, "PNG": 2}
    assert document["turned"] == 1
    histograms = {
        name: document[name].pop("histogram") for name in ("widths", "heights", "aspect_ratios", "sizes_bytes")
    }
    assert document["widths"] == {"least": 200, "median": 400, "most": 400}
    assert document["heights"] == {"least": 150, "median": 300, "most": 400}  # the turned photo stands upright
    assert document["aspect_ratios"] == {"least": 0.75, "median": 1.333, "most": 1.333}
    for name, histogram in histograms.items():
        assert sum(histogram["photos"]) == 27 and len(histogram["edges"]) == len(histogram["photos"]) + 1, name
        assert histogram["edges"][0] == document[name]["least"] and histogram["edges"][-1] == document[name]["most"], (
            name
        )
    assert document["common_sizes"][0] == {"width": 400, "height": 300, "photos": 23}


def orientation(value):
    from PIL import Image

    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


def test_a_row_that_cannot_be_used_is_kept_as_a_problem(tmp_path):
    write(tmp_path / "a.jpg", 1)
    rows = [("a.jpg", "x"), ("gone.jpg", "x"), ("../b.jpg", "x"), ("c.jpg", ""), ("a.jpg", "x")]
    helpers.write_table(tmp_path / "t.tsv", rows)
    document, page = run(tmp_path / "t.tsv", "--report", tmp_path / "report")
    problems = {row["file"]: row["problem"] for row in document["problems"]}
    assert set(problems) == {"a.jpg", "gone.jpg", "../b.jpg", "c.jpg"}
    assert problems["gone.jpg"] == "No such file or directory"
    assert document["splits"][0]["listed"] == 5
    assert all(text in page for text in problems.values())


def test_pictures_in_formats_that_nothing_here_reads_are_named(tmp_path):
    for name in ("tea/a.jpg", "milk/a.jpg"):
        write(tmp_path / "in" / name, len(name))
    helpers.write_bytes(tmp_path / "in" / "soap" / "IMG_1.CR2", b"some")
    helpers.write_bytes(tmp_path / "in" / "soap" / "notes.txt", b"of no matter")
    document, page = run(tmp_path / "in", "--report", tmp_path / "report")
    (problem,) = document["problems"]
    assert problem["file"] == "soap/IMG_1.CR2" and "convert it to JPEG or PNG" in problem["problem"]
    assert document["splits"][0]["listed"] == 3 and "soap/IMG_1.CR2" in page


def test_a_suffix_of_no_format_is_a_wrong_one(tmp_path):
    for name in ("a.tif", "b.jpg", "c"):
        write(tmp_path / (name + ".jpg"), len(name))
        os.rename(str(tmp_path / (name + ".jpg")), str(tmp_path / name))
    helpers.write_table(tmp_path / "t.tsv", [(name, "x") for name in ("a.tif", "b.jpg", "c")])
    document, _ = run(tmp_path / "t.tsv", "--report", tmp_path / "report")
    assert [row["file"] for row in document["wrong_suffixes"]] == ["a.tif"]


def test_a_class_without_any_readable_photo_is_not_forgotten(tmp_path):
    write(tmp_path / "a.jpg", 1)
    helpers.write_bytes(tmp_path / "b.jpg", b"nothing")
    helpers.write_table(tmp_path / "t.tsv", [("a.jpg", "milk"), ("b.jpg", "soap")])
    document, page = run(tmp_path / "t.tsv", "--report", tmp_path / "report")
    assert document["classes"] == [{"label": "milk", "train": 1}, {"label": "soap", "train": 0}]
    assert document["splits"][0]["missing_classes"] == [] and "soap" in page


# ---- warnings


def test_warnings_come_first_on_the_page_and_are_said(tmp_path, capsys):
    for number, label in enumerate(("train/apple", "val/apple", "val/Apple", "unknown")):
        for place in range(10):
            write(tmp_path / "in" / label / ("%d.jpg" % place), 100 * number + place)
    document, page = run(tmp_path / "in", "--report", tmp_path / "report")
    assert [one["kind"] for one in document["warnings"]] == ["split_folders", "similar_labels", "unknown_class"]
    assert page.index('id="warnings"') < page.index("readable photos") < page.index('id="conflicts"')
    warnings = page[page.index('id="warnings"') : page.index("readable photos")]
    assert 'class="alarm"' in warnings and warnings.count("<li>") == 3
    said = capsys.readouterr().err
    for one in document["warnings"]:
        assert "warning: %s\n" % one["text"] in said
        assert one["text"][-40:].replace("'", "&#39;") in warnings


def test_clean_photos_are_not_warned_of(tmp_path, capsys):
    for number, label in enumerate(LABELS):
        for place in range(12):
            write(tmp_path / ("train" if place < 10 else "val") / label / ("%d.jpg" % place), 100 * number + place)
    document, page = run(tmp_path / "train", "--val", tmp_path / "val", "--report", tmp_path / "report")
    assert document["warnings"] == [] and 'id="warnings"' not in page and "warning: " not in capsys.readouterr().err


def test_counts_leaks_films_and_cameras_are_warned_of(planted, tmp_path):
    train, val = planted
    for place in range(10):
        frame = np.ascontiguousarray(drawn(77, 300, 420)[:, 2 * place : 2 * place + 400])
        helpers.write_photo(os.path.join(train, "film", "%d.png" % place), frame[:280])
    document, _ = run(train, "--val", val, "--report", tmp_path / "report")
    warnings = {one["kind"]: one for one in document["warnings"]}
    assert (warnings["leak"]["photos"], warnings["leak"]["of"]) == (document["leaking_val_photos"], 5)
    assert warnings["one_view"]["labels"] == warnings["unvalidated"]["labels"] == ["film"]
    assert warnings["few_photos"]["classes"] == {"milk": 6, "soap": 5, "tea": 9}
    assert warnings["one_size"]["classes"] == {"film": "400 x 280"}
    assert (warnings["conflicts"]["groups"], warnings["conflicts"]["photos"]) == (1, 2)
    assert set(warnings) == {"leak", "conflicts", "one_view", "unvalidated", "few_photos", "one_size"}


# ---- similarity


def facts_of(tmp_path, *pictures):
    facts = []
    for number, rgb in enumerate(pictures):
        path = str(tmp_path / ("%d.png" % number))
        helpers.write_photo(path, rgb)
        facts.append(photo_facts.look_at(path))
    return facts


def test_copies_are_alike_and_other_pictures_are_not(tmp_path):
    rgb = drawn(7)
    jpeg = cv2.imdecode(cv2.imencode(".jpg", rgb, [cv2.IMWRITE_JPEG_QUALITY, 20])[1], cv2.IMREAD_COLOR)
    copies = [rgb, jpeg, cv2.resize(rgb, (150, 220)), (rgb * 0.6).astype(np.uint8)]
    others = [drawn(8), rgb[:, ::-1], rgb[:, 100:]]
    assert similarity.similar_groups(facts_of(tmp_path, *(copies + others))) == [[0, 1, 2, 3]]


def test_the_same_carton_in_another_colour_is_another_product(tmp_path):
    rgb = drawn(7)
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY).astype(float)
    red, blue = (
        np.clip(grey[:, :, None] * np.array(tint), 0, 255).astype(np.uint8) for tint in ((1, 0.4, 0.4), (0.4, 0.4, 1))
    )
    facts = facts_of(tmp_path, red, blue)
    assert similarity.differing_bits(*facts) <= similarity.MAX_BITS_APART
    assert similarity.similar_groups(facts) == []


def test_uniform_photos_are_like_none(tmp_path, monkeypatch):
    stains = (drawn(7) * 0.05).astype(np.uint8)
    walls = [stains + np.uint8(grey) for grey in (60, 99, 110)]
    plain = [helpers.two_greys(grey, 200, 300) for grey in (10, 99, 100, 252)]
    facts = facts_of(tmp_path, *(walls + plain))
    assert similarity.similar_groups(facts) == []
    monkeypatch.setattr(similarity, "UNIFORM", 0)
    assert similarity.similar_groups(facts) == [[0, 1, 2], [3, 4, 5, 6]]  # what they would be taken for


@pytest.mark.parametrize(
    "seed, expected",
    [
        (0, "e2014732bee188ce76bb1d2ee5ec0296bd12ba181af4caea1dfd1a04bb47ac35"),
        (1, "e69cc7185509e55a436ba2645435007fe6ef27b7a9a76dc1005e1d9fcce6ec40"),
    ],
)
def test_the_hash_is_that_of_imagehash(seed, expected):
    """imagehash 4.3.2: phash(hash_size=16) of these pictures, shrunk to 64 x 64."""
    rgb = np.random.RandomState(seed).randint(0, 256, (256, 256, 3)).astype(np.uint8)
    assert np.packbits(similarity.fingerprint(rgb, "").hash_bits).tobytes().hex() == expected


def test_products_before_a_camera_that_stands_still_are_kept_apart(tmp_path):
    pictures = []
    for seed in range(6):
        rgb = drawn(7)
        rgb[200:240, 150:190] = drawn(seed // 3)[:40, :40]
        pictures.append(np.clip(rgb.astype(int) + seed, 0, 255).astype(np.uint8))
    facts = facts_of(tmp_path, *pictures)
    assert similarity.similar_groups(facts, similarity.FRAME_BITS_APART) == [list(range(6))]
    assert similarity.frame_groups(facts, ["tea"] * 3 + ["milk"] * 3) == [[3, 4, 5], [0, 1, 2]]


def test_groups_do_not_depend_on_the_size_of_a_block(tmp_path, monkeypatch):
    pictures = [drawn(seed // 2) for seed in range(12)] + [drawn(0)]
    pictures = [np.clip(rgb.astype(int) + place, 0, 255).astype(np.uint8) for place, rgb in enumerate(pictures)]
    facts = facts_of(tmp_path, *pictures)
    expected = [[0, 1, 12]] + [[first, first + 1] for first in range(2, 12, 2)]
    assert similarity.similar_groups(facts) == expected
    monkeypatch.setattr(similarity, "CELLS_AT_ONCE", 1)
    assert similarity.similar_groups(facts) == expected


def test_many_equal_photos_make_one_group(tmp_path):
    (fact,) = facts_of(tmp_path, drawn(1))
    facts = [fact._replace(sha256="%d" % number) for number in range(3000)]
    assert similarity.similar_groups(facts) == [list(range(3000))]


def test_real_photos_hold_no_flood(grocery, tmp_path):
    document, page = run(grocery + "/val.tsv", "--images", grocery + "/val", "--report", tmp_path / "report")
    assert (document["splits"][0]["readable"], document["duplicates"]) == (296, [])
    assert (document["dark"], document["bright"], document["uniform"], document["wrong_suffixes"]) == ([], [], [], [])
    assert len(document["blurred"]) == 3
    assert len(page) < 5e6


# ---- the page


def test_page_shows_the_counts_of_the_json_and_fetches_nothing(planted, tmp_path):
    document, page = run(planted[0], "--val", planted[1], "--report", tmp_path / "report")
    figures = {
        re.sub(r"<.*?>", "", text): int(value)
        for value, text in re.findall(r'<div class="fact"><b[^>]*>(\d+)</b>(.*?)</div>', page)
    }
    assert figures == {
        "readable photos": sum(split["readable"] for split in document["splits"]),
        "classes": len(document["classes"]),
        "unusable": len(document["problems"]),
        "val photos also in train": document["leaking_val_photos"],
        "duplicates under different labels": sum(group["several_labels"] for group in document["duplicates"]),
        "groups of duplicates": len(document["duplicates"]),
        "dark": len(document["dark"]),
        "bright": len(document["bright"]),
        "blurred": len(document["blurred"]),
        "uniform": len(document["uniform"]),
    }
    assert page.count('class="group photos"') == len(document["duplicates"])
    assert not re.search(r"""(?:src|href|url|action)\s*[=(]\s*["']?\s*(?:https?:|//|file:)""", page)
    assert set(re.findall(r'src="(.{11})', page)) == {"data:image/"}
    assert "<link" not in page and "@import" not in page


def test_leaks_come_first_and_in_red(planted, tmp_path):
    _, page = run(planted[0], "--val", planted[1], "--report", tmp_path / "report")
    assert [page.index('id="%s"' % part) for part in ("leaks", "conflicts", "flaws", "classes")] == sorted(
        page.index('id="%s"' % part) for part in ("leaks", "conflicts", "flaws", "classes")
    )
    leaks = page[page.index('id="leaks"') : page.index('id="conflicts"')]
    assert 'class="alarm"' in leaks and "milk/copy.jpg" in leaks and "soap/small.jpg" in leaks


def test_odd_names_are_escaped_and_cost_nothing(tmp_path):
    evil = '<script>alert("1")</script>&amp; {{ 7 * 7 }}'.replace("/", "\\")
    for number, name in enumerate(helpers.NASTY_NAMES + [evil + ".jpg"]):
        helpers.write_photo(tmp_path / "p" / "a.jpg", drawn(number))
        os.makedirs(str(tmp_path / "photos" / evil), exist_ok=True)
        os.rename(str(tmp_path / "p" / "a.jpg"), os.path.join(str(tmp_path / "photos"), evil, name))
    helpers.write_bytes(os.path.join(str(tmp_path / "photos"), evil, "cut\t\xff<b>.jpg"), b"\xff\xd8")
    done = helpers.picnic_edge(
        "explore", tmp_path / "photos", "--report", tmp_path / "report", env={"LC_ALL": "C", "PYTHONUTF8": "0"}
    )
    assert done.returncode == 0, done.stderr
    with open(str(tmp_path / "report" / "explore.html"), encoding="utf-8") as file:
        page = file.read()
    assert page.count("<script>") == 1  # the page's own
    assert "&lt;script&gt;alert(" in page and "49" not in re.sub(
        r"data:image/[^\"]*|<svg.*?</svg>", "", page, flags=re.S
    )
    with open(str(tmp_path / "report" / "explore.json"), encoding="utf-8") as file:
        document = json.load(file)
    assert document["splits"][0]["readable"] == len(helpers.NASTY_NAMES) + 1
    assert [row["label"] for row in document["classes"]] == [evil]
    assert len(document["problems"]) == 1


def test_names_that_are_not_utf_8_are_in_the_document_for_strict_readers_and_can_be_found_again(tmp_path):
    odd = os.fsdecode(b"cut\xff.jpg")
    for number in range(2):
        helpers.write_photo(tmp_path / "photos" / "milk" / ("%d.jpg" % number), drawn(number))
    helpers.write_bytes(os.path.join(str(tmp_path / "photos" / "milk"), odd), b"\xff\xd8")
    verb.main([str(tmp_path / "photos"), "--report", str(tmp_path / "report")])
    with open(str(tmp_path / "report" / "explore.json"), encoding="ascii") as file:
        document = json.load(file)
    json.dumps(document, ensure_ascii=False).encode()  # fails for half a character, as strict readers do
    (problem,) = document["problems"]
    assert problem["file"] == "milk/cut\\xff.jpg"
    assert base64.b64decode(problem["file_bytes"]) == b"milk/cut\xff.jpg"


def test_a_large_group_shows_every_split_and_label():
    photos = [{"split": "train", "file": "%d" % number, "label": "a"} for number in range(50)]
    photos += [{"split": "val", "file": "v", "label": "a"}, {"split": "train", "file": "b", "label": "b"}]
    shown, left = explore_page.pick(photos)
    assert [photo["file"] for photo in shown][:3] == ["0", "v", "b"]
    assert (len(shown), left) == (6, 46)


def test_page_is_bounded_for_many_classes(tmp_path):
    (fact,) = facts_of(tmp_path, drawn(1))
    seen = [
        explore.ReadablePhoto("train", Photo("%d.jpg" % number, "", "class %04d" % (number // 3)), fact)
        for number in range(3600)
    ]
    sheets = explore_page.contact_sheets(seen)
    assert (len(sheets), sum(len(photos) for _, _, photos in sheets)) == (1200, 1200)
    few = explore_page.contact_sheets(seen[:30])
    assert [len(photos) for _, _, photos in few] == [3] * 10


# ---- determinism, odd input


def test_same_photos_same_bytes(planted, tmp_path):
    for report in ("one", "two"):
        run(planted[0], "--val", planted[1], "--report", tmp_path / report)
    for name in ("explore.json", "explore.html"):
        with open(str(tmp_path / "one" / name), "rb") as one, open(str(tmp_path / "two" / name), "rb") as two:
            assert one.read() == two.read()


def test_the_order_of_a_table_s_rows_does_not_matter(planted, tmp_path):
    rows = [(os.path.join(label, name), label) for label in LABELS for name in os.listdir(planted[0] + "/" + label)]
    results = []
    for number, order in enumerate((rows, rows[::-1])):
        helpers.write_table(tmp_path / "t.tsv", order)
        results.append(run(tmp_path / "t.tsv", "--images", planted[0], "--report", tmp_path / str(number))[0])
    assert results[0] == results[1]
    assert len(results[0]["duplicates"]) == 2


def test_nothing_readable_is_a_finding(tmp_path, capsys):
    helpers.write_bytes(tmp_path / "photos" / "a" / "1.jpg", b"")
    helpers.write_bytes(tmp_path / "photos" / "b" / "2.jpg", b"no photo")
    document, page = run(tmp_path / "photos", "--report", tmp_path / "report")
    assert (len(document["problems"]), document["widths"]) == (2, None)
    assert document["classes"] == [{"label": "a", "train": 0}, {"label": "b", "train": 0}]
    assert "is empty (0 bytes)" in page
    assert "train: 0 of 2 photos usable, 0 classes" in capsys.readouterr().out


def test_one_class_and_one_photo(tmp_path):
    write(tmp_path / "photos" / "a" / "1.jpg", 1)
    document, _ = run(tmp_path / "photos", "--report", tmp_path / "report")
    assert (document["splits"][0]["imbalance"], document["duplicates"]) == (1.0, [])


@pytest.mark.parametrize("source", ["empty", "empty.tsv"])
def test_empty_source_is_refused(source, tmp_path):
    (tmp_path / "empty").mkdir()
    helpers.write_table(tmp_path / "empty.tsv", [])
    with pytest.raises(UsageError, match="no labelled photo"):
        verb.main([str(tmp_path / source), "--report", str(tmp_path / "report")])


def test_report_that_cannot_be_written_stops_before_the_work(planted, tmp_path, monkeypatch):
    monkeypatch.setattr(photo_facts, "look_at", None)
    helpers.write_bytes(tmp_path / "file", b"")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="cannot be written"):
            verb.main([planted[0], "--report", str(folder)])


def test_without_cleanlab_it_stops_before_the_work(planted, tmp_path, tiny_bundle, monkeypatch):
    def require(name):
        if name.startswith("cleanlab"):
            raise MissingRequirement("To get it: %s" % libraries.INSTALL["cleanlab"])
        return libraries.require(name)

    monkeypatch.setattr(label_errors, "require", require)
    monkeypatch.setattr(photo_facts, "look_at", None)
    with pytest.raises(MissingRequirement, match="pip install cleanlab"):
        verb.main([planted[0], "--report", str(tmp_path / "report"), "--bundle", tiny_bundle])


def test_val_images_left_out_is_guessed(planted, tmp_path, capsys):
    rows = [(os.path.join(label, "%d.jpg" % place), label) for label in LABELS for place in range(4)]
    helpers.write_table(tmp_path / "t.tsv", rows)
    run(tmp_path / "t.tsv", "--val", tmp_path / "t.tsv", "--images", planted[0], "--report", tmp_path / "report")
    assert "more than half: is --val-images missing?" in capsys.readouterr().out


# ---- labels


def test_wrong_labels_are_found_with_a_bundle(tiny_bundle, tmp_path):
    """The tiny bundle's features are the mean colour; one red photo is among the blue ones."""
    random = np.random.RandomState(0)
    for label, colour in helpers.COLOURS.items():
        for number in range(12):
            tint = np.clip(np.array(colour) + random.randint(-15, 16, 3), 0, 255)
            rgb = cv2.addWeighted(drawn(number), 0.15, np.zeros_like(drawn(0)) + tint.astype(np.uint8), 0.85, 0)
            helpers.write_photo(tmp_path / "photos" / label / ("%02d.png" % number), rgb)
    os.rename(str(tmp_path / "photos" / "red" / "03.png"), str(tmp_path / "photos" / "blue things" / "wrong.png"))
    write(tmp_path / "photos" / "too few" / "0.jpg", 1)
    document, page = run(tmp_path / "photos", "--report", tmp_path / "report", "--bundle", tiny_bundle)
    check = document["label_check"]
    (issue,) = check["issues"]
    assert (issue["file"], issue["label"], issue["suggested"]) == ("blue things/wrong.png", "blue things", "red")
    assert issue["self_confidence"] < 0.5 < issue["confidence"]
    assert (check["judged"], check["unjudged_classes"]) == (36, ["too few"])
    labels = page[page.index('id="labels"') : page.index('id="problems"')]
    assert labels.count("<figure>") == 1 and "wrong.png" in labels
    assert check["fine_tuned_on"] == 0 and "fine-tuned" not in labels


@pytest.mark.parametrize("history, known", [({"loss": [1.0]}, 0), ({"fine_tune": {"loss": [1.0]}}, 2)])
def test_a_bundle_that_knows_the_labels_by_heart_says_so(tiny_bundle, tmp_path, capsys, history, known):
    for label in ("blue things", "red"):
        for number in range(6):
            write(tmp_path / "photos" / label / ("%02d.png" % number), number + 10 * len(label))
    learned = [sha256_of(str(tmp_path / "photos" / "red" / name))[:16] for name in ("01.png", "02.png")]
    helpers.with_manifest(Bundle.open(tiny_bundle), {"history": history}, {"photos_sha256": learned + ["0" * 16]})
    document, page = run(tmp_path / "photos", "--report", tmp_path / "report", "--bundle", tiny_bundle)
    assert (document["label_check"]["fine_tuned_on"], document["label_check"]["judged"]) == (known, 12)
    assert ("fine-tuned on 2 of the 12 photos judged" in capsys.readouterr().out) == bool(known)
    assert ("fine-tuned on 2 of these photos" in page) == bool(known)


def test_a_photo_that_goes_away_costs_its_own_label_check_only(tiny_bundle, tmp_path, monkeypatch, capsys):
    for label in ("blue things", "red"):
        for number in range(10):
            write(tmp_path / "photos" / label / ("%02d.png" % number), number)
    look_at_photos = explore.look_at_photos

    def look_and_lose(splits):
        result = look_at_photos(splits)
        os.unlink(str(tmp_path / "photos" / "red" / "04.png"))
        return result

    monkeypatch.setattr(explore, "look_at_photos", look_and_lose)
    document, _ = run(tmp_path / "photos", "--report", tmp_path / "report", "--bundle", tiny_bundle)
    assert document["label_check"]["judged"] == 19
    said = capsys.readouterr().err
    assert "red/04.png can no longer be read (No such file or directory): its label is not judged" in said


def test_drawn_features_with_swapped_labels():
    random = np.random.RandomState(0)
    centres = random.randn(6, 40) * 2
    truth = np.repeat(np.arange(6), 20)
    features = (centres[truth] + random.randn(120, 40)).astype(np.float32)
    labels = ["class %d" % number for number in truth]
    for index in (3, 47, 110):
        labels[index] = "class %d" % ((truth[index] + 2) % 6)
    issues = label_errors.find_issues(features, labels)
    assert {issue.photo for issue in issues} == {3, 47, 110}
    assert all(issue.suggested == "class %d" % truth[issue.photo] for issue in issues)
    assert [issue.self_confidence for issue in issues] == sorted(issue.self_confidence for issue in issues)


def test_few_photos_with_right_labels_are_not_suspected():
    random = np.random.RandomState(0)
    truth = np.repeat(np.arange(6), 6)
    features = (random.randn(6, 500)[truth] + 0.7 * random.randn(36, 500)).astype(np.float32)
    assert label_errors.find_issues(features, ["class %d" % number for number in truth]) == []


@pytest.mark.parametrize("features", [np.zeros((12, 8), np.float32), np.eye(12, 4, dtype=np.float32)])
def test_features_that_tell_nothing_cost_nothing(features):
    issues = label_errors.find_issues(features, ["a"] * 6 + ["b"] * 6)
    assert len({issue.photo for issue in issues}) == len(issues) <= 12
    assert all(0 <= issue.self_confidence <= issue.confidence <= 1 for issue in issues)


def test_classes_that_cannot_be_judged():
    assert label_errors.unjudged_classes(["a"] * 5 + ["b"] * 5 + ["c"] * 4) == ["c"]
    assert label_errors.unjudged_classes(["a"] * 9 + ["c"]) == ["a", "c"]
    assert label_errors.unjudged_classes([]) == []


def test_bundle_with_nothing_to_judge(tiny_bundle, tmp_path):
    write(tmp_path / "photos" / "a" / "0.jpg", 1)
    document, page = run(tmp_path / "photos", "--report", tmp_path / "report", "--bundle", tiny_bundle)
    assert (document["label_check"]["judged"], document["label_check"]["issues"]) == (0, [])
    assert "Not judged" in page


# ---- one photo


@pytest.mark.parametrize(
    "suffix, format_", [("jpg", "JPEG"), ("png", "PNG"), ("bmp", "BMP"), ("gif", "GIF"), ("webp", "WEBP")]
)
def test_facts_of_one_photo(suffix, format_, tmp_path):
    data = helpers.encoded(helpers.gradient(240, 500), suffix)
    facts = photo_facts.look_at(helpers.write_bytes(tmp_path / "x.dat", data))
    assert (facts.format, facts.width, facts.height, facts.size_bytes) == (format_, 500, 240, len(data))
    thumbnail = cv2.imdecode(np.frombuffer(decoded(facts.thumbnail), np.uint8), cv2.IMREAD_COLOR)
    assert thumbnail.shape == (54, 112, 3)
    assert facts.darkest < 40 and facts.brightest > 100 and not facts.turned


def decoded(address):
    import base64

    return base64.b64decode(address.split(",")[1])


def test_extreme_proportions(tmp_path):
    (facts,) = facts_of(tmp_path, helpers.two_greys(50, 1, 3000))
    assert cv2.imdecode(np.frombuffer(decoded(facts.thumbnail), np.uint8), cv2.IMREAD_COLOR).shape == (1, 112, 3)


def test_a_folder_that_goes_away_ends_the_look_at_its_photos(planted, tmp_path, monkeypatch):
    folder = planted[0]
    look_at, calls = photo_facts.look_at, []

    def look(path):
        calls.append(path)
        if len(calls) == 5:
            os.rename(folder, folder + ".away")
        return look_at(path)

    monkeypatch.setattr(photo_facts, "look_at", look)
    with pytest.raises(StorageLost, match="train: "):
        run(folder, "--report", tmp_path / "report")
    assert not (tmp_path / "report" / "explore.json").exists()
