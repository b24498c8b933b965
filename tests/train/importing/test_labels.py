"""Files of class names as they come from people, Windows and Teachable Machine."""

import pytest

from edge_runtime.errors import UsageError
from train.importing import labels


def read(tmp_path, data):
    path = tmp_path / "labels.txt"
    path.write_bytes(data)
    return labels.read_class_names(str(path))


@pytest.mark.parametrize(
    "data, names",
    [
        (b"cat\ndog\n", ["cat", "dog"]),
        (b"\xef\xbb\xbfcat\r\ndog\r\n\r\n", ["cat", "dog"]),  # Windows
        ("k\u00e4se\r\nmilch".encode("utf-16"), ["k\u00e4se", "milch"]),  # Windows' "Unicode"
        (b"cat\rdog", ["cat", "dog"]),
        (b"0 Cat\n1 Two words\n2 Dog\n", ["Cat", "Two words", "Dog"]),  # Teachable Machine
        (b"1 Dog\n0 Cat\n", ["Cat", "Dog"]),
        (b"1: cat\n2: dog\n", ["cat", "dog"]),
        (b"7 Up\n100 Grand\ncola\n", ["7 Up", "100 Grand", "cola"]),
        (b"3 Musketeers\n7 Up\n", ["3 Musketeers", "7 Up"]),
        (b"0\n1\n2\n", ["0", "1", "2"]),
    ],
)
def test_what_is_read(tmp_path, data, names):
    assert read(tmp_path, data) == names


@pytest.mark.parametrize(
    "data, words",
    [
        (b"cat\n\ndog\n", "line 2 is empty"),
        (b"cat\ndog\ncat\n", "classes 0 and 2 have the same name, 'cat'"),
        (b"cat\n", "1 class;"),
        (b"", "0 class"),
        (b"k\xe4se\nmilch\n", "not UTF-8"),
        (b"0 a\n1 b\n3 c\n", "number 2 is missing"),
    ],
)
def test_what_is_refused(tmp_path, data, words):
    with pytest.raises(UsageError, match=words):
        read(tmp_path, data)


@pytest.mark.parametrize(
    "value",
    ["{0: 'a', 1: 'b'}", {"1": "b", "0": "a"}, ["a", "b"], {0: "a", 1: "b"}],
    ids=["text", "keys", "list", "dict"],
)
def test_mappings(value):
    assert labels.names_of_mapping(value, "file") == ["a", "b"]


@pytest.mark.parametrize(
    "value, words",
    [
        ("__import__('os').system('false')", "cannot be read"),
        ("[" * 5000, "cannot be read"),
        ({0: "a", 2: "b"}, "class 1 has no name"),
        ({"x": "a"}, "not numbered"),
        (3, "expected the names"),
        ({0: "a", 1: "a"}, "same name"),
    ],
)
def test_mappings_that_are_refused(value, words):
    with pytest.raises(UsageError, match=words):
        labels.names_of_mapping(value, "file")
