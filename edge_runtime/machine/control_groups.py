"""Reads the limits of a container from its control groups, version 1 and 2."""

import os
import re


def control_groups(controller, root):
    """Yields the folders of this process's control groups, and of those above them.

    Args:
        controller: "cpu" or "memory".
        root: folder that stands for /, for what is read from /proc and /sys.
    """
    for mount in read_small(root, "proc/self/mountinfo").splitlines():
        fields, _, more = mount.partition(" - ")
        names, options = fields.split(), more.split()
        if len(names) < 5 or len(options) < 3:
            continue
        if options[0] == "cgroup2":
            group_controller = ""
        elif options[0] == "cgroup" and controller in options[2].split(","):
            group_controller = controller
        else:
            continue
        # The part of the hierarchy that is mounted, and where: inside a container it may begin at its own group.
        top, mounted_at = (_without_octals(text) for text in names[3:5])
        for line in read_small(root, "proc/self/cgroup").splitlines():
            _, controllers, path = (line.split(":", 2) + ["", ""])[:3]
            if group_controller not in controllers.split(","):
                continue
            inside = os.path.relpath(path, top)
            folder = mounted_at = os.path.join(root, mounted_at.lstrip("/"))
            if not inside.startswith(".."):
                folder = os.path.normpath(os.path.join(mounted_at, inside))
            yield folder
            while folder.startswith(mounted_at + os.sep):
                folder = os.path.dirname(folder)
                yield folder


def _without_octals(text):
    """Decodes a name of /proc/self/mountinfo, in which a space is \\040."""
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal.group(1), 8)), text)


def read_small(folder, name):
    """Returns a small file's text, "" where there is none."""
    try:
        with open(os.path.join(folder, name), encoding="utf-8", errors="surrogateescape") as file:
            return file.read().strip()
    except OSError:
        return ""
