"""The simulated GPU: memory with addresses of its own, streams that work as late as they may, contexts per thread.

Work is put into queues and runs only when somebody waits for it, so that whoever reads too early, or writes too early
into what a queued copy still has to read, gets wrong numbers every time and not once in a thousand times. Memory that
nobody has written yet, and output that is still awaited, reads as GARBAGE bytes (float32: -4.3e8).
"""

import collections
import itertools
import os
import sys
import threading
import time
import weakref

import numpy as np

GARBAGE = 0xCD
_FIRST_ADDRESS = 0x2_0000_0000  # no plausible host pointer, count or index
_ALIGNMENT = 512
_HERE = os.path.dirname(os.path.abspath(__file__))


class IllegalAddressError(Exception):
    """Queued work touched memory that is not, or no longer, the GPU's."""


class OutOfMemoryError(Exception):
    """The GPU has no more memory, or the test's memory_limit_bytes is reached."""


class Memory:
    """A range of device memory, or of page-locked host memory (host_address is then where the host sees it)."""

    def __init__(self, address, array, context, what):
        self.address = address
        self.array = array  # uint8, its bytes
        self.context = context
        self.what = what
        self.freed = False
        self.host_address = None  # of page-locked host memory
        self.mapped = True  # whether the device may use it


class Queue:
    """What a stream has still to do, in order."""

    def __init__(self):
        self._work = collections.deque()
        self.put_count = 0
        self.done_count = 0

    def put(self, work):
        """Adds a function; returns its place, for run."""
        self._work.append(work)
        self.put_count += 1
        return self.put_count

    def run(self, until=None):
        """Does the work up to a place, or all that is there now."""
        until = self.put_count if until is None else until
        while self.done_count < until:
            self.done_count += 1
            self._work.popleft()()

    def drop(self):
        """Forgets all work."""
        self._work.clear()
        self.done_count = self.put_count

    @property
    def busy(self):
        return self.done_count < self.put_count


class Context:
    """A CUDA context: owns memory and streams. Which is current is a matter of each thread's stack."""

    def __init__(self, primary):
        self.primary = primary
        self.alive = True
        self.retained = 1
        self.default = Queue()
        self.streams = {}  # handle -> Queue
        self.libraries = weakref.WeakSet()  # TensorRT's engines and contexts, which must go first

    def queue(self, handle):
        """Returns the queue of a stream's handle (0: the default stream). Raises KeyError: not of this context."""
        return self.streams[handle] if handle else self.default

    def put(self, queue, work):
        """Queues work; the default stream waits for all others, and they for it. Returns its place in the queue."""
        if queue is not self.default:
            return queue.put(work)
        others = list(self.streams.values())
        for other in others:
            queue.put(lambda other=other, place=other.put_count: other.run(place))
        place = queue.put(work)
        for other in others:
            other.put(lambda: queue.run(place))
        return place

    def synchronize(self):
        for queue in [self.default] + list(self.streams.values()):
            queue.run()


class Gpu:
    """One device and everything on it."""

    def __init__(self, settings):
        self.settings = settings
        self.lock = threading.RLock()
        self.problems = []  # what would crash, corrupt or leak without an exception: fails the test
        self.pageable_copies = 0  # asynchronous copies that were not, for their memory is not page-locked
        self.initialized_by = None  # a process
        self.contexts = []
        self.primary = None
        self.live = weakref.WeakSet()  # objects that must be gone at the end; each has _where
        self._stacks = {}  # thread -> what it has pushed
        self._memory = []
        self._addresses = itertools.count(_FIRST_ADDRESS, 1 << 32)
        self._handles = itertools.count(0x5500_0000, 16)

    def problem(self, text):
        self.problems.append("%s (%s)" % (text, caller()))

    def claim(self):
        """Notes which process uses CUDA. Returns whether this one may: a forked child has not got its parent's."""
        self.initialized_by = self.initialized_by or os.getpid()
        return self.initialized_by == os.getpid()

    def stack(self):
        """Returns this thread's stack of pycuda's contexts, less what was detached on top of it."""
        stack = self._stacks.setdefault(threading.current_thread(), [])
        while stack and not stack[-1]._valid:
            stack.pop()
        return stack

    def current(self):
        """Returns the Context that CUDA calls of this thread use, None if there is none."""
        stack = self.stack()
        return stack[-1].context if stack else None

    def runtime_context(self):
        """Returns the Context that TensorRT uses: the current one, else the device's primary one, made if need be."""
        return self.current() or self.retain_primary(count=False)

    def make_context(self):
        context = Context(primary=False)
        self.contexts.append(context)
        return context

    def retain_primary(self, count=True):
        if self.primary is None or not self.primary.alive:
            self.primary = Context(primary=True)
            self.primary.retained = 0
            self.contexts.append(self.primary)
        self.primary.retained += count
        return self.primary

    def release(self, context):
        """Gives one hold on a context back; what it owns goes with the last."""
        context.retained -= 1
        if context.retained > 0:
            return
        for thing in list(context.libraries):
            self.problem("the CUDA context was destroyed before the %s in it" % type(thing).__name__)
        for queue in context.streams.values():
            if queue.busy:
                self.problem("the CUDA context was destroyed while work was queued")
        context.alive = False
        for memory in self._memory:
            if memory.context is context and not memory.freed:
                self.problem("leaked %s of %d bytes: its context was destroyed" % (memory.what, memory.array.nbytes))
                memory.freed = True

    def new_stream(self, context):
        handle = next(self._handles)
        context.streams[handle] = Queue()
        return handle

    def used_bytes(self):
        return sum(memory.array.nbytes for memory in self._memory if not memory.freed)

    def free_bytes(self):
        limit_bytes = self.settings["memory_limit_bytes"]
        total_bytes = self.settings["total_memory_bytes"] if limit_bytes is None else limit_bytes
        return total_bytes - self.used_bytes()

    def allocate(self, size_bytes, context, what, host=False):
        """Returns new Memory full of garbage. Raises OutOfMemoryError."""
        if size_bytes > self.free_bytes():
            raise OutOfMemoryError(size_bytes)
        memory = Memory(next(self._addresses), np.full(size_bytes, GARBAGE, np.uint8), context, what)
        memory.host_address = memory.array.ctypes.data if host else None
        self._memory.append(memory)
        return memory

    def free(self, memory):
        memory.freed = True
        memory.array[:] = GARBAGE

    def forget(self, memory):
        """Called when nothing can reach the memory any more."""
        if memory.freed:
            self._memory.remove(memory)

    def at(self, address, size_bytes, what):
        """Returns the bytes at a device address, uint8 [size_bytes]; writing into them writes there.

        Raises:
            IllegalAddressError: and takes note of it.
        """
        for memory in self._memory:
            offset = address - memory.address
            if 0 <= offset < max(memory.array.nbytes, 1) and not (memory.host_address and not memory.mapped):
                if memory.freed:
                    reason = "was freed"
                elif offset + size_bytes > memory.array.nbytes:
                    reason = "is too small: %d bytes wanted, %d there" % (size_bytes, memory.array.nbytes - offset)
                else:
                    return memory.array[offset : offset + size_bytes]
                self.problem("%s: the memory at 0x%x %s" % (what, address, reason))
                raise IllegalAddressError(what)
        self.problem("%s: 0x%x is no address on the device" % (what, address))
        raise IllegalAddressError(what)

    def page_locked(self, host):
        """Returns the page-locked Memory that a uint8 array on host memory lies in, None if it is ordinary memory."""
        for memory in self._memory:
            if memory.host_address is not None:
                offset = host.ctypes.data - memory.host_address
                if offset >= 0 and offset + host.nbytes <= memory.array.nbytes:
                    return memory
        return None

    def leaks(self):
        """Returns a text for each thing that is still held."""
        found = ["still alive: %s made at %s" % (type(thing).__name__, thing._where) for thing in list(self.live)]
        for thread, stack in self._stacks.items():
            if stack and not thread.is_alive():
                found.append("%s is over and has not popped its CUDA context, which aborts the process" % thread.name)
            elif any(item._valid for item in stack):
                found.append("%s has not popped its CUDA context, which aborts the process at its end" % thread.name)
        for context in self.contexts:
            if context.alive and context.retained > 0:
                found.append("a %s context was not detached" % ("primary" if context.primary else "private"))
        found += ["leaked %s of %d bytes" % (m.what, m.array.nbytes) for m in self._memory if not m.freed]
        return found

    def mapped_for_host(self, address):
        """Tells whether a device address is host memory that the device sees."""
        return any(m.host_address and 0 <= address - m.address < m.array.nbytes for m in self._memory)


def host_bytes(buffer, writable):
    """Returns the bytes of a contiguous buffer as a uint8 array on the same memory.

    Raises:
        ValueError, TypeError, BufferError: as pycuda does, for what is no such buffer.
    """
    view = memoryview(buffer)
    if not view.contiguous:
        raise ValueError("ndarray is not contiguous")
    if writable and view.readonly:
        raise BufferError("Object is not writable.")
    if isinstance(buffer, np.ndarray):
        return buffer.ravel(order="K").view(np.uint8)
    return np.frombuffer(view.cast("B"), np.uint8)


def caller():
    """Returns file:line of the code that called into the simulator."""
    frame = sys._getframe()
    while frame is not None and os.path.dirname(os.path.abspath(frame.f_code.co_filename)) == _HERE:
        frame = frame.f_back
    return "?" if frame is None else "%s:%d" % (frame.f_code.co_filename, frame.f_lineno)


def now_ms():
    return time.perf_counter() * 1000.0
