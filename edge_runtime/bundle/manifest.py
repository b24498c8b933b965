"""manifest.json: its names and versions, and how it is read. manifest.schema.json beside this file describes it."""

import hashlib
import json
import os

from edge_runtime import files
from edge_runtime.errors import BundleError, UsageError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
INPUT_NAME, OUTPUT_NAME = "images", "probabilities"  # of model.onnx
ADVICE = "make the bundle again, or copy it again"
_MAX_JSON_BYTES = 256 << 20  # a manifest has 20 per photo of the training


def read_json(path):
    """Returns the value in a JSON file of a bundle. Raises OSError, ValueError or RecursionError: it cannot be read."""
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would block, a device never end
        raise ValueError("it is no regular file")
    with open(path, encoding="utf-8") as file:
        if os.fstat(file.fileno()).st_size > _MAX_JSON_BYTES:
            raise ValueError(f"it is larger than {_MAX_JSON_BYTES >> 20} MiB")
        return json.load(file)


def is_bundle(path):
    """Tells whether a folder's manifest is one of ours, of whatever version."""
    try:
        return "class_names" in read_json(os.path.join(path, MANIFEST))
    except (OSError, ValueError, RecursionError, TypeError):
        return False


def read_manifest(path):
    """Returns the manifest of a bundle, its format version checked. Raises UsageError, BundleError."""
    try:
        manifest = read_json(os.path.join(path, MANIFEST))
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(f"{path}: is no bundle (no {MANIFEST} in it); `picnic-edge train` writes one")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})")
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: its {MANIFEST} is no JSON ({error}); make the bundle again, or copy it again")
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        raise BundleError(
            f"{path}: has bundle format {version}, this version reads {FORMAT_VERSION}; "
            "update picnic-edge, or make the bundle again"
        )
    return manifest


def identity_of(manifest):
    """Returns the bundle's id: 12 hexadecimal digits, from its classes, its input spec and its files' sums."""
    content = [manifest.get("class_names"), manifest.get("input_spec"), manifest.get("files")]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def require_outside(path, bundle, option):
    """Raises UsageError for an output that is a bundle or lies in it.

    Args:
        path: of the output; it need not exist.
        bundle: folder of the bundle.
        option: the command-line option for the output, for the message.
    """
    if os.path.exists(os.path.join(bundle, MANIFEST)) and files.is_inside(path, bundle):
        raise UsageError(f"{option} {path}: is in the bundle {bundle}, which is not written to; give another place")
