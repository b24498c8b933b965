"""Templates of the pages of explore, evaluate and explain; edge_runtime.pages fills them."""

import os

from edge_runtime import pages
from edge_runtime.pages import new_figure, picture, svg

__all__ = ["new_figure", "picture", "svg", "write_page"]


def write_page(path, template, **values):
    """Fills a template of this folder and writes the page, whole or not at all.

    Args:
        path: the .html file.
        template: name of the template.
        values: what it shows; strings are escaped, what picture and svg return is not.

    Raises:
        MissingRequirement: Jinja2 is not installed. OSError: the file cannot be written.
    """
    pages.write_page(path, os.path.join(os.path.dirname(__file__), template), **values)
