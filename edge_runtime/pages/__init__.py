"""Writes HTML pages of one file each: styles, scripts, plots and photos are inside, nothing is loaded from elsewhere.

Templates (Jinja2, autoescaped) lie with the verb that fills them. They extend base.html, beside this file, which
follows the reader's light or dark setting and makes every `<table class="sortable">` sortable by its headers.
"""

import base64
import io
import os
import typing

import cv2

from edge_runtime import files
from edge_runtime.machine.libraries import require
from edge_runtime.photos.resize import shrink_picture

_QUALITY = 80  # of the JPEGs inside


def write_page(path, template, **values):
    """Fills a template and writes the page atomically.

    Args:
        path: the .html file.
        template: the file of the template; it may extend base.html.
        values: for the template; strings are escaped, the results of picture and svg are not.

    Raises:
        MissingRequirement: Jinja2 is not installed. OSError: the file cannot be written.
    """
    jinja2 = require("jinja2")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([os.path.dirname(template), os.path.dirname(__file__)]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    text = environment.get_template(os.path.basename(template)).render(**values)
    with files.atomic_file(path) as file:
        file.write(text.encode("utf-8", "backslashreplace").decode("utf-8"))  # file names may hold any bytes


def picture(rgb, side=None):
    """Returns a picture as a data: address for <img src>.

    Args:
        rgb: uint8 array [height, width, 3].
        side: the longer side in pixels, at most; None for the picture's own size.
    """
    if side is not None:
        rgb = shrink_picture(rgb, side, side)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")


def new_figure(width, height):
    """Returns a matplotlib Figure with one Axes, in greys that read on light and on dark; sizes are in inches."""
    matplotlib = require("matplotlib")
    grey = "#808890"
    coloured = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    settings: typing.Dict[str, typing.Any] = {
        "axes.spines.top": False,
        "axes.spines.right": False,
        "font.size": 10,
        "legend.frameon": False,
    }
    settings.update(dict.fromkeys(coloured, grey))
    with matplotlib.rc_context(settings):
        figure = require("matplotlib.figure").Figure((width, height))
        require("matplotlib.backends.backend_svg").FigureCanvasSVG(figure)
        figure.add_subplot(111).grid(color=grey, alpha=0.25)
    return figure


def svg(figure):
    """Returns a matplotlib Figure as SVG markup for a page."""
    matplotlib = require("matplotlib")
    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "picnic-edge"}):
        figure.savefig(text, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    markup = text.getvalue()
    return require("markupsafe").Markup(markup[markup.index("<svg") :])
