"""Which member of which class a version of TensorRT has, and how its bindings check what they are given.

tensorrt_api.json lists, for each class, every member and the versions that have it. A class here is written with all
that the simulator can do; make() keeps what the chosen version has. What the version has and the simulator cannot do
raises NotImplementedError; what the version lacks raises AttributeError, as it would there.
"""

import inspect
import json
import os
import warnings

import numpy as np

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "tensorrt_api.json")) as _file:
    _API = json.load(_file)
VERSIONS = _API["versions"]

# (class, member): (deprecated since, what the warning names)
DEPRECATED = {
    ("Builder", "build_engine"): ("8.2.1", "build_serialized_network"),
    ("IBuilderConfig", "max_workspace_size"): ("8.4", "set_memory_pool_limit"),
    ("ICudaEngine", "num_bindings"): ("8.5.1", "num_io_tensors"),
    ("ICudaEngine", "get_binding_name"): ("8.5.1", "get_tensor_name"),
    ("ICudaEngine", "get_binding_index"): ("8.5.1", "get_tensor_name"),
    ("ICudaEngine", "binding_is_input"): ("8.5.1", "get_tensor_mode"),
    ("ICudaEngine", "get_binding_shape"): ("8.5.1", "get_tensor_shape"),
    ("ICudaEngine", "get_binding_dtype"): ("8.5.1", "get_tensor_dtype"),
    ("ICudaEngine", "get_profile_shape"): ("8.5.1", "get_tensor_profile_shape"),
    ("ICudaEngine", "device_memory_size"): ("10.3.0", "device_memory_size_v2"),
    ("IExecutionContext", "set_binding_shape"): ("8.5.1", "set_input_shape"),
    ("IExecutionContext", "get_binding_shape"): ("8.5.1", "get_tensor_shape"),
    ("IExecutionContext", "get_strides"): ("8.5.1", "get_tensor_strides"),
    ("IExecutionContext", "execute_async_v2"): ("8.5.1", "execute_async_v3"),
}


def resolve(version):
    """Returns the listed version that "10.3" or "8.2.1" means. Raises ValueError: the list has none."""
    wanted = version.split(".")
    for known in VERSIONS:
        parts = known.split(".")
        if parts[: len(wanted)] == wanted or wanted[: len(parts)] == parts:
            return known
    raise ValueError("no TensorRT %s; known are %s" % (version, ", ".join(VERSIONS)))


def at_least(version, other):
    return VERSIONS.index(version) >= VERSIONS.index(other)


def members(name, version):
    """Returns the members of a class in a version, in the bindings' order; None for a class that is not listed."""
    listed = _API["classes"].get(name)
    if listed is None:
        return None
    return [member for member, versions in listed.items() if version in versions]


def enumeration(name, values):
    """Returns a class with a constant for each {name: int}; like pybind's: int() works, arithmetic does not."""

    class Constant:
        def __init__(self, value, constant=None):
            if constant is None:
                raise TypeError("%s(): give one of its constants" % name)
            self.name, self.value = constant, value

        def __int__(self):
            return self.value

        __index__ = __int__

        def __repr__(self):
            return "<%s.%s: %d>" % (name, self.name, self.value)

        def __str__(self):
            return "%s.%s" % (name, self.name)

    Constant.__name__ = Constant.__qualname__ = name
    Constant.__module__ = "tensorrt"
    Constant.__members__ = {constant: Constant(value, constant) for constant, value in values.items()}
    for constant, instance in Constant.__members__.items():
        setattr(Constant, constant, instance)
    return Constant


def takes(**kinds):
    """Says what a method's arguments must be: a function that converts or raises TypeError, or a class's name."""

    def mark(function):
        function.takes = kinds
        return function

    return mark


def attribute(field, kind):
    """Returns a property that keeps a value of one kind in a field."""

    @takes(value=kind)
    def put(self, value):
        object.__setattr__(self, field, value)

    return property(lambda self: getattr(self, field), put)


def constant(value):
    return property(lambda self: value)


def integer(value):
    if isinstance(value, (float, np.floating, str, bytes)) or not (
        hasattr(value, "__index__") or hasattr(value, "__int__")
    ):
        raise TypeError("expected int, got %s" % type(value).__name__)
    return int(value)


def address(value):
    """A pointer: an int that is not negative."""
    value = integer(value)
    if value < 0:
        raise TypeError("expected a pointer, got %d" % value)
    return value


def addresses(value):
    if not isinstance(value, (list, tuple)):
        raise TypeError("expected List[int], got %s" % type(value).__name__)
    return [address(item) for item in value]


def boolean(value):
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError("expected bool, got %s" % type(value).__name__)
    return bool(value)


def text(value):
    if not isinstance(value, str):
        raise TypeError("expected str, got %s" % type(value).__name__)
    return value


def buffer(value):
    return bytes(memoryview(value))


def optional(kind):
    return lambda value: None if value is None else kind(value)


def index_or_name(value):
    return value if isinstance(value, str) else integer(value)


class Native:
    """What every class of the bindings is: no attributes but its own, and `with` that does nothing but warn."""

    _simulator = None  # type: ignore

    def __setattr__(self, name, value):
        if not name.startswith("_") and not isinstance(inspect.getattr_static(type(self), name, None), property):
            raise AttributeError("'tensorrt.%s' object has no attribute '%s'" % (type(self).__name__, name))
        object.__setattr__(self, name, value)

    def __enter__(self):
        warnings.warn(
            "Context managers for TensorRT types are deprecated. Memory will be freed automatically when the "
            "reference count reaches 0.",
            DeprecationWarning,
            stacklevel=2,
        )
        return self

    def __exit__(self, *_):
        pass


def make(simulator, written, name=None):
    """Returns the class as the simulator's version has it."""
    name = name or written.__name__
    listed = members(name, simulator.version)
    namespace = {
        "_simulator": simulator,
        "__doc__": written.__doc__,
        "__module__": "tensorrt",
    }
    ever = _API["classes"].get(name)
    for member, value in vars(written).items():
        if member in ("__dict__", "__weakref__", "__module__", "__doc__", "takes"):
            continue
        if ever is not None and member not in ever and not member.startswith("_"):
            raise AssertionError("TensorRT's %s never had a member %s" % (name, member))
        if listed is None or member in listed or (member.startswith("_") and member not in ever):
            namespace[member] = _guarded(simulator, name, member, value)
    for member in listed or ():
        if member not in namespace and member != "__del__":
            namespace[member] = _unmodelled(name, member)
    return type(name, written.__bases__, namespace)


def _guarded(simulator, owner, member, value):
    """Returns a member that warns if it is deprecated and checks its arguments."""
    since, better = DEPRECATED.get((owner, member), (None, None))
    deprecated = since is not None and at_least(simulator.version, since)

    def guard(function):
        if function is None or not (deprecated or hasattr(function, "takes")):
            return function
        return _checked(simulator, "%s.%s" % (owner, member), function, better if deprecated else None)

    if isinstance(value, property):
        return property(guard(value.fget), guard(value.fset), doc=value.__doc__)
    return guard(value) if inspect.isfunction(value) else value


def _checked(simulator, label, function, better):
    signature = inspect.signature(function)
    kinds = getattr(function, "takes", {})

    def call(*args, **kwargs):
        if better:
            warnings.warn("Use %s instead." % better, DeprecationWarning, stacklevel=2)
        try:
            bound = signature.bind(*args, **kwargs)
            for name, kind in kinds.items():
                if name in bound.arguments:
                    bound.arguments[name] = _converted(simulator, kind, bound.arguments[name])
        except TypeError as error:
            raise TypeError(
                "%s(): incompatible function arguments (%s). The following argument types are supported: %s"
                % (label, error, signature)
            )
        return function(*bound.args, **bound.kwargs)

    call.__name__, call.__doc__ = function.__name__, function.__doc__
    return call


def _converted(simulator, kind, value):
    if not isinstance(kind, str):
        return kind(value)
    wanted = getattr(simulator.tensorrt, kind)
    if kind == "Dims":
        return wanted(value)
    if not isinstance(value, wanted):
        raise TypeError("expected tensorrt.%s, got %s" % (kind, type(value).__name__))
    if not getattr(value, "_ready", True):
        raise TypeError("tensorrt.%s.__init__() must be called when overriding __init__" % kind)
    return value


class _Unmodelled:
    """Stands where a member is that the simulator cannot do, so that hasattr() tells the truth."""

    def __init__(self, message):
        self._message = message

    def __call__(self, *_, **__):
        raise NotImplementedError(self._message)

    __int__ = __index__ = __bool__ = __len__ = __iter__ = __eq__ = __call__
    __hash__ = None  # type: ignore


def _unmodelled(owner, member):
    stand_in = _Unmodelled("the simulator does not model tensorrt's %s.%s" % (owner, member))
    return stand_in if member.startswith("__") else property(lambda self: stand_in, stand_in)
