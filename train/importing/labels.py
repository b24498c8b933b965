"""The names of the classes, from the files that models come with."""

import ast
import re
import typing

from edge_runtime.errors import UsageError
from edge_runtime.text import printable

_MAX_BYTES = 16 << 20
_MAX_LITERAL = 4 << 20  # characters; parsing takes a hundred times as much memory
_NUMBERED = re.compile(r"(\d+)[ \t:,]+(.*)")


def read_class_names(path):
    """Reads a file of class names, one a line, in the order of the model's outputs.

    Lines may be numbered from 0 or 1 ("0 Cat"), as Teachable Machine's are: the numbers are then left out, and give the
    order. A byte order mark, Windows line ends and empty lines at the end are left out too.

    Raises:
        UsageError: the file cannot be read, is no text, a line is empty, the numbers do not count up, a name is there
            twice, or there are fewer than two.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})")
    if len(data) > _MAX_BYTES:
        raise UsageError(
            f"{path}: is larger than {_MAX_BYTES >> 20} MiB; expected the names of the classes, one a line"
        )
    try:
        text = data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"{path}: is not UTF-8; save it as UTF-8, one class name a line")
    lines = [line.strip() for line in re.split("\r\n|\n|\r", text)]
    while lines and not lines[-1]:
        lines.pop()
    for number, line in enumerate(lines, 1):
        if not line:
            raise UsageError(f"{path}: line {number} is empty; expected one class name a line")
    return checked_names(_without_numbers(path, lines), path)


def _without_numbers(path, lines):
    """Returns lines without the numbers in front; as they are where not every line has one that counts up."""
    matches = [match for match in map(_NUMBERED.match, lines) if match]
    if not lines or len(matches) < len(lines):
        return lines
    numbers = [int(match.group(1)) for match in matches]
    first = min(numbers)
    if first > 1 or len(numbers) < 2:
        return lines
    if sorted(numbers) != list(range(first, first + len(numbers))):
        # Names may begin with figures ("7 Up", "7 Days"), but not all with small ones.
        if len(set(numbers)) == len(numbers) and max(numbers) < 2 * len(numbers):
            missing = sorted(set(range(first, max(numbers))) - set(numbers))
            raise UsageError(f"{path}: its lines are numbered, and number {missing[0]} is missing")
        return lines
    names = dict(zip(numbers, (match.group(2) for match in matches)))
    return [names[number] for number in sorted(names)]


def checked_names(names, source):
    """Returns class names as a list of text.

    Args:
        source: the file that they are from, for messages.

    Raises:
        UsageError: an empty name, the same name twice, or fewer than two.
    """
    names = [str(name).strip() for name in names]
    seen: typing.Dict[str, int] = {}
    for index, name in enumerate(names):
        if not name:
            raise UsageError(f"{source}: class {index} has no name")
        if name in seen:
            raise UsageError(
                f"{source}: classes {seen[name]} and {index} have the same name, {printable(name)!r}; "
                "give each a name of its own, in a file for --labels"
            )
        seen[name] = index
    if len(names) < 2:
        raise UsageError(
            f"{source}: {len(names)} class; a classifier tells at least two apart"
            + (" (a single number is a yes or no: such models cannot be imported)" if names else "")
        )
    return names


def names_of_mapping(value, source):
    """Returns the names in {index: name}, whose keys are numbers or their text, or in a list.

    Args:
        value: such a dict or list, or text that is a Python literal of one, as ultralytics writes it.
        source: the file that it is from, for messages.

    Raises:
        UsageError: it is something else, or an index is missing.
    """
    if isinstance(value, str):
        if len(value) > _MAX_LITERAL:
            raise UsageError(f"{source}: the names of the classes take more than {_MAX_LITERAL >> 20} MiB")
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise UsageError(f"{source}: the names of the classes cannot be read: {printable(value[:80])!r}")
    if isinstance(value, dict):
        try:
            by_index = {int(index): name for index, name in value.items()}
        except (TypeError, ValueError):
            raise UsageError(f"{source}: the classes are not numbered: {printable(str(list(value)[:3]))}")
        missing = sorted(set(range(len(by_index))) - set(by_index))
        if missing:
            raise UsageError(f"{source}: class {missing[0]} has no name; give all names with --labels")
        value = [by_index[index] for index in range(len(by_index))]
    if not isinstance(value, (list, tuple)):
        raise UsageError(f"{source}: expected the names of the classes, got {printable(str(value)[:80])!r}")
    return checked_names(value, source)
