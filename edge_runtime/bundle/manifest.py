"""manifest.json: what it holds, and how it is read."""

import hashlib
import json
import os

from edge_runtime.errors import BundleError, UsageError

FORMAT_VERSION = 1

MANIFEST = "manifest.json"

ADVICE = "train again, or copy the bundle again"

_LARGEST_JSON = 256 << 20  # bytes; a manifest has 20 per photo of the training

INPUT_NAME = "images"

OUTPUT_NAME = "probabilities"


def read_json(path):
    """Returns what a JSON file of a bundle holds. Raises OSError, ValueError or RecursionError: it cannot be read."""
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would be waited for, a device read without end
        raise ValueError("it is no regular file")
    with open(path, encoding="utf-8") as file:
        if os.fstat(file.fileno()).st_size > _LARGEST_JSON:
            raise ValueError(f"it is larger than {_LARGEST_JSON >> 20} MiB")
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
        raise BundleError(f"{path}: its {MANIFEST} is no JSON ({error}); train again, or copy it again")
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if version != FORMAT_VERSION:
        raise BundleError(
            "%s: has bundle format %s, this version reads %d; update picnic-edge, or train again"
            % (path, version, FORMAT_VERSION)
        )
    return manifest


def identity_of(manifest):
    """A short name for what the bundle computes: its classes, its input spec and its files' sums."""
    content = [manifest.get("class_names"), manifest.get("input_spec"), manifest.get("files")]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
