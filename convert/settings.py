"""What a builder is told: see convert.cli for the options behind it."""

import typing

from edge_runtime.bundle.reading import Sample

Settings = typing.NamedTuple(
    "Settings",
    [
        ("precision", str),  # one of the builder's PRECISIONS
        ("max_batch", int),  # the largest batch that the engine must take
        ("workspace_mib", typing.Optional[int]),  # memory that the build may use on the GPU; None: by the machine
        ("calibration", Sample),  # photos for int8, with the original's answers
    ],
)
