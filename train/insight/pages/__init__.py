"""Templates of the pages of explore, evaluate and explain, and the functions that fill them."""

import os

from edge_runtime import pages
from edge_runtime.pages import new_figure, picture, svg

__all__ = ["new_figure", "picture", "svg", "write_page"]


def write_page(path, template, **values):
    """Fills a template of this folder and writes the page atomically.

    Args:
        path: the .html file.
        template: name of its file, such as "explain.html".
        values: for the template; strings are escaped, the results of picture and svg are not.

    Raises:
        MissingRequirement: Jinja2 is not installed. OSError: the file cannot be written.
    """
    pages.write_page(path, os.path.join(os.path.dirname(__file__), template), **values)
