"""The document of a run, bench.json; schema.json describes it. Table, page and comparison are all made from it."""

import datetime
import os

import cv2
import numpy as np

from benchmarks.bench.machine_state import clocks
from edge_runtime.machine import libraries
from edge_runtime.machine.cpu import describe

FORMAT_VERSION = 2
SCHEMA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "schema.json")
_BUSY_SHARE = 0.25  # of the cores' time; from this share on a machine is called busy


def new_document(bundle, plan, command, photos):
    """Returns the document of a run before anything is measured.

    Args:
        bundle: an open Bundle.
        plan: a benchmarks.bench.plan.Plan.
        command: the words of the command line.
        photos: where the photos come from, as the user wrote it; None for the bundle's sample.
    """
    spec = bundle.input_spec
    return {
        "format_version": FORMAT_VERSION,
        "partial": True,
        "bundle": bundle.path,
        "bundle_id": bundle.id,
        "command": command,
        "started": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "seconds": 0.0,
        "photos": photos or f"the bundle's sample as JPEGs of {spec.width} x {spec.height}",
        "photo_count": len(plan.items),
        "batches": plan.batches,
        "seconds_per_measurement": plan.seconds,
        "version": libraries.library_version("picnic-edge"),
        "machine": describe(),
        "clocks": clocks(),
        "load_average": os.getloadavg()[0],
        "busy_share": None,
        "libraries": {"numpy": np.__version__, "opencv": cv2.__version__},
        "power": {"unavailable": "not reached"},
        "roofline": {"skipped": "not reached"},
        "engines": [],
        "loadgen": [],
        "rivals": [],
        "rivals_left_out": {},
    }


def measured_engines(document):
    """Returns the engines of a document that have figures."""
    return [engine for engine in document["engines"] if "skipped" not in engine]


def is_busy(document):
    """Whether other programs were at work when the run began."""
    return (document.get("busy_share") or 0) > _BUSY_SHARE
