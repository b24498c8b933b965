"""pycuda.driver on the simulated GPU: signatures, messages and ownership of pycuda 2019.1 to 2022.1."""

import os
import threading
import types

import numpy as np

from tests.simulator.gpu import GARBAGE, IllegalAddressError, OutOfMemoryError, caller, host_bytes, now_ms

# What pycuda has and the simulator does not do.
_UNMODELLED = (
    "register_host_memory",
    "aligned_empty",
    "managed_empty",
    "aligned_zeros",
    "managed_zeros",
    "memcpy_dtod",
)
_UNMODELLED += ("pagelocked_zeros", "module_from_buffer", "module_from_file", "memset_d8_async", "mem_alloc_pitch")


def build(gpu, version):
    """Returns the module pycuda.driver for a Gpu; version: of pycuda, as a tuple."""
    module = types.ModuleType("pycuda.driver")
    gpu.driver = module

    class Error(Exception):
        pass

    class MemoryError(Error):  # noqa: A001 - not Python's, as in pycuda
        pass

    class LogicError(Error):
        pass

    class LaunchError(Error):
        pass

    class RuntimeError(Error):  # noqa: A001
        pass

    def current(routine, driver=False):
        """Returns the current Context; pycuda's objects and CUDA's functions word its absence differently."""
        context = gpu.current()
        if context is None:
            raise LogicError(
                "%s failed: invalid device context" % routine
                if driver
                else "explicit_context_dependent failed: invalid device context - no currently active context?"
            )
        if driver:
            refuse_if_lost(routine)
        return context

    def refuse_if_lost(routine):
        if gpu.settings["lose_gpu"]:
            raise LaunchError("%s failed: unspecified launch failure" % routine)

    def run(routine, work):
        """Does queued work; raises what CUDA says when that went wrong."""
        refuse_if_lost(routine)
        try:
            with gpu.lock:
                return work()
        except IllegalAddressError:
            raise LaunchError("%s failed: an illegal memory access was encountered" % routine)

    def at(routine, address, size_bytes):
        try:
            return gpu.at(pointer(address), size_bytes, routine)
        except IllegalAddressError:
            raise LogicError("%s failed: invalid argument" % routine)

    def pointer(value):
        if isinstance(value, DeviceAllocation):
            return int(value)
        if not isinstance(value, int):  # Boost.Python takes no numpy integers
            raise TypeError("Python argument types did not match C++ signature: CUdeviceptr, %s" % type(value))
        return value

    def plain_int(value):
        if not isinstance(value, int):
            raise TypeError("Python argument types did not match C++ signature: unsigned long, %s" % type(value))
        return value

    class Dependent:
        """Of the context object that was current when it was made; given back through that, or not at all."""

        def _acquire(self):
            self._context = current("explicit_context_dependent")
            self._ward = gpu.stack()[-1]
            self._where = caller()
            gpu.live.add(self)

        def _reachable(self):
            """Tells whether this thread can give it back; pycuda leaks it without a word if not."""
            ward = self._ward
            stack = gpu.stack()
            if not ward._valid or not self._context.alive:
                return False
            return (bool(stack) and stack[-1] is ward) or ward._thread is threading.current_thread()

    class Allocation(Dependent):
        """Memory with free(): what DeviceAllocation and PagelockedHostAllocation share."""

        _memory = None

        def free(self):
            with gpu.lock:
                if self._memory is None or self._memory.freed:
                    gpu.problem("double free of memory")
                    raise LogicError("%s failed: invalid resource handle" % self._free_name)
                gpu.live.discard(self)
                if self._reachable():
                    gpu.free(self._memory)
                else:
                    gpu.problem("leaked %s: freed where its context cannot be activated" % self._memory.what)
                    self._memory.freed = True

        def __del__(self):
            memory = self._memory
            if memory is not None:
                with gpu.lock:
                    if not memory.freed:
                        self.free()
                    gpu.forget(memory)

    class DeviceAllocation(Allocation):
        _free_name = "device_allocation::free"

        def __init__(self, size_bytes):
            self._acquire()
            try:
                self._memory = gpu.allocate(size_bytes, self._context, "device memory")
            except OutOfMemoryError:
                raise MemoryError("cuMemAlloc failed: out of memory")

        def __int__(self):
            return self._memory.address

        __index__ = __int__

        def as_buffer(self, size, offset=0):
            raise NotImplementedError("the simulator does not model DeviceAllocation.as_buffer")

    class PagelockedHostAllocation(Allocation):
        _free_name = "pagelocked_host_allocation::free"

        def __init__(self, shape, dtype, order, mem_flags):
            self._acquire()
            size_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
            try:
                self._memory = gpu.allocate(size_bytes, self._context, "page-locked memory", host=True)
            except OutOfMemoryError:
                raise MemoryError("cuMemHostAlloc failed: out of memory")
            self._memory.mapped = bool(mem_flags & host_alloc_flags.DEVICEMAP)
            strides = np.empty(shape, dtype, order).strides if np.prod(shape) else None
            self.__array_interface__ = {
                "shape": tuple(shape),
                "typestr": dtype.str,
                "data": (self._memory.array.ctypes.data, False),
                "strides": strides,
                "version": 3,
            }

        def get_device_pointer(self):
            if not self._memory.mapped or self._memory.freed:
                raise LogicError("cuMemHostGetDevicePointer failed: invalid argument")
            return self._memory.address

    HostAllocation = PagelockedHostAllocation  # noqa: N806

    class Stream(Dependent):
        def __init__(self, flags=0):
            if flags:
                raise NotImplementedError("the simulator models streams with flags=0 only")
            self._acquire()
            self._handle = gpu.new_stream(self._context)

        @property
        def handle(self):
            return self._handle

        @property
        def _queue(self):
            return self._context.queue(self._handle)

        def synchronize(self):
            current("cuStreamSynchronize", driver=True)
            run("cuStreamSynchronize", self._queue.run)

        def is_done(self):
            done = not self._queue.busy
            run("cuStreamQuery", lambda: self._queue.run(min(self._queue.done_count + 1, self._queue.put_count)))
            return done

        def wait_for_event(self, event):
            place = event._place
            self._queue.put(lambda: event._queue.run(place))

        def __del__(self):
            if hasattr(self, "_handle"):
                with gpu.lock:
                    if gpu.settings["lose_gpu"]:
                        self._queue.drop()  # what can never be done
                    if self._queue.busy:
                        gpu.problem("a stream was destroyed with work in it that nobody waited for")
                    if self._reachable():
                        del self._context.streams[self._handle]
                    elif self._context.alive:
                        gpu.problem("leaked a stream: it went where its context cannot be activated")

    class Event(Dependent):
        def __init__(self, flags=0):
            self._acquire()
            self._timed = not flags & event_flags.DISABLE_TIMING
            self._queue = self._place = self._at_ms = None

        def record(self, stream=None):
            with gpu.lock:
                self._queue = queue_of(stream, "cuEventRecord")
                self._at_ms = None
                self._place = self._context.put(self._queue, self._happen)
            return self

        def _happen(self):
            self._at_ms = now_ms()

        def synchronize(self):
            if self._queue is not None:
                run("cuEventSynchronize", lambda: self._queue.run(self._place))
            return self

        def query(self):
            if self._queue is None:
                return True
            done = self._queue.done_count >= self._place
            if not done:
                run("cuEventQuery", lambda: self._queue.run(self._queue.done_count + 1))
            return done

        def time_till(self, end):
            for event in (self, end):
                if event._queue is None or not event._timed:
                    raise LogicError("cuEventElapsedTime failed: invalid resource handle")
                if event._queue.done_count < event._place:
                    raise LogicError("cuEventElapsedTime failed: device not ready")
            return float(end._at_ms - self._at_ms)

        def time_since(self, start):
            return start.time_till(self)

    class Context:
        def __init__(self, *_):
            raise TypeError("This class cannot be instantiated from Python")

        @classmethod
        def _of(cls, context):
            self = object.__new__(cls)
            self.context = context
            self._valid = True
            self._thread = threading.current_thread()
            self._where = caller()
            gpu.live.add(self)
            return self

        def push(self):
            if not self._valid or not self.context.alive:
                raise LogicError("cuCtxPushCurrent failed: invalid device context")
            gpu.stack().append(self)

        @staticmethod
        def pop():
            if not gpu.stack():
                raise LogicError("context::pop failed: invalid device context - cannot pop non-current context")
            gpu.stack().pop()

        def detach(self):
            if not self._valid:
                gpu.problem("a context was detached twice")
                raise LogicError("context::detach failed: invalid device context - cannot detach from invalid context")
            with gpu.lock:
                stack = gpu.stack()
                if (stack and stack[-1] is self) or self._thread is threading.current_thread():
                    gpu.release(self.context)
                else:
                    gpu.problem("leaked a context: detached in another thread than made it")
            self._valid = False
            gpu.live.discard(self)

        @staticmethod
        def get_current():
            return gpu.stack()[-1] if gpu.stack() else None

        @staticmethod
        def synchronize():
            context = current("cuCtxSynchronize", driver=True)
            run("cuCtxSynchronize", context.synchronize)

        @staticmethod
        def get_device():
            current("cuCtxGetDevice", driver=True)
            return Device(0)

        def __del__(self):
            if self._valid and self.context.alive:
                self.detach()

    class Device:
        def __init__(self, number):
            initialized("cuDeviceGet")
            if plain_int(number) != 0:
                raise LogicError("cuDeviceGet failed: invalid device ordinal")

        @staticmethod
        def count():
            initialized("cuDeviceGetCount")
            return 1

        def name(self):
            return gpu.settings["device_name"]

        def compute_capability(self):
            return tuple(gpu.settings["compute_capability"])

        def total_memory(self):
            return gpu.settings["total_memory_bytes"]

        def get_attribute(self, attribute):
            try:
                return gpu.settings["attributes"][attribute]
            except KeyError:
                raise NotImplementedError("the simulator does not know the device attribute %s" % attribute)

        def get_attributes(self):
            return dict(gpu.settings["attributes"])

        def make_context(self, flags=0):
            context = Context._of(gpu.make_context())
            gpu.stack().append(context)
            return context

        def retain_primary_context(self):
            return Context._of(gpu.retain_primary())

    for name, value in gpu.settings["attributes"].items():
        setattr(Device, name.lower(), value)
    if version < (2020, 1):
        del Device.retain_primary_context

    def initialized(routine):
        if gpu.initialized_by != os.getpid():
            raise LogicError("%s failed: initialization error" % routine)

    def init(flags=0):
        gpu.claim()
        initialized("cuInit")

    def get_version():
        return tuple(gpu.settings["cuda_version"])

    def queue_of(stream, routine):
        context = current(routine, driver=True)
        if stream is None:
            return context.default
        if not isinstance(stream, Stream):
            raise TypeError("expected pycuda.driver.Stream, got %s" % type(stream).__name__)
        if stream._context is not context:
            raise LogicError("%s failed: invalid resource handle" % routine)
        return stream._queue

    def mem_alloc(nbytes):
        if plain_int(nbytes) <= 0:
            raise LogicError("cuMemAlloc failed: invalid argument")
        return DeviceAllocation(nbytes)

    def mem_get_info():
        current("cuMemGetInfo", driver=True)
        return gpu.free_bytes(), gpu.settings["total_memory_bytes"]

    def pagelocked_empty(shape, dtype, order="C", mem_flags=0):
        shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(shape)
        return np.asarray(PagelockedHostAllocation(shape, np.dtype(dtype), order, mem_flags))

    def host_memory(routine, buffer, writable):
        """Returns (uint8 array on the memory of a host buffer, its page-locked Memory or None)."""
        host = host_bytes(buffer, writable)
        memory = gpu.page_locked(host)
        if memory is not None and memory.freed:
            gpu.problem("%s: the page-locked memory was freed" % routine)
            raise LogicError("%s failed: invalid argument" % routine)
        return host, memory

    def pinned(host, memory):
        """Returns a function that gives page-locked memory at the time of a copy, which nothing else keeps there."""
        offset, size_bytes = host.ctypes.data - memory.host_address, host.nbytes

        def find():
            if memory.freed:
                gpu.problem("a queued copy uses page-locked memory that was freed")
                raise IllegalAddressError("page-locked memory")
            return memory.array[offset : offset + size_bytes]

        return find

    def copy(routine, stream, destination, source, wait):
        """Queues a copy between two uint8 arrays, given as functions that are called when it is made."""
        context, queue = current(routine, driver=True), queue_of(stream, routine)

        def work():
            destination()[:] = source()

        with gpu.lock:
            place = context.put(queue, work)
        if wait:
            run(routine, lambda: queue.run(place))

    def htod(dest, src, stream=None, wait=True):
        routine = "cuMemcpyHtoD" if wait else "cuMemcpyHtoDAsync"
        current(routine, driver=True)
        host, memory = host_memory(routine, src, writable=False)
        address, size_bytes = pointer(dest), host.nbytes
        at(routine, address, size_bytes)
        gpu.pageable_copies += not (memory or wait)
        staged = None if memory else host.copy()  # the driver takes ordinary memory before the call returns
        source = pinned(host, memory) if memory else lambda: staged
        copy(routine, stream, lambda: gpu.at(address, size_bytes, routine), source, wait)

    def dtoh(dest, src, stream=None, wait=True):
        routine = "cuMemcpyDtoH" if wait else "cuMemcpyDtoHAsync"
        current(routine, driver=True)
        host, memory = host_memory(routine, dest, writable=True)
        address, size_bytes = pointer(src), host.nbytes
        at(routine, address, size_bytes)
        gpu.pageable_copies += not (memory or wait)
        if memory:
            host[:] = GARBAGE
        destination = pinned(host, memory) if memory else lambda: host
        copy(routine, stream, destination, lambda: gpu.at(address, size_bytes, routine), wait or not memory)

    def memcpy_htod(dest, src):
        htod(dest, src)

    def memcpy_dtoh(dest, src):
        dtoh(dest, src)

    def memcpy_htod_async(dest, src, stream=None):
        htod(dest, src, stream, wait=False)

    def memcpy_dtoh_async(dest, src, stream=None):
        dtoh(dest, src, stream, wait=False)

    def memset_d8(dest, data, size):
        context = current("cuMemsetD8", driver=True)
        run("cuMemsetD8", context.synchronize)
        at("cuMemsetD8", dest, plain_int(size))[:] = data

    class host_alloc_flags:  # noqa: N801
        PORTABLE, DEVICEMAP, WRITECOMBINED = 1, 2, 4

    class event_flags:  # noqa: N801
        DEFAULT, BLOCKING_SYNC, DISABLE_TIMING, INTERPROCESS = 0, 1, 2, 4

    class ctx_flags:  # noqa: N801
        SCHED_AUTO, SCHED_SPIN, SCHED_YIELD, SCHED_BLOCKING_SYNC, MAP_HOST = 0, 1, 2, 4, 8

    class device_attribute:  # noqa: N801
        pass

    for name in gpu.settings["attributes"]:
        setattr(device_attribute, name, name)
    for name, value in list(locals().items()):
        if name not in ("gpu", "module", "version") and (isinstance(value, type) or name in _PUBLIC):
            setattr(module, name, value)
            if isinstance(value, type) and issubclass(value, Error):
                value.__module__ = "pycuda._driver"
    for name in _UNMODELLED:
        setattr(module, name, _refusing(name))
    del module.Dependent, module.Allocation
    return module


_PUBLIC = ("init", "get_version", "mem_alloc", "mem_get_info", "pagelocked_empty", "memcpy_htod", "memcpy_dtoh")
_PUBLIC += ("memcpy_htod_async", "memcpy_dtoh_async", "memset_d8")


def _refusing(name):
    def refuse(*_, **__):
        raise NotImplementedError("the simulator does not model pycuda.driver.%s" % name)

    return refuse
