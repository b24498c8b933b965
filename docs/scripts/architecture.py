"""Draws docs/images/architecture.svg from the imports of the product: python docs/scripts/architecture.py

A box is a room: a folder of a package, or a file beside the folders. An arrow goes from a room to one that it imports;
arrows that follow from others are left out. Rooms stand above all that they import.
"""

import ast
import os
import xml.sax.saxutils

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
PICTURE = os.path.join(ROOT, "docs", "images", "architecture.svg")
PACKAGES = ("benchmarks", "convert", "train", "edge_runtime")
# Small files that every room uses: one box, without arrows.
GROUND = ("console", "errors", "files", "secrets", "text")
_BAND_TITLES = {
    "picnic_edge": "the command",
    "benchmarks": "benchmarks: how fast, beside other programs",
    "convert": "convert: a bundle gets engines for this machine",
    "train": "train: labelled photos become a bundle",
    "edge_runtime": "edge_runtime: what the device needs",
}
# Where in its row a room stands, 0 (left) to 1 (right), so that arrows do not cross boxes; 0.5 for the others.
_PLACES = {
    "benchmarks.rivals": 0.36,
    "benchmarks.board": 0.2,
    "benchmarks.loadgen": 0.64,
    "convert.onnxruntime": 0.545,
    "convert.openvino": 0.727,
    "convert.labelled": 0.8,
    "convert.reference": 0.8,
    "convert.conversion": 0.904,
    "convert.tensorrt": 0.09,
    "convert.tf_trt": 0.239,
    "convert.litert": 0.375,
    "convert.child": 0.18,
    "edge_runtime.annotate": 0.74,
    "edge_runtime.bundle": 0.38,
    "edge_runtime.engines": 0.38,
    "edge_runtime.pages": 0.8,
    "edge_runtime.pipeline": 0.38,
    "edge_runtime.results": 0.2,
    "edge_runtime.sources": 0.62,
}
_COLOURS = {"benchmarks": "#fff4e0", "convert": "#e8f5e9", "train": "#e3f2fd", "edge_runtime": "#f3e5f5"}
_BOX_HEIGHT, _ROW_HEIGHT, _LETTER = 30, 66, 7.6
_WIDTH, _MARGIN = 900, 20


def rooms():
    """Returns {room, such as "edge_runtime.photos": set of the rooms that it imports}.

    Imports in functions count, and so do modules that are named in a string and imported later.
    """
    files = {}
    for package in PACKAGES:
        for folder, _, names in os.walk(os.path.join(ROOT, package)):
            for name in names:
                if name.endswith(".py"):
                    path = os.path.join(folder, name)
                    module = os.path.relpath(path, ROOT)[:-3].replace(os.sep, ".")
                    files[module[: -len(".__init__")] if module.endswith(".__init__") else module] = path
    files["picnic_edge"] = os.path.join(ROOT, "picnic_edge.py")
    graph = {}
    for module, path in files.items():
        if module in PACKAGES or module.endswith("__main__"):  # they only open a door
            continue
        room = _room_of(module, files)
        imports = graph.setdefault(room, set())
        imports.update(_room_of(other, files) for other in _imports(path, files))
        imports.discard(room)
    return {room: imports - set(PACKAGES) for room, imports in graph.items()}


def _room_of(module, files):
    parts = module.split(".")
    if len(parts) == 1:
        return module
    is_folder = os.path.basename(files[".".join(parts[:2])]) == "__init__.py"
    name = "ground" if parts[0] == "edge_runtime" and parts[1] in GROUND and not is_folder else parts[1]
    return f"{parts[0]}.{name}"


def _imports(path, files):
    """Yields the modules of the product that a file imports."""
    with open(path, encoding="utf-8") as file:
        tree = ast.parse(file.read(), path)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in files or node.module in files:
                    yield inner if inner in files else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in files)
        elif type(node).__name__ in ("Constant", "Str"):  # Str: before Python 3.8
            text = getattr(node, "value", getattr(node, "s", None))
            if isinstance(text, str) and text in files and "." in text:  # a verb's module
                yield text


def cycle(graph):
    """Returns rooms that import each other in a ring, [] where there are none."""
    done = set()

    def search(room, path):
        if room in path:
            return [*path[path.index(room) :], room]
        if room in done:
            return []
        for other in sorted(graph.get(room, ())):
            ring = search(other, path + [room])
            if ring:
                return ring
        done.add(room)
        return []

    return next(filter(None, (search(room, []) for room in sorted(graph))), [])


def draw(graph):
    """Returns the picture, SVG text."""
    levels = _levels(graph)
    places, bands, top = {}, [], _MARGIN
    third, full = (_WIDTH - 3 * _MARGIN) // 3, _WIDTH - 2 * _MARGIN
    for packages in (("picnic_edge",), ("benchmarks",), ("train", "convert"), ("edge_runtime",)):
        heights = []
        for number, package in enumerate(packages):
            left, width = _MARGIN, full
            if len(packages) == 2:
                left, width = [(_MARGIN, third), (2 * _MARGIN + third, 2 * third)][number]
            inside = [room for room in graph if room.split(".")[0] == package]
            deepest = max(levels[room] for room in inside)
            for level in range(deepest + 1):
                row = sorted(room for room in inside if levels[room] == level)
                for room in row:
                    box_width = _LETTER * len(_label(room)) + 24
                    at = left + width * _PLACES.get(room, 0.5) - box_width / 2
                    places[room] = (at, top + 34 + (deepest - level) * _ROW_HEIGHT, box_width)
            heights.append(34 + deepest * _ROW_HEIGHT + _BOX_HEIGHT + 16)
            bands.append((package, left, width))
        for band in bands[-len(packages) :]:
            bands[bands.index(band)] = band + (top, max(heights))
        top += max(heights) + _MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" font-family="sans-serif" '
        'font-size="13">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#607080"/></marker></defs>',
        f'<rect width="{_WIDTH}" height="{top}" fill="#ffffff"/>',
    ]
    for package, left, width, band_top, height in bands:
        colour = _COLOURS.get(package, "#eceff1")
        parts.append(f'<rect x="{left}" y="{band_top}" width="{width}" height="{height}" rx="8" fill="{colour}"/>')
        title = xml.sax.saxutils.escape(_BAND_TITLES[package])
        parts.append(f'<text x="{left + 12}" y="{band_top + 20}" fill="#455a64">{title}</text>')
    for room, others in sorted(_without_detours(graph).items()):
        for other in sorted(others):
            if other.endswith(".ground") or other.split(".")[0] != room.split(".")[0]:
                continue  # each package may import from those below it; the bands say so
            x, y, width = places[room]
            to_x, to_y, to_width = places[other]
            start, end = x + width / 2, to_x + to_width / 2
            y += _BOX_HEIGHT
            turn = to_y - (_ROW_HEIGHT - _BOX_HEIGHT)  # straight down first, where its own column is free
            middle = (turn + to_y) / 2
            curve = (
                f"M{start:.0f} {y:.0f}V{turn:.0f}C{start:.0f} {middle:.0f} {end:.0f} {middle:.0f} {end:.0f} {to_y:.0f}"
            )
            parts.append(f'<path d="{curve}" fill="none" stroke="#607080" marker-end="url(#tip)"/>')
    for room, (x, y, width) in sorted(places.items()):
        parts.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{_BOX_HEIGHT}" rx="5" fill="#ffffff" '
            f'stroke="#90a4ae"/>'
            f'<text x="{x + width / 2:.0f}" y="{y + 20:.0f}" text-anchor="middle">{_label(room)}</text>'
        )
    return "\n".join(parts + ["</svg>"]) + "\n"


def _levels(graph):
    """Returns {room: row in its package, 0 the lowest}: right below the lowest room that imports it."""
    levels = dict.fromkeys(graph, 0)
    above = {
        room: [other for other in graph if room in graph[other] and other.split(".")[0] == room.split(".")[0]]
        for room in graph
    }
    for _ in graph:  # the longest way down, as often as there may be steps
        for room in graph:
            levels[room] = min([levels[room]] + [levels[other] - 1 for other in above[room]])
    for room in graph:
        if not above[room]:  # the package's doors stand at the top; others that nobody imports above what they import
            inside = [levels[other] for other in graph[room] if room.split(".")[0] == other.split(".")[0]]
            levels[room] = min(0, 1 + max(inside)) if inside else 0
    lowest = {package: min(levels[room] for room in graph if room.split(".")[0] == package) for package in _BAND_TITLES}
    return {room: level - lowest[room.split(".")[0]] for room, level in levels.items()}


def _label(room):
    return ", ".join(GROUND) if room.endswith(".ground") else room.rpartition(".")[2]


def _without_detours(graph):
    """Returns the graph without the arrows that follow from others."""

    def below(room):
        found = set()
        for other in graph.get(room, ()):
            found |= {other} | below(other)
        return found

    return {
        room: {other for other in others if not any(other in below(via) for via in others - {other})}
        for room, others in graph.items()
    }


if __name__ == "__main__":
    with open(PICTURE, "w", encoding="utf-8") as picture:
        picture.write(draw(rooms()))
