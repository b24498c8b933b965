"""What MkDocs runs when it builds the site: the options of every command come from its parser and cannot go stale.

A page of docs/verbs/ holds the marker <!-- options: COMMAND --> before a paragraph for those who read the file itself;
on the site the options stand in that paragraph's place. The changelog and its neighbours become pages, too.
"""

import argparse
import importlib
import os
import re
from unittest import mock

import picnic_edge

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ROOT_PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
# Commands that are no verb of their own: command -> (module with main(arguments), arguments that lead to its parser)
OTHER_COMMANDS = {
    "picnic-edge bench compare": (picnic_edge.VERBS["bench"][0], ["compare"]),
    "python -m edge_runtime.sign_bundle": ("edge_runtime.sign_bundle", []),
}
MARKER = re.compile(r"<!-- options: (.+?) -->\n+[^\n]+\n")


class _StoppedError(Exception):
    """Ends a command's main() where it would parse its arguments."""


def commands():
    """Returns the names of all commands that have a page: the verbs, and OTHER_COMMANDS."""
    return [f"picnic-edge {verb}" for verb in picnic_edge.VERBS] + list(OTHER_COMMANDS)


def parser_of(command):
    """Returns the argparse.ArgumentParser of a command, one of commands()."""
    verb = command.split()[-1]
    if command in OTHER_COMMANDS:
        module, arguments = OTHER_COMMANDS[command]
    else:
        module, arguments = picnic_edge.VERBS[verb][0], []
    main = importlib.import_module(module).main if module else picnic_edge.demo

    def parse_args(parser, *_):
        raise _StoppedError(parser)

    try:
        with mock.patch.object(argparse.ArgumentParser, "parse_args", parse_args):
            main(arguments)
    except _StoppedError as stopped:
        return stopped.args[0]
    raise LookupError(f"{command}: its main() parses no arguments")


def options_of(command):
    """Returns the usage, arguments and options of a command as Markdown."""
    parser = parser_of(command)
    formatter = argparse.HelpFormatter(parser.prog, width=78)
    formatter.add_usage(parser.usage, parser._actions, parser._mutually_exclusive_groups)  # as format_usage() does
    lines = ["```text", formatter.format_help().rstrip(), "```", ""]
    for action in parser._actions:  # argparse offers no public list of them
        name = formatter._format_action_invocation(action)
        text = _escaped(formatter._expand_help(action)) if action.help else ""
        lines += [f"`{name}`", f":   {text}", ""]
    return "\n".join(lines)


def _escaped(text):
    """Returns a help text in which Markdown finds no syntax but `code`."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*_<\[\\])", r"\\\1", part) for part in parts)


def on_files(files, config):
    """MkDocs: adds the pages that lie at the root of the repository."""
    from mkdocs.structure.files import File

    for name in ROOT_PAGES:
        if os.path.exists(os.path.join(ROOT, name)):
            with open(os.path.join(ROOT, name), encoding="utf-8") as file:
                text = file.read()
            files.append(File.generated(config, name, content=_fit_links(text)))
    return files


def _fit_links(text):
    """Returns a page of the root whose links fit the site; what the site lacks is named without a link."""
    text = text.replace("](docs/", "](").replace("](README.md", "](index.md")

    def fitted(link):
        path = link.group(2).partition("#")[0]
        inside = not path or path in ROOT_PAGES or os.path.exists(os.path.join(ROOT, "docs", path))
        return link.group(0) if inside or ":" in path else link.group(1)

    return re.sub(r"\[([^\]]*)\]\(([^)\s]+)\)", fitted, text)


def on_page_markdown(markdown, page, **_):
    """MkDocs: puts the options in the place of their marker, and makes links to the pages of the root fit the site."""
    markdown = MARKER.sub(lambda match: options_of(match.group(1)) + "\n", markdown)
    above = "../" * (page.file.src_uri.count("/") + 1)
    return re.sub(r"\]\(%s(?=%s)" % (re.escape(above), "|".join(ROOT_PAGES)), f"]({above[3:]}", markdown)
