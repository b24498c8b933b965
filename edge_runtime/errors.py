"""The errors a user can meet, each with the exit code it ends the command with.

PicnicError                 1   base class, never raised itself
  UsageError                2   wrong arguments, a missing input, a table that cannot be read
  SomeInputsFailed          3   --strict, and some inputs could not be used; a soak test in which something grew
  MissingRequirement        4   this machine lacks a library, a GPU, a camera
    EngineLost              4   the engine stopped working during the run; earlier results are kept
    StorageLost             4   a disk, a mount or the source's folder went away during the run; likewise
    OutOfMemory             4   not enough memory for an engine, a batch, or one photo alone; likewise
  BundleError               5   bundle or engine corrupt, or built for another machine
    CorruptFile             5   one of its files is missing, changed or not listed
  ParityError               6   an engine's answers differ too much from its model's
  GotWorse                  7   bench --against --fail-above: a figure is worse by more than that
ImageError                  -   one photo cannot be used; it becomes the error of that photo's row
  PhotoMissing              -   its file is not there

Other ends of a command have exit codes too: 2 where argparse refuses the arguments, 4 for a MemoryError or its like
(see is_out_of_memory), 130 after Ctrl-C, 141 when the reader of the output went away. Anything else that reaches the
top is a bug of ours: exit code 1 and a traceback.
"""

import errno
import re

# Errors of reading where a disk, a mount or this process is at fault, not the file.
_STORAGE_ERRORS = (
    errno.EIO,
    errno.ESTALE,
    errno.ENODEV,
    errno.ENXIO,
    errno.ENOTCONN,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EREMOTEIO,
    errno.ETIMEDOUT,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
)


class PicnicError(Exception):
    """A failure that one message explains to the user, without a traceback."""

    exit_code = 1


class UsageError(PicnicError):
    exit_code = 2


class SomeInputsFailed(PicnicError):  # noqa: N818
    exit_code = 3


class MissingRequirement(PicnicError):  # noqa: N818
    exit_code = 4


class EngineLost(MissingRequirement):  # noqa: N818
    """The engine fails for every input; the message has its last error."""


class StorageLost(MissingRequirement):  # noqa: N818
    """The folder, disk or mount of the photos is gone or fails. No photo is at fault, so no photo gets an error row."""


class OutOfMemory(MissingRequirement):  # noqa: N818
    """There is not enough memory for an engine, for a batch, or even for one photo alone. No photo is at fault."""


class BundleError(PicnicError):
    exit_code = 5


class CorruptFile(BundleError):  # noqa: N818
    """One file of a bundle or engine is not the one that was written; the others may be fine."""


class ParityError(PicnicError):
    exit_code = 6


class GotWorse(PicnicError):  # noqa: N818
    exit_code = 7


class ImageError(Exception):
    """One photo cannot be read; the message is the reason, without the file's name."""


class PhotoMissing(ImageError):  # noqa: N818
    """There is no file of that name."""


STORAGE_ADVICE = (
    "No photo is marked as failed for this. Bring the disk, card or network drive back and give the same command again "
    "(classify and train: with --resume, which keeps what is done)."
)


def is_storage_error(error):
    """Tells whether an exception is an OSError of the disk, the mount or this process, not of the file that is read."""
    return getattr(error, "errno", None) in _STORAGE_ERRORS


def storage_lost(name, error):
    """Returns the StorageLost to raise for an OSError of the storage.

    Args:
        name: of the file or folder, for the message.
        error: the OSError.
    """
    advice = STORAGE_ADVICE
    if error.errno in (errno.EMFILE, errno.ENFILE):
        advice = "Raise the limit of open files: ulimit -n 4096"
    return StorageLost(f"{name}: cannot be read any more ({error.strerror or error}).\n{advice}")


def is_out_of_memory(error):
    """Tells whether an exception means that memory ran out; C++ libraries raise errors of their own for it."""
    if isinstance(error, MemoryError) or getattr(error, "code", None) == -4:  # OpenCV: StsNoMem
        return True
    words = "bad_alloc|(fail(ed)? to|can.?t|cannot) alloc|can't start new thread|out of memory|could not be allocated"
    return re.search(words, str(error), re.IGNORECASE) is not None
