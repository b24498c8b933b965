"""The rivals: what each is given, measures and says, and what a crash, a hang or a missing library costs."""

import importlib.util
import json
import os
import re
import shutil

import pytest
from PIL import Image

from benchmarks import rivals
from benchmarks.experiments import versus_loop
from edge_runtime.bundle.reading import Bundle
from edge_runtime.engines.record import EngineInfo
from edge_runtime.errors import UsageError
from edge_runtime.machine import cpu, libraries
from tests import helpers

# As OpenVINO 2026.4's prints it (2022 to 2025 print the same lines).
BENCHMARK_APP = """\
[Step 10/11] Measuring performance (Start inference synchronously, limits: 3000 ms duration)
[ INFO ] First inference took 162.75 ms
[Step 11/11] Dumping statistics report
[ INFO ] Execution Devices:['CPU']
[ INFO ] Count:            39 iterations
[ INFO ] Duration:         3019.10 ms
[ INFO ] Latency:
[ INFO ]    Median:        53.26 ms
[ INFO ]    Average:       76.97 ms
[ INFO ]    Min:           31.94 ms
[ INFO ]    Max:           307.06 ms
[ INFO ] Throughput:   12.92 FPS
"""
# The layout of TensorRT 8.2's; newer ones leave out a line and give more percentiles.
TRTEXEC = """\
&&&& RUNNING TensorRT.trtexec [TensorRT v8201] # trtexec --loadEngine=model.plan
[05/29/2022-21:55:54] [I] === Performance summary ===
[05/29/2022-21:55:54] [I] Throughput: 28.5 qps
[05/29/2022-21:55:54] [I] Latency: min = 34.66 ms, max = 36.15 ms, mean = 35.00 ms, median = 34.91 ms, \
percentile(99%) = 36.15 ms
[05/29/2022-21:55:54] [I] End-to-End Host Latency: min = 34.67 ms, max = 36.15 ms, mean = 35.01 ms, median = 34.92 ms, \
percentile(99%) = 36.15 ms
[05/29/2022-21:55:54] [I] GPU Compute Time: min = 33.4 ms, max = 34.8 ms, mean = 33.6 ms, median = 33.5 ms, \
percentile(99%) = 34.7 ms
[05/29/2022-21:55:54] [I] Total Host Walltime: 4 s
[05/29/2022-21:55:54] [I] Total GPU Compute Time: 2.9961 s
&&&& PASSED TensorRT.trtexec [TensorRT v8201]
"""
TRTEXEC_10 = TRTEXEC.replace("percentile(99%)", "percentile(90%) = 99.9 ms, percentile(95%) = 99.9 ms, percentile(99%)")


@pytest.fixture
def photos(tmp_path):
    """[(path, label)] of two photos per class."""
    rows = helpers.write_photos(tmp_path / "photos", per_class=2)
    return [(str(tmp_path / "photos" / name), label) for name, label in rows]


def job_of(bundle, photos, name, **changes):
    jobs = rivals.jobs(Bundle.open(bundle), [path for path, _ in photos], threads=1, seconds=0.05, batch=4)
    return dict(next(job for job in jobs if job["name"] == name), **changes)


def check_photos(result, photos):
    assert result["images_per_s"] == pytest.approx(result["photos"] / result["seconds"])
    assert result["photos"] % len(photos) == 0 and result["photos"] > 0
    assert result["cpu_s_per_image"] > 0 and result["peak_rss_bytes"] > 20 << 20
    assert result["threads"] == 1 and result["limit"] is False and result["note"]
    assert result["labels"] == [label for _, label in photos]


def test_the_plain_loop_is_timed_in_a_process_of_its_own_and_knows_the_labels(tiny_bundle, photos):
    result = rivals.run_job(job_of(tiny_bundle, photos, "opencv-onnxruntime"))
    check_photos(result, photos)
    assert result["library"]["onnxruntime"] == libraries.library_version("onnxruntime")
    assert set(result["library"]) == {"onnxruntime", "cv2"} and result["batch"] == 4


def test_memory_of_the_parent_does_not_count(tiny_bundle, photos):
    hoard = bytearray(os.urandom(1 << 20)) * 700
    result = rivals.run_job(job_of(tiny_bundle, photos, "opencv-onnxruntime"))
    assert len(hoard) > 600 << 20 > result["peak_rss_bytes"]


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("tensorflow"), reason="needs TensorFlow")
def test_tensorflows_rivals_agree_on_the_labels(tiny_bundle, photos):
    helpers.add_tiny_saved_model(tiny_bundle)
    for name in ("hackathon", "tensorflow"):
        result = rivals.run_job(job_of(tiny_bundle, photos, name))
        assert "skipped" not in result, result
        check_photos(result, photos)
        assert list(result["library"]) == ["tensorflow"]
        assert result["batch"] == (32 if name == "hackathon" else 4)


def test_what_a_rival_lacks_is_the_reason_to_skip_it(tiny_bundle, photos, tmp_path, monkeypatch):
    (tmp_path / "tensorflow.py").write_text("raise ImportError('planted')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for rival in ("hackathon", "tensorflow", "tf-trt"):
        result = rivals.run_job(job_of(tiny_bundle, photos, "tensorflow", rival=rival))
        assert result["skipped"].startswith("tensorflow is needed here and cannot be imported (")
    result = rivals.run_job(job_of(tiny_bundle, photos, "opencv-onnxruntime", model=tiny_bundle + "/gone.onnx"))
    assert list(result) == ["skipped"] and "gone.onnx" in result["skipped"] and "\n" not in result["skipped"]


@pytest.mark.parametrize(
    "library, reason",
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "its process ended with -9: no message"),
        ("import sys; print('before'); sys.exit('planted reason')", "its process ended with 1: planted reason"),
        ("import time; time.sleep(600)", "stopped after 3 s"),
    ],
    ids=["killed", "exits", "hangs"],
)
def test_a_crash_and_a_hang_are_reasons_to_skip(tiny_bundle, photos, tmp_path, monkeypatch, library, reason):
    (tmp_path / "onnxruntime.py").write_text(library)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert rivals.run_job(job_of(tiny_bundle, photos, "opencv-onnxruntime"), limit_s=3) == {"skipped": reason}


def test_measure_goes_on_after_a_skipped_rival(tiny_bundle, photos, monkeypatch):
    ran = []
    monkeypatch.setattr(rivals, "run_job", lambda job: ran.append(job["name"]) or {"skipped": "planted"})
    found = dict(rivals.measure(Bundle.open(tiny_bundle), [path for path, _ in photos]))
    assert ran == [
        "opencv-onnxruntime",
        "benchmark_app model.onnx throughput",
        "benchmark_app model.onnx latency",
        "ultralytics",
    ]
    assert found["hackathon"] == found["tensorflow"] == {"skipped": "the bundle has no saved_model"}
    assert "picnic-edge convert %s --to tensorrt" % tiny_bundle in found["trtexec"]["skipped"]
    assert "picnic-edge convert %s --to tf-trt" % tiny_bundle in found["tf-trt"]["skipped"]
    json.dumps(found)


def test_engines_of_the_bundle_are_rivals_models_and_foreign_ones_say_why_not(tiny_bundle, photos):
    folder = os.path.join(tiny_bundle, "engines", "openvino-bf16")
    os.makedirs(folder)  # without its engine.json
    found = {job["name"]: job for job in rivals.jobs(Bundle.open(tiny_bundle), [photos[0][0]])}
    for hint in ("throughput", "latency"):
        job = found["benchmark_app openvino-bf16 " + hint]
        assert job["model"] == os.path.join(folder, "model.xml") and job["precision"] == "bf16"
        assert "engine.json is missing or garbled" in job["skipped"]
    assert found["hackathon"]["threads"] == cpu.core_count()


def test_gpu_engines_are_run_with_batches_they_were_built_for(tiny_bundle, monkeypatch):
    made = [
        EngineInfo(name, name[:-5], "fp16", "/" + name, {"batch_profile": {"max": 2}})
        for name in ("tensorrt-fp16", "tf-trt-fp16")
    ]
    monkeypatch.setattr(rivals, "list_engines", lambda bundle: made)
    monkeypatch.setattr(rivals, "check_engine", lambda bundle, info: None)
    found = {job["name"]: job for job in rivals.jobs(Bundle.open(tiny_bundle), ["a.jpg"], batch=8)}
    assert found["trtexec tensorrt-fp16"]["model"] == "/tensorrt-fp16/model.plan"
    assert found["tf-trt tf-trt-fp16"]["model"] == "/tf-trt-fp16/saved_model"
    for name in ("trtexec tensorrt-fp16", "tf-trt tf-trt-fp16"):
        assert found[name]["batch"] == 2 and "skipped" not in found[name]


def test_benchmark_app_runs_on_the_bundles_model(tiny_bundle, photos):
    pytest.importorskip("openvino.tools.benchmark")
    result = rivals.run_job(job_of(tiny_bundle, photos, "benchmark_app model.onnx latency"))
    assert "skipped" not in result, result
    assert result["limit"] is True and result["labels"] is None
    assert 0 < result["latency_min_ms"] <= result["latency_p50_ms"] <= result["latency_max_ms"]
    assert result["photos"] == result["calls"] and result["images_per_s"] > 0
    assert result["library"] == {"openvino": libraries.library_version("openvino")}
    assert "its CPU time is the whole program's" in result["note"]
    broken = rivals.run_job(job_of(tiny_bundle, photos, "benchmark_app model.onnx latency", model="gone.onnx"))
    assert broken["skipped"].startswith("benchmark_app ended with ")


def test_benchmark_apps_text_is_read():
    assert rivals.parse_benchmark_app(BENCHMARK_APP) == {
        "images_per_s": 12.92,
        "calls": 39,
        "seconds": 3.0191,
        "latency_p50_ms": 53.26,
        "latency_mean_ms": 76.97,
        "latency_min_ms": 31.94,
        "latency_max_ms": 307.06,
    }
    short = rivals.parse_benchmark_app(BENCHMARK_APP.replace("53.26 ms", "532.6 us"))
    assert short["latency_p50_ms"] == pytest.approx(0.5326)
    with pytest.raises(ValueError, match="benchmark_app .*images_per_s, latency_max_ms"):
        rivals.parse_benchmark_app(BENCHMARK_APP.replace("Max:", "").replace("FPS", ""))


@pytest.mark.parametrize("text", [TRTEXEC, TRTEXEC_10])
def test_trtexecs_text_is_read(text):
    assert rivals.parse_trtexec(text) == {
        "calls_per_s": 28.5,
        "seconds": 4.0,
        "latency_p50_ms": 33.5,
        "latency_mean_ms": 33.6,
        "latency_min_ms": 33.4,
        "latency_max_ms": 34.8,
    }
    longer = text.replace("Walltime: 4 s", "Walltime: 40 s")
    assert rivals.parse_trtexec(longer)["latency_p99_ms"] == 34.7, "of 1,140 calls, not of 114"
    with pytest.raises(ValueError, match="trtexec .*calls_per_s"):
        rivals.parse_trtexec(text.replace("Throughput", ""))


def test_trtexec_is_run_on_the_bundles_plan_and_counts_photos(tiny_bundle, photos, tmp_path, monkeypatch):
    job = job_of(tiny_bundle, photos, "opencv-onnxruntime", rival="trtexec", model="some/model.plan", seconds=4.0)
    monkeypatch.setattr(rivals, "TRTEXEC", "/no/such/trtexec")
    assert "no trtexec in the PATH" in rivals.run_job(job)["skipped"]
    program = tmp_path / "bin" / "trtexec"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho \"$@\" > '%s/arguments'\ncat <<END\n%sEND\n" % (tmp_path, TRTEXEC))
    program.chmod(0o755)
    monkeypatch.setenv("PATH", "%s:%s" % (program.parent, os.environ["PATH"]))
    result = rivals.run_job(job)
    assert result["images_per_s"] == 28.5 * 4 and result["photos"] == 114 * 4
    assert result["limit"] is True and result["library"] == {"tensorrt": "v8201"}
    assert "its CPU time is the whole program's" in result["note"]
    arguments = (tmp_path / "arguments").read_text().split()
    shape = "images:4x299x299x3"
    assert arguments == ["--loadEngine=some/model.plan", "--shapes=" + shape, "--duration=4"]
    program.write_text("#!/bin/sh\necho some; echo planted reason >&2; exit 3\n")
    assert rivals.run_job(job)["skipped"] == "trtexec ended with 3: planted reason"


def test_ultralytics_runs_on_weights_that_are_there_and_downloads_none(tiny_bundle, photos, tmp_path, monkeypatch):
    modules = tmp_path / "modules"
    modules.mkdir()
    (modules / "torch.py").write_text("__version__ = '2.0'\n")
    (modules / "ultralytics.py").write_text(
        "import os\n"
        "__version__ = '8.0'\n"
        "assert os.environ['YOLO_OFFLINE'] == 'true' and os.environ['YOLO_AUTOINSTALL'] == 'false'\n"
        "settings = {'weights_dir': %r}\n"
        "class YOLO:\n"
        "    def __init__(self, weights):\n"
        "        assert os.path.isfile(weights)\n"
        "    def predict(self, paths, verbose):\n"
        "        assert 0 < len(paths) <= 4 and all(map(os.path.isfile, paths))\n" % str(tmp_path)
    )
    monkeypatch.setenv("PYTHONPATH", str(modules))
    monkeypatch.chdir(str(modules))
    refused = rivals.run_job(job_of(tiny_bundle, photos, "ultralytics"))
    assert refused["skipped"].startswith("no weights yolo*-cls.pt in this folder or %s" % tmp_path)
    (tmp_path / "yolo11n-cls.pt").write_text("")
    result = rivals.run_job(job_of(tiny_bundle, photos, "ultralytics"))
    assert result["images_per_s"] > 0 and result["labels"] is None and "yolo11n-cls.pt" in result["note"]
    assert result["library"] == {"ultralytics": "8.0", "torch": "2.0"}
    (modules / "yolov8n-cls.pt").write_text("")
    assert "yolov8n-cls.pt" in rivals.run_job(job_of(tiny_bundle, photos, "ultralytics"))["note"]


def test_photos_that_a_rival_cannot_read_are_left_out_for_all(tmp_path):
    good = [str(tmp_path / name) for name in ("a.jpg", "b.png", "new\nline.jpg")]
    for path in good:
        helpers.write_photo(path, helpers.photo((200, 10, 10)))
    grey = helpers.write_bytes(
        tmp_path / "grey.png", helpers.encoded(Image.fromarray(helpers.gradient()).convert("L"), "png")
    )
    odd = {
        "cmyk.jpg": helpers.encoded(Image.fromarray(helpers.gradient()).convert("CMYK"), "jpg"),
        "web.webp": helpers.encoded(helpers.gradient(), "webp"),
        "empty.jpg": b"",
        "text.jpg": b"hello",
    }
    for name, data in odd.items():
        helpers.write_bytes(tmp_path / name, data)
    latin = os.path.join(str(tmp_path), os.fsdecode(b"latin\xfc.jpg"))
    shutil.copy(good[0], latin)
    bad = [str(tmp_path / name) for name in sorted(odd)] + [latin, str(tmp_path), str(tmp_path / "gone.jpg")]
    usable, left_out = rivals.common_photos([good[0], bad[0], good[1]] + bad[1:] + [good[2], grey])
    assert usable == good + [grey]
    assert [path for path, _ in left_out] == bad
    reasons = dict(left_out)
    assert "CMYK" in reasons[bad[0]] and "WEBP" in reasons[str(tmp_path / "web.webp")]
    assert reasons[latin] == "its name is not UTF-8" and "directory" in reasons[str(tmp_path)]


def test_versus_loop_without_a_readable_photo_is_wrong_usage(tiny_bundle, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty: "):
        versus_loop.main([tiny_bundle, str(tmp_path / "empty")])
    helpers.write_bytes(tmp_path / "bad" / "x.jpg", b"nothing")
    with pytest.raises(UsageError, match="bad: "):
        versus_loop.main([tiny_bundle, str(tmp_path / "bad")])


SKIP = {"skipped": "not now"}


def test_versus_loop_puts_classify_beside_its_bound_and_the_usual_loops(tiny_bundle, photos, capsys, monkeypatch):
    real = versus_loop.model_only
    monkeypatch.setattr(versus_loop, "model_only", lambda engine, pictures, batch: real(engine, pictures, batch, 0.02))
    monkeypatch.setattr(rivals, "run_job", lambda job: {"images_per_s": 1e-3} if job["rival"] == "hackathon" else SKIP)
    folder = os.path.dirname(os.path.dirname(photos[0][0]))
    helpers.write_bytes(os.path.join(folder, "broken.jpg"), b"nothing")  # is left out
    versus_loop.main([tiny_bundle, folder, "--rounds", "1", "--engine", "onnxruntime"])
    shown = capsys.readouterr().out
    assert re.search(r"^onnxruntime +\d+\.\d{3} ", shown, re.M)
    assert re.search(r"Keras predict: 0\.0 images/s; the fastest engine here: \d{4,}\.\d times", shown)
    assert "cv2 and ONNX Runtime: skipped: not now" in shown
    assert "6 photos (the usual loops: 6), median of 1 rounds" in shown
