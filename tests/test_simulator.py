"""The simulator of TensorRT and pycuda gives real numbers, and catches each of the classic mistakes."""

import multiprocessing
import os
import re
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest

from tests.helpers import ROOT
from tests.simulator import api, install

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

VERSIONS = ["8.2.1", "8.5.1", "8.6.1", "10.3", "11.1"]
MAX_BATCH = 4
WEIGHTS = np.random.RandomState(0).randn(4, 3).astype(np.float32)
ROWS = np.random.RandomState(1).rand(MAX_BATCH, 4).astype(np.float32)


def network(input_type="FLOAT", opset=13, operator="Softmax", batch="batch"):
    """Returns the bytes of an ONNX file: x [batch, 4] -> Cast, MatMul, an operator -> y [batch, 3]."""
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Cast", ["x"], ["floats"], to=TensorProto.FLOAT, name="cast"),
        helper.make_node("MatMul", ["floats", "weights"], ["products"], name="matmul"),
        helper.make_node(operator, ["products"], ["y"], name="last"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", getattr(TensorProto, input_type), [batch, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3])],
        [numpy_helper.from_array(WEIGHTS, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 7
    return model.SerializeToString()


def expected(rows):
    session = onnxruntime.InferenceSession(network(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": np.asarray(rows, np.float32)})[0]


@pytest.fixture
def simulate(monkeypatch):
    """Returns install() with the monkeypatch given."""
    return lambda version="8.2.1", **knobs: install(monkeypatch, version=version, **knobs)


def recorder():
    """Returns a logger of the installed tensorrt that keeps (severity's name, message) in .lines."""
    import tensorrt as trt

    class Recorder(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)
            self.lines = []

        def log(self, severity, msg):
            self.lines.append((severity.name, msg))

        def text(self):
            return "\n".join("%s %s" % line for line in self.lines)

    return Recorder()


def build(log, data=None, flags=1, workspace_bytes=256 << 20, profile=True, builder_flags=(), prepare=None):
    """Returns a plan as the version builds it, or None. prepare: called with the config."""
    import tensorrt as trt

    builder = trt.Builder(log)
    made = builder.create_network(flags)
    parser = trt.OnnxParser(made, log)
    if not parser.parse(data or network()):
        return None
    config = builder.create_builder_config()
    if hasattr(config, "set_memory_pool_limit"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_bytes)
    elif workspace_bytes:
        config.max_workspace_size = workspace_bytes
    for name in builder_flags:
        config.set_flag(getattr(trt.BuilderFlag, name))
    if profile:
        shapes = builder.create_optimization_profile()
        shapes.set_shape("x", (1, 4), (MAX_BATCH, 4), (MAX_BATCH, 4))
        assert config.add_optimization_profile(shapes) == 0
    if prepare:
        prepare(config)
    plan = builder.build_serialized_network(made, config)
    return None if plan is None else bytes(plan)


class Machine:
    """An opened engine with all that a run needs, done right; tests do one thing wrong each."""

    def __init__(self, plan=None, mem_flags=0, primary=True, dtype=np.float32):
        import pycuda.driver as cuda
        import tensorrt as trt

        cuda.init()
        device = cuda.Device(0)
        if primary:
            self.cuda_context = device.retain_primary_context()
            self.cuda_context.push()
        else:
            self.cuda_context = device.make_context()
        self.log = recorder()
        self.runtime = trt.Runtime(self.log)
        self.engine = self.runtime.deserialize_cuda_engine(plan or build(self.log))
        self.context = self.engine.create_execution_context()
        self.stream = cuda.Stream()
        self.host_in = cuda.pagelocked_empty((MAX_BATCH, 4), dtype, mem_flags=mem_flags)
        self.host_out = cuda.pagelocked_empty((MAX_BATCH, 3), np.float32, mem_flags=mem_flags)
        self.device_in = cuda.mem_alloc(self.host_in.nbytes)
        self.device_out = cuda.mem_alloc(self.host_out.nbytes)

    def set_shape(self, shape):
        if hasattr(self.context, "set_input_shape"):
            return self.context.set_input_shape("x", shape)
        return self.context.set_binding_shape(0, shape)

    def execute(self, device_in=None, device_out=None, stream_handle=None):
        """Queues a run; returns what TensorRT returned."""
        pointers = [
            int(self.device_in if device_in is None else device_in),
            int(self.device_out if device_out is None else device_out),
        ]
        handle = self.stream.handle if stream_handle is None else stream_handle
        if hasattr(self.context, "execute_async_v3"):
            for name, pointer in zip(("x", "y"), pointers):
                assert self.context.set_tensor_address(name, pointer)
            return self.context.execute_async_v3(handle)
        return self.context.execute_async_v2(pointers, handle)

    def enqueue(self, rows):
        """Queues everything for some rows; returns where the answers will be."""
        import pycuda.driver as cuda

        self.host_in[: len(rows)] = rows
        assert self.set_shape((len(rows), 4))
        cuda.memcpy_htod_async(self.device_in, self.host_in[: len(rows)], self.stream)
        done = self.execute()
        cuda.memcpy_dtoh_async(self.host_out[: len(rows)], self.device_out, self.stream)
        return self.host_out[: len(rows)] if done else None

    def close(self):
        self.stream.synchronize()
        for memory in (self.device_in, self.device_out, self.host_in.base, self.host_out.base):
            memory.free()
        del self.context, self.engine, self.runtime, self.stream, self.host_in, self.host_out
        self.cuda_context.pop()
        self.cuda_context.detach()
        del self.cuda_context


# --- what is right


@pytest.mark.filterwarnings("error::DeprecationWarning")
@pytest.mark.parametrize("version", VERSIONS)
def test_an_engine_gives_the_numbers_of_the_real_network(simulate, version):
    simulator = simulate(version)
    machine = Machine()
    for count in (4, 1, 3):
        answers = machine.enqueue(ROWS[:count])
        machine.stream.synchronize()
        np.testing.assert_allclose(answers, expected(ROWS[:count]), atol=1e-6)
    machine.close()
    simulator.assert_clean()


NOT_COMPARED = ["__del__", "__nonzero__", "__repr__", "__str__", "__eq__"]  # pybind's own, or Python's
NOT_COMPARED += ["get_plugin_registry", "get_builder_plugin_registry"]  # functions of plugins: not modelled
MISPLACED = [("Severity", "log"), ("ILogger", "log")]  # see api.py


@pytest.mark.parametrize("version", api.VERSIONS)
def test_a_version_has_the_listed_members_and_no_others(simulate, version):
    simulator = simulate(version)
    for name, listed in api._API["classes"].items():
        owner = {"Severity": "ILogger", "module": None}.get(name, name)
        owner = simulator.tensorrt if owner is None else getattr(simulator.tensorrt, owner, None)
        for member, versions in listed.items():
            if member not in NOT_COMPARED and (name, member) not in MISPLACED:
                assert hasattr(owner, member) == (version in versions), (name, member)


def test_fp16_rounds_weights_and_input(simulate):
    simulate()
    machine = Machine(build(recorder(), builder_flags=["FP16"]))
    answers = machine.enqueue(ROWS)
    machine.stream.synchronize()
    assert 1e-6 < np.abs(answers - expected(ROWS)).max() < 5e-3


def test_uint8_is_read_from_8_5_on(simulate, capfd):
    simulate("8.2.1")
    log = recorder()
    assert build(log, network("UINT8")) is None
    assert "In node -1 (importInputs): UNSUPPORTED_NODE: Failed to convert ONNX date type" in log.text()
    assert "Unsupported ONNX data type: UINT8" in capfd.readouterr().err
    simulate("8.5.1")
    machine = Machine(build(recorder(), network("UINT8")), dtype=np.uint8)
    rows = np.arange(12, dtype=np.uint8).reshape(3, 4)
    answers = machine.enqueue(rows)
    machine.stream.synchronize()
    np.testing.assert_allclose(answers, expected(rows), atol=1e-6)


def test_a_mapped_buffer_needs_no_copies(simulate):
    simulator = simulate()
    import pycuda.driver as cuda

    machine = Machine(mem_flags=cuda.host_alloc_flags.DEVICEMAP)
    machine.host_in[:2] = ROWS[:2]
    assert machine.set_shape((2, 4))
    assert machine.execute(*[host.base.get_device_pointer() for host in (machine.host_in, machine.host_out)])
    assert (machine.host_out[:2] < -1e8).all()
    machine.stream.synchronize()
    np.testing.assert_allclose(machine.host_out[:2], expected(ROWS[:2]), atol=1e-6)
    machine.close()
    simulator.assert_clean()


def test_events_and_the_default_stream_wait_as_documented(simulate):
    simulate()
    import pycuda.driver as cuda

    machine = Machine()
    start, end = cuda.Event(), cuda.Event()
    start.record(machine.stream)
    machine.enqueue(ROWS)
    end.record(machine.stream)
    with pytest.raises(cuda.LogicError, match="device not ready"):
        start.time_till(end)
    assert not end.query()
    answers = np.empty((4, 3), np.float32)
    cuda.memcpy_dtoh(answers, machine.device_out)  # of the default stream: waits for the others
    np.testing.assert_allclose(answers, expected(ROWS), atol=1e-6)
    assert end.synchronize() is end and start.time_till(end) > 0 and end.time_since(start) > 0

    other = cuda.Stream()
    machine.enqueue(ROWS[::-1])
    ready = cuda.Event().record(machine.stream)
    other.wait_for_event(ready)
    copied = cuda.pagelocked_empty((4, 3), np.float32)
    cuda.memcpy_dtoh_async(copied, machine.device_out, other)
    other.synchronize()
    np.testing.assert_allclose(copied, expected(ROWS[::-1]), atol=1e-6)


def test_only_page_locked_memory_is_asynchronous(simulate):
    simulator = simulate()
    import pycuda.driver as cuda

    machine = Machine()
    rows, answers = ROWS.copy(), np.empty((4, 3), np.float32)
    machine.set_shape((4, 4))
    cuda.memcpy_htod_async(machine.device_in, rows, machine.stream)
    rows[:] = 0  # was taken before the call returned
    assert machine.execute()
    cuda.memcpy_dtoh_async(answers, machine.device_out, machine.stream)
    np.testing.assert_allclose(answers, expected(ROWS), atol=1e-6)
    assert simulator.pageable_copies == 2


def test_a_timing_cache_belongs_to_a_version_and_a_device(simulate):
    simulate("8.2.1")
    log, kept = recorder(), []

    def fill(config):
        kept.append(config.create_timing_cache(b""))
        assert config.set_timing_cache(kept[0], ignore_mismatch=False)

    assert build(log, prepare=fill)
    assert "Local timing cache in use" not in log.text()
    data = bytes(kept[0].serialize())
    simulate("8.6.1")
    log = recorder()

    def reuse(config):
        kept.append(config.create_timing_cache(data))
        assert not config.set_timing_cache(kept[-1], ignore_mismatch=False)
        assert config.set_timing_cache(kept[-1], ignore_mismatch=True)

    assert build(log, prepare=reuse)
    assert "Detected invalid timing cache, setup a local cache instead" in log.text()


# --- the classic mistakes


@pytest.mark.parametrize("version", ["8.2.1", "10.3"])
def test_output_read_before_synchronizing_is_garbage(simulate, version):
    simulate(version)
    machine = Machine()
    machine.enqueue(ROWS)
    machine.stream.synchronize()
    answers = machine.enqueue(ROWS)  # the right answers are still in the buffer, and must not be taken for new
    assert (answers < -1e8).all()
    machine.stream.synchronize()
    np.testing.assert_allclose(answers, expected(ROWS), atol=1e-6)


def test_input_overwritten_before_the_copy_ran_changes_the_answers(simulate):
    simulate()
    machine = Machine()
    answers = machine.enqueue(ROWS)
    machine.host_in[:] = ROWS[::-1]
    machine.stream.synchronize()
    np.testing.assert_allclose(answers, expected(ROWS[::-1]), atol=1e-6)


def in_thread(function):
    """Returns what a function returned or raised in a thread of its own."""
    found = []

    def call():
        try:
            found.append(function())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    return found[0]


def test_a_thread_without_a_context_is_refused(simulate):
    simulate()
    import pycuda.driver as cuda

    machine = Machine()
    message = "explicit_context_dependent failed: invalid device context - no currently active context?"
    for call in (lambda: cuda.mem_alloc(4), lambda: cuda.pagelocked_empty(4, "u1"), cuda.Stream, cuda.Event):
        error = in_thread(call)
        assert type(error) is cuda.LogicError and str(error) == message
    error = in_thread(lambda: machine.enqueue(ROWS))
    assert type(error) is cuda.LogicError and "cuMemcpyHtoDAsync failed: invalid device context" in str(error)
    assert "cannot pop non-current context" in str(in_thread(cuda.Context.pop))

    def with_push():
        machine.cuda_context.push()
        try:
            answers = machine.enqueue(ROWS)
            machine.stream.synchronize()
            return answers
        finally:
            cuda.Context.pop()

    np.testing.assert_allclose(in_thread(with_push), expected(ROWS), atol=1e-6)


@pytest.mark.parametrize(
    "version, text", [("8.2.1", "400 (invalid resource handle)"), ("10.3", "Cuda Driver (invalid resource handle)")]
)
def test_another_cuda_context_gives_false_and_changes_nothing(simulate, version, text):
    simulate(version)
    machine = Machine(primary=False)
    machine.set_shape((4, 4))
    assert in_thread(machine.execute) is False  # no context there: TensorRT takes the primary one
    assert text in machine.log.text()
    assert machine.execute(stream_handle=12345) is False


@pytest.mark.parametrize("version", VERSIONS)
def test_an_ignored_false_leaves_garbage(simulate, version):
    simulator = simulate(version)
    machine = Machine()
    assert machine.execute() is False  # no shape was set
    assert not machine.context.all_binding_shapes_specified
    simulator.set(fail_enqueue=True)
    assert machine.enqueue(ROWS) is None
    machine.stream.synchronize()
    assert (machine.host_out < -1e8).all()


def test_a_shape_outside_the_profile_is_refused(simulate):
    simulate()
    machine = Machine()
    assert machine.set_shape((5, 4)) is False
    assert (
        "Supplied binding dimension [5,4] for bindings[0] exceed min ~ max range at index 0, maximum"
        in machine.log.text()
    )


@pytest.mark.parametrize("version", ["8.2.1", "8.5.1", "8.6.1"])
def test_nptype_names_numpy_bool_before_8_6(simulate, version):
    simulate(version)
    import tensorrt as trt

    new_numpy = tuple(map(int, np.__version__.split(".")[:2])) >= (1, 24)
    if new_numpy and version != "8.6.1":
        with pytest.raises(AttributeError, match="no attribute 'bool'"):
            trt.nptype(trt.float32)
    else:
        assert trt.nptype(trt.float32) is np.float32


def test_a_network_without_explicit_batch_is_refused_before_10(simulate):
    simulate("8.2.1")
    log = recorder()
    assert build(log, flags=0) is None
    assert "only supports TensorRT INetworkDefinitions with an explicit batch dimension" in log.text()
    simulate("10.3")
    assert build(recorder(), flags=0) is not None


@pytest.mark.parametrize("version", VERSIONS)
def test_a_dynamic_batch_needs_a_profile(simulate, version):
    simulate(version)
    log = recorder()
    assert build(log, profile=False) is None
    assert "Network has dynamic or shape inputs, but no optimization profile has been defined." in log.text()
    assert build(recorder(), network(batch=2), profile=False) is not None


@pytest.mark.parametrize("version", VERSIONS)
def test_a_build_without_workspace_fails(simulate, version):
    simulate(version)
    log = recorder()
    assert build(log, workspace_bytes=0) is None
    assert [line for line in log.lines if line[0] == "ERROR"] == [
        (
            "ERROR",
            "10: [optimizer.cpp::computeCosts::2011] Error Code 10: Internal Error "
            "(Could not find any implementation for node cast.)",
        ),
        (
            "ERROR",
            "2: [builder.cpp::buildSerializedNetwork::609] Error Code 2: Internal Error "
            "(Assertion enginePtr != nullptr failed. )",
        ),
    ]


def test_the_parser_refuses_what_the_version_cannot_read(simulate, tmp_path):
    simulate("8.2.1")
    import tensorrt as trt

    log = recorder()
    for data, text in (
        (network(opset=14), "supports operators up to Opset 13"),
        (network(operator="Hardmax"), "No importer registered for op: Hardmax. Attempting to import as plugin."),
        (b"garbage", "MODEL_DESERIALIZE_FAILED"),
    ):
        assert build(log, data) is None
        assert text in log.text()
    parser = trt.OnnxParser(trt.Builder(log).create_network(1), log)
    assert parser.parse_from_file(str(tmp_path / "none.onnx")) is False
    assert parser.num_errors == 0
    assert "Failed to parse ONNX model from file: %s" % (tmp_path / "none.onnx") in log.text()
    assert parser.parse(network(operator="Hardmax")) is False
    assert parser.num_errors == 1
    error = parser.get_error(0)
    assert (error.node(), error.code().name) == (2, "UNSUPPORTED_NODE")
    with pytest.raises(AttributeError):
        error.node_name()
    simulate("8.6.1")
    assert build(recorder(), network(opset=14)) is not None


@pytest.mark.parametrize("version", ["8.2.1", "8.6.1", "10.3"])
def test_int8_is_refused_on_the_tx2_and_calibrated_elsewhere(simulate, version):
    simulate(version)
    log = recorder()
    assert build(log, builder_flags=["INT8"]) is None
    assert "int8 is not supported here" in log.text()
    simulator = simulate(version, compute_capability=(7, 2), device_name="Xavier")
    import pycuda.driver as cuda
    import tensorrt as trt

    assert trt.Builder(recorder()).platform_has_fast_int8
    log = recorder()
    assert build(log, builder_flags=["INT8"]) is None
    assert "Calibration failure occurred with no scaling factors detected." in log.text()

    class Calibrator(trt.IInt8EntropyCalibrator2):
        def __init__(self):
            trt.IInt8EntropyCalibrator2.__init__(self)
            self.memory = cuda.mem_alloc(ROWS.nbytes)
            cuda.memcpy_htod(self.memory, ROWS)
            self.batches, self.cache = 2, None

        def get_batch_size(self):
            return MAX_BATCH

        def get_batch(self, names):
            assert names == ["x"]
            self.batches -= 1
            return [int(self.memory)] if self.batches >= 0 else None

        def read_calibration_cache(self):
            return None

        def write_calibration_cache(self, cache):
            self.cache = bytes(cache)

        def attach(self, config):
            config.int8_calibrator = self

    cuda.init()
    cuda_context = cuda.Device(0).retain_primary_context()
    cuda_context.push()
    calibrator = Calibrator()

    plan = build(recorder(), builder_flags=["INT8"], prepare=calibrator.attach)
    assert b"2 batches" in calibrator.cache
    calibrator.memory.free()
    cuda_context.pop()
    cuda_context.detach()
    del cuda_context, calibrator
    machine = Machine(plan)
    answers = machine.enqueue(ROWS)
    machine.stream.synchronize()
    assert 1e-6 < np.abs(answers - expected(ROWS)).max() < 0.05
    machine.close()
    del answers
    simulator.assert_clean()


LACKING = [
    ("8.2.1", lambda trt, config: config.set_memory_pool_limit),
    ("8.2.1", lambda trt, config: trt.MemoryPoolType),
    ("8.2.1", lambda trt, config: trt.DataType.UINT8),
    ("8.2.1", lambda trt, config: trt.uint8),
    ("8.2.1", lambda trt, config: trt.TensorIOMode),
    ("8.2.1", lambda trt, config: trt.IExecutionContext.execute_async_v3),
    ("8.2.1", lambda trt, config: trt.ICudaEngine.get_tensor_shape),
    ("8.5.1", lambda trt, config: config.builder_optimization_level),
    ("10.3", lambda trt, config: config.max_workspace_size),
    ("10.3", lambda trt, config: setattr(config, "max_workspace_size", 1 << 28)),
    ("10.3", lambda trt, config: trt.ICudaEngine.get_binding_shape),
    ("10.3", lambda trt, config: trt.IExecutionContext.execute_async_v2),
    ("10.3", lambda trt, config: trt.BuilderFlag.STRICT_TYPES),
    ("10.3", lambda trt, config: trt.Builder.build_engine),
    ("11.1", lambda trt, config: trt.BuilderFlag.FP16),
    ("11.1", lambda trt, config: trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH),
    ("11.1", lambda trt, config: trt.IInt8EntropyCalibrator2),
    ("11.1", lambda trt, config: trt.Builder.platform_has_fast_fp16),
    ("8.2.1", lambda trt, config: setattr(config, "workspace", 1)),
]


@pytest.mark.parametrize("version, use", LACKING)
def test_a_member_that_the_version_lacks_raises(simulate, version, use):
    simulate(version)
    import tensorrt as trt

    log = trt.Logger()
    config = trt.Builder(log).create_builder_config()
    with pytest.raises(AttributeError):
        use(trt, config)


def test_wrong_arguments_raise_as_the_bindings_do(simulate):
    simulate("10.3")
    import pycuda.driver as cuda
    import tensorrt as trt

    class Bare(trt.ILogger):
        def __init__(self):
            pass

        def log(self, severity, msg):
            pass

    machine = Machine()
    builder = trt.Builder(machine.log)
    config = builder.create_builder_config()
    for call in (
        lambda: trt.Builder(),
        lambda: trt.Builder(None),
        lambda: trt.Builder(Bare()),
        lambda: config.set_flag(0),
        lambda: config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1e9),
        lambda: config.set_memory_pool_limit(pool=trt.MemoryPoolType.WORKSPACE, size=1),
        lambda: builder.create_optimization_profile().set_shape("x", (1,), (2,)),
        lambda: machine.runtime.deserialize_cuda_engine("plan"),
        lambda: machine.context.set_input_shape(0, (1, 4)),
        lambda: machine.context.set_input_shape("x", 4),
        lambda: machine.context.set_tensor_address("x", machine.host_in),
        lambda: machine.context.execute_async_v3(machine.stream),
        lambda: machine.engine["x"],
        lambda: 1 << trt.BuilderFlag.FP16,
        lambda: cuda.mem_alloc(np.int64(4)),
        lambda: cuda.memcpy_htod(np.int64(int(machine.device_in)), ROWS),
        lambda: cuda.memcpy_htod_async(machine.device_in, ROWS, machine.stream.handle),
    ):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(ValueError, match="not contiguous"):
        cuda.memcpy_htod(machine.device_in, ROWS[:, :2])
    with pytest.raises(RuntimeError, match="Shape provided for min is inconsistent"):
        builder.create_optimization_profile().set_shape("x", (4, 4), (2, 4), (4, 4))
    assert config.add_optimization_profile(builder.create_optimization_profile()) == -1


def test_deprecated_calls_warn(simulate):
    simulate("8.5.1")
    machine = Machine()
    for call, better in (
        (lambda: machine.engine.num_bindings, "num_io_tensors"),
        (lambda: machine.engine.get_binding_shape(0), "get_tensor_shape"),
        (lambda: machine.context.set_binding_shape(0, (1, 4)), "set_input_shape"),
    ):
        with pytest.warns(DeprecationWarning, match="Use %s instead." % better):
            call()
    with pytest.warns(DeprecationWarning, match="Context managers for TensorRT types are deprecated"):
        with machine.runtime:
            pass
    simulate("8.2.1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Machine().engine.num_bindings == 2


@pytest.mark.parametrize("version", ["8.2.1", "8.6.1"])
def test_a_second_execution_context_gets_no_profile_before_10(simulate, version):
    simulate(version)
    machine = Machine()
    second = machine.engine.create_execution_context()
    assert "Profile 0 has been chosen by another IExecutionContext" in machine.log.text()
    first, machine.context = machine.context, second
    assert second.active_optimization_profile == -1
    assert machine.set_shape((2, 4)) is False and machine.execute() is False
    machine.context = None
    del first, second  # what has the profile goes
    machine.context = machine.engine.create_execution_context()
    machine.enqueue(ROWS)
    machine.stream.synchronize()
    np.testing.assert_allclose(machine.host_out, expected(ROWS), atol=1e-6)
    machine.close()


def test_execution_contexts_share_a_profile_since_10(simulate):
    simulate("10.3")
    machine = Machine()
    machine.context, first = machine.engine.create_execution_context(), machine.context
    machine.enqueue(ROWS)
    machine.stream.synchronize()
    np.testing.assert_allclose(machine.host_out, expected(ROWS), atol=1e-6)
    del first
    machine.close()


def test_a_mapped_buffer_that_was_freed_is_an_illegal_access(simulate):
    simulator = simulate()
    import pycuda.driver as cuda

    machine = Machine(mem_flags=cuda.host_alloc_flags.DEVICEMAP)
    mapped = cuda.pagelocked_empty((MAX_BATCH, 4), np.float32, mem_flags=cuda.host_alloc_flags.DEVICEMAP)
    pointer = mapped.base.get_device_pointer()
    assert machine.set_shape((2, 4)) and machine.execute(device_in=pointer)
    mapped.base.free()
    with pytest.raises(cuda.LogicError):
        mapped.base.get_device_pointer()
    with pytest.raises(cuda.LaunchError, match="illegal memory access"):
        machine.stream.synchronize()
    assert any("was freed" in problem for problem in simulator.gpu.problems)


def test_page_locked_memory_that_is_not_mapped_has_no_device_address(simulate):
    simulate()
    import pycuda.driver as cuda

    machine = Machine()
    with pytest.raises(cuda.LogicError, match="cuMemHostGetDevicePointer"):
        machine.host_in.base.get_device_pointer()


def test_a_lost_gpu_fails_every_call(simulate):
    simulator = simulate()
    import pycuda.driver as cuda

    machine = Machine()
    machine.enqueue(ROWS)
    event = cuda.Event().record(machine.stream)
    simulator.set(lose_gpu=True)
    for use in (machine.stream.synchronize, event.synchronize, lambda: event.record(machine.stream)):
        with pytest.raises(cuda.LaunchError, match="unspecified launch failure"):
            use()
    with pytest.raises(cuda.LaunchError, match="unspecified launch failure"):
        cuda.memcpy_htod_async(machine.device_in, machine.host_in, machine.stream)


# --- engines from elsewhere


def load(log, plan):
    import tensorrt as trt

    return trt.Runtime(log).deserialize_cuda_engine(plan)


@pytest.mark.parametrize(
    "made, read, text",
    [
        ("8.4", "8.2.1", "Version tag does not match. Note: Current Version: 0, Serialized Engine Version: 96"),
        ("8.6.1", "8.2.1", "magicTagRead == magicTag failed.Magic tag does not match"),
        ("8.2.1", "8.6.1", "plan->header.magicTag == rt::kPLAN_MAGIC_TAG failed."),
        ("10.3", "10.9", "expecting library version 10.9.0.8 got 10.3.0.8, please rebuild."),
        ("10.3", "11.1", "The engine plan file is not compatible with this version of TensorRT"),
    ],
)
def test_an_engine_of_another_version_gives_none(simulate, made, read, text):
    simulate(made)
    plan = build(recorder())
    simulate(read)
    log = recorder()
    assert load(log, plan) is None
    assert text in log.text() and "Error Code 4: Internal Error (Engine deserialization failed.)" in log.text()


def test_an_engine_of_another_gpu_or_a_changed_one_gives_none(simulate):
    simulate(compute_capability=(6, 1), device_name="GTX 1080")
    plan = build(recorder())
    simulator = simulate(compute_capability=(6, 2))
    log = recorder()
    assert load(log, plan) is None
    assert "generated on an incompatible device, expecting compute 6.2 got compute 6.1, please rebuild." in log.text()
    plan = bytearray(build(recorder()))
    plan[-1] ^= 1
    for broken in (plan, plan[:50], b"", b"no plan at all"):
        assert load(recorder(), bytes(broken)) is None
    plan[-1] ^= 1
    simulator.set(fail_deserialize=True)
    assert load(recorder(), bytes(plan)) is None


# --- memory and other things that must be given back


def leaked_memory(machine):
    import pycuda.driver as cuda

    return cuda.mem_alloc(100)


def leaked_page_locked_memory(machine):
    import pycuda.driver as cuda

    return cuda.pagelocked_empty(100, np.uint8)


def leaked_stream(machine):
    import pycuda.driver as cuda

    return cuda.Stream()


def leaked_engine(machine):
    return machine.engine


def leaked_execution_context(machine):
    return machine.context


def leaked_context(machine):
    import pycuda.driver as cuda

    return cuda.Device(0).retain_primary_context()


def not_popped_in_a_thread(machine):
    in_thread(machine.cuda_context.push)


def freed_in_another_thread(machine):
    import pycuda.driver as cuda

    in_thread(cuda.mem_alloc(100).free)


def left_work(machine):
    import pycuda.driver as cuda

    stream = cuda.Stream()
    cuda.memcpy_htod_async(machine.device_in, machine.host_in, stream)


@pytest.mark.parametrize(
    "mistake, text",
    [
        (leaked_memory, "leaked device memory of 100 bytes"),
        (leaked_page_locked_memory, "leaked page-locked memory of 100 bytes"),
        (leaked_stream, "still alive: Stream"),
        (leaked_engine, "still alive: ICudaEngine"),
        (leaked_execution_context, "still alive: IExecutionContext"),
        (leaked_context, "a primary context was not detached"),
        (not_popped_in_a_thread, "is over and has not popped its CUDA context"),
        (freed_in_another_thread, "freed where its context cannot be activated"),
        (left_work, "a stream was destroyed with work in it that nobody waited for"),
    ],
)
def test_what_is_not_given_back_fails_the_test(simulate, mistake, text):
    simulator = simulate()
    machine = Machine()
    held = mistake(machine)
    machine.close()
    with pytest.raises(AssertionError, match=re.escape(text)):
        simulator.assert_clean()
    del held


def test_an_engine_must_go_before_its_cuda_context(simulate):
    simulator = simulate()
    machine = Machine()
    machine.cuda_context.pop()
    machine.cuda_context.detach()
    with pytest.raises(AssertionError, match="the CUDA context was destroyed before the"):
        simulator.assert_clean()


def test_double_free_and_use_after_free_raise(simulate):
    simulator = simulate()
    import pycuda.driver as cuda

    machine = Machine()
    memory = cuda.mem_alloc(64)
    memory.free()
    with pytest.raises(cuda.LogicError, match="device_allocation::free failed"):
        memory.free()
    with pytest.raises(cuda.LogicError, match="cuMemcpyHtoD failed: invalid argument"):
        cuda.memcpy_htod(memory, ROWS)
    assert machine.set_shape((4, 4))
    assert machine.execute(device_out=memory)
    with pytest.raises(cuda.LaunchError, match="an illegal memory access was encountered"):
        machine.stream.synchronize()
    machine.host_in.base.free()
    with pytest.raises(cuda.LogicError):
        cuda.memcpy_htod_async(machine.device_in, machine.host_in, machine.stream)
    found = "\n".join(simulator.report())
    assert "double free of memory" in found and "was freed" in found and "page-locked memory was freed" in found


def test_memory_that_is_too_small_or_not_the_devices_is_an_illegal_access(simulate):
    simulate()
    import pycuda.driver as cuda

    machine = Machine()
    assert machine.set_shape((4, 4))
    for wrong in (cuda.mem_alloc(16), machine.host_in.ctypes.data):
        assert machine.execute(device_in=wrong)
        with pytest.raises(cuda.LaunchError):
            machine.stream.synchronize()
    with pytest.raises(cuda.LogicError):
        cuda.memcpy_htod(machine.device_in, np.zeros(1000))


def test_running_out_of_memory(simulate):
    simulator = simulate(memory_limit_bytes=20000)
    import pycuda.driver as cuda

    machine = Machine()
    with pytest.raises(cuda.MemoryError, match="cuMemAlloc failed: out of memory") as caught:
        cuda.mem_alloc(20000)
    assert not isinstance(caught.value, MemoryError)  # pycuda's is not Python's
    free_bytes, _ = cuda.mem_get_info()
    filler = cuda.mem_alloc(free_bytes)
    assert machine.engine.create_execution_context() is None
    log = recorder()
    assert load(log, machine.engine.serialize()) is None
    assert build(log) is None
    assert "could not be allocated. There may not be enough free memory for allocation to succeed." in log.text()
    filler.free()
    simulator.set(fail_context=True)
    assert machine.engine.create_execution_context() is None


def test_what_uses_a_logger_does_not_keep_it(simulate):
    simulator = simulate()
    import tensorrt as trt

    builder = trt.Builder(trt.Logger())
    made = builder.create_network(1)
    builder.build_serialized_network(made, builder.create_builder_config())
    assert any("the logger was gone" in problem for problem in simulator.report())


def test_a_logger_must_not_raise(simulate):
    simulator = simulate()
    import tensorrt as trt

    class Failing(trt.ILogger):
        def __init__(self):
            trt.ILogger.__init__(self)

        def log(self, severity, msg):
            raise KeyboardInterrupt if msg is None else ValueError("no")

    assert build(Failing()) is not None
    assert any("log() raised ValueError" in problem for problem in simulator.report())


def test_the_own_logger_prints_from_its_severity_on(simulate, capsys):
    simulate()
    import tensorrt as trt

    log = trt.Logger(trt.Logger.ERROR)
    assert build(log, b"garbage") is None and build(log) is not None
    assert re.match(r"\[\d\d/\d\d/\d{4}-\d\d:\d\d:\d\d\] \[TRT\] \[E\] ", capsys.readouterr().out)


def test_failures_on_order(simulate):
    log = None
    for knobs, text in (
        ({"fail_parse": "no such op"}, "UNSUPPORTED_NODE: no such op"),
        ({"fail_build": "Could not find any implementation for node X."}, "Error Code 10: Internal Error (Could not"),
    ):
        simulate(**knobs)
        log = recorder()
        assert build(log) is None and text in log.text()
    simulate(progress=["one", "two"])
    log = recorder()
    assert build(log) is not None
    assert [message for severity, message in log.lines if severity == "VERBOSE"] == ["one", "two"]


def test_an_old_pycuda_has_no_primary_context(simulate):
    simulate(pycuda_version="2019.1.2")
    import pycuda.driver as cuda

    assert not hasattr(cuda.Device, "retain_primary_context")
    with pytest.raises(cuda.LogicError, match="initialization error"):
        cuda.Device(0)
    cuda.init()
    device = cuda.Device(0)
    assert (device.name(), device.compute_capability()) == ("NVIDIA Tegra X2", (6, 2))
    assert device.integrated == device.get_attribute(cuda.device_attribute.INTEGRATED) == 1


# --- child processes

CHILD = """
import sys
import tests.test_simulator as own
import tensorrt, pycuda.driver as cuda
machine = own.Machine(open(sys.argv[2], "rb").read()) if sys.argv[2:] else None
if sys.argv[1] == "build":
    log = own.recorder()
    open("plan", "wb").write(own.build(log))
elif sys.argv[1] == "leak":
    machine.held = cuda.mem_alloc(100)
    held = machine.held
    machine.close()
elif sys.argv[1] == "run":
    machine.enqueue(own.ROWS)
    machine.close()
"""


def child(folder, *arguments):
    import tests.simulator

    path = os.pathsep.join([os.environ["PYTHONPATH"], ROOT])
    assert tests.simulator.CHILD in path
    return subprocess.run(
        [sys.executable, "-c", CHILD] + list(arguments),
        cwd=str(folder),
        env=dict(os.environ, PYTHONPATH=path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        universal_newlines=True,
    )


def test_child_processes_have_the_same_simulator(simulate, tmp_path):
    simulator = simulate("10.3")
    done = child(tmp_path, "build")
    assert done.returncode == 0, done.stderr
    machine = Machine((tmp_path / "plan").read_bytes())
    answers = machine.enqueue(ROWS)
    machine.stream.synchronize()
    np.testing.assert_allclose(answers, expected(ROWS), atol=1e-6)
    machine.close()
    del answers
    done = child(tmp_path, "run", "plan")
    assert done.returncode == 0, done.stderr
    simulator.assert_clean()

    assert child(tmp_path, "leak", "plan").returncode == 0
    with pytest.raises(AssertionError, match="in a child process: leaked device memory of 100 bytes"):
        simulator.assert_clean()
    done = child(tmp_path, "open", "plan")
    assert done.returncode == -6 and "The context stack was not empty upon module cleanup" in done.stderr

    simulator.set(kill_in_build=True)
    assert child(tmp_path, "build").returncode == -9
    with pytest.raises(AssertionError, match="runs in the test's own process"):
        build(recorder())


def use_gpu(found):
    import pycuda.driver as cuda

    try:
        cuda.init()
        cuda.Device(0)
        found.put("can")
    except cuda.LogicError as error:
        found.put(str(error))


def test_a_forked_process_cannot_use_its_parents_gpu(simulate):
    simulate()
    import pycuda.driver as cuda

    for parent_uses_it, text in ((False, "can"), (True, "cuInit failed: initialization error")):
        if parent_uses_it:
            cuda.init()
        fork = multiprocessing.get_context("fork")
        found = fork.SimpleQueue()
        process = fork.Process(target=use_gpu, args=(found,))
        process.start()
        assert found.get() == text
        process.join()


def test_spawned_processes_have_the_simulator_too(simulate):
    simulate()
    spawn = multiprocessing.get_context("spawn")
    found = spawn.SimpleQueue()
    process = spawn.Process(target=use_gpu, args=(found,))
    process.start()
    assert found.get() == "can"
    process.join()
