"""The templates of this package's pages; what fills them is edge_runtime.pages, which says what a page is."""

import os

from edge_runtime import pages
from edge_runtime.pages import new_figure, picture, svg

__all__ = ["new_figure", "picture", "svg", "write_page"]


def write_page(path, template, **values):
    """Fills a template of this folder, by its name, as edge_runtime.pages.write_page does."""
    pages.write_page(path, os.path.join(os.path.dirname(__file__), template), **values)
