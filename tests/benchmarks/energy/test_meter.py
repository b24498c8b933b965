"""Energy: recorded lines and made-up sysfs trees in, watts and joules out; a plain reason where there is no source."""

import json
import math
import os
import stat
import sys
import threading
import time

import pytest

from benchmarks.bench import turns
from benchmarks.energy import rapl, summaries, sysfs
from benchmarks.energy import tegrastats as tegrastats_source
from benchmarks.energy.meter import TRUSTED_VALUES, Meter, per_image
from benchmarks.energy.source import Source, whole_board
from benchmarks.energy.tegrastats import parse_tegrastats
from tests.benchmarks.energy import tegrastats_lines


@pytest.fixture
def no_tegrastats(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)


@pytest.fixture
def tegrastats(tmp_path, monkeypatch):
    """Puts a tegrastats on the PATH that prints these lines, over and over; returns a function of the lines."""

    def install(*lines, ends=False):
        folder = tmp_path / "bin"
        folder.mkdir()
        path = folder / "tegrastats"
        code = (
            "#!%s -S\nimport os, sys, time\n"
            "assert sys.argv[1] == '--interval'\n"
            "open(%r, 'w').write(str(os.getpid()))\n"
            "while True:\n"
            "    for line in %r:\n"
            "        sys.stdout.buffer.write(line + b'\\n')\n"
            "        sys.stdout.flush()\n"
            "        time.sleep(int(sys.argv[2]) / 1000)\n"
            "    if %r:\n"
            "        break\n"
        )
        lines = [line if isinstance(line, bytes) else line.encode("utf-8") for line in lines]
        path.write_text(code % (sys.executable, str(tmp_path / "pid"), lines, ends))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(folder) + os.pathsep + os.environ["PATH"])
        return tmp_path / "pid"

    return install


def write(root, files):
    for name, text in files.items():
        path = os.path.join(str(root), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="ascii") as file:
            file.write(str(text) + "\n")


def measure(root, interval_s=0.005, samples=0, skipped=0, during=None):
    """Measures until so many samples have been taken and skipped."""
    with Meter.open(str(root), interval_s, settle_s=0.0) as meter:
        if during:
            during()
        deadline = time.time() + 30
        while len(meter._samples) < samples or meter._skipped < skipped:
            assert time.time() < deadline
            time.sleep(0.002)
    assert not [thread for thread in threading.enumerate() if thread.name in ("power", "tegrastats")]
    result = meter.result()
    json.dumps(result)
    return result


TX2 = {
    "sys/bus/i2c/drivers/ina3221x/0-0041/iio:device1/in_power0_input": 5297,
    "sys/bus/i2c/drivers/ina3221x/0-0041/iio:device1/in_power1_input": 1917,
    "sys/bus/i2c/drivers/ina3221x/0-0040/iio:device0/in_power0_input": 182,
    "sys/bus/i2c/drivers/ina3221x/0-0040/iio:device0/in_power1_input": 730,
}
_ORIN = "sys/bus/i2c/drivers/ina3221/1-004%d/hwmon/hwmon%d/"
AGX_ORIN = {}
for _number, (_name, _mv, _ma) in enumerate(
    [("VDD_GPU_SOC", 5000, 400), ("VDD_CPU_CV", 5000, 100), ("VIN_SYS_5V0", 5000, 800)], 1
):
    AGX_ORIN[_ORIN % (0, 3) + "in%d_label" % _number] = _name
    AGX_ORIN[_ORIN % (0, 3) + "in%d_input" % _number] = _mv
    AGX_ORIN[_ORIN % (0, 3) + "curr%d_input" % _number] = _ma
AGX_ORIN[_ORIN % (0, 3) + "in7_label"] = "sum of shunt voltages"
AGX_ORIN[_ORIN % (0, 3) + "in7_input"] = 760
for _number, (_name, _mv, _ma) in enumerate([("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 5000, 60)], 1):
    AGX_ORIN[_ORIN % (1, 4) + "in%d_label" % _number] = _name
    AGX_ORIN[_ORIN % (1, 4) + "in%d_input" % _number] = _mv
    AGX_ORIN[_ORIN % (1, 4) + "curr%d_input" % _number] = _ma
RAPL = {
    "sys/class/powercap/intel-rapl:0/name": "package-0",
    "sys/class/powercap/intel-rapl:0/energy_uj": 1000,
    "sys/class/powercap/intel-rapl:0/max_energy_range_uj": 10000000,
    "sys/class/powercap/intel-rapl:0:0/name": "core",
    "sys/class/powercap/intel-rapl:0:0/energy_uj": 500,
    "sys/class/powercap/intel-rapl:0:0/max_energy_range_uj": 10000000,
    "sys/class/powercap/intel-rapl:0:1/name": "dram",
    "sys/class/powercap/intel-rapl:0:1/energy_uj": 9999000,
    "sys/class/powercap/intel-rapl:0:1/max_energy_range_uj": 10000000,
    "sys/class/powercap/intel-rapl:1/name": "psys",
    "sys/class/powercap/intel-rapl:1/energy_uj": 0,
    "sys/class/powercap/intel-rapl:1/max_energy_range_uj": 10000000,
}


@pytest.mark.parametrize(
    "line, rails, whole_w",
    [
        (tegrastats_lines.TX2_ROOT, 6, 5.297),
        (tegrastats_lines.TX2_USER, 6, 3.140),
        (tegrastats_lines.TX2_CORES_OFF, 6, 2.057),
        (tegrastats_lines.AGX_ORIN_R35, 4, 2.340 + 0.390 + 4.025),
        (tegrastats_lines.AGX_ORIN_R36, 3, 2.412 + 1.607 + 4.707),
        (tegrastats_lines.ORIN_NX, 1, 12.479),
        (tegrastats_lines.ORIN_NANO, 3, 5.704),
        (tegrastats_lines.XAVIER_NX, 3, 5.079),
        (tegrastats_lines.AGX_XAVIER, 6, 0),  # which of them overlap is not known
        (tegrastats_lines.NANO, 3, 2.003),
        (tegrastats_lines.THOR_R38, 3, 0),
        (tegrastats_lines.THOR_R38_ROOT, 4, 16.802),
        (tegrastats_lines.THOR_R39, 4, 124.486),
    ],
)
def test_the_rails_of_a_recorded_line_and_which_are_the_whole_board(line, rails, whole_w):
    sample = parse_tegrastats(line)
    assert len(sample.rails) == rails
    added = whole_board(sample.rails)
    assert sum(sample.rails[name] for name in added) == pytest.approx(whole_w)


def test_a_tx2_line_in_full():
    sample = parse_tegrastats(tegrastats_lines.TX2_ROOT)
    assert sample.rails == {
        "VDD_SYS_GPU": 0.182,
        "VDD_SYS_SOC": 0.730,
        "VDD_4V0_WIFI": 0.0,
        "VDD_IN": 5.297,
        "VDD_SYS_CPU": 1.917,
        "VDD_SYS_DDR": 1.241,
    }
    assert sample.clocks_mhz == {"cpu": 2034, "gpu": 114, "emc": 1866}
    assert sample.temperatures_c["PMIC"] == 50 and sample.temperatures_c["Tdiode"] == 39.25
    assert parse_tegrastats(tegrastats_lines.TX2_USER).clocks_mhz == {"cpu": 345}
    assert "PMIC" not in parse_tegrastats(tegrastats_lines.TX2_USER).temperatures_c  # the constant 100
    assert parse_tegrastats(tegrastats_lines.TX2_CORES_OFF).clocks_mhz["cpu"] == 345


def test_orin_lines_in_full():
    old = parse_tegrastats(tegrastats_lines.AGX_ORIN_R35)
    assert old.clocks_mhz == {"cpu": 729, "gpu": 0, "emc": 2133}
    assert sorted(old.temperatures_c) == ["CPU", "SOC0", "SOC1", "SOC2", "Tboard", "Tdiode", "tj"]  # -256: off
    assert old.rails["VDDQ_VDD2_1V8AO"] == 0.301 and "NC" not in old.rails
    assert parse_tegrastats(tegrastats_lines.ORIN_NX).clocks_mhz["gpu"] == 621
    older = tegrastats_lines.AGX_ORIN_R35.replace("0%@[0,0]", "17%@306 GR3D2_FREQ 0%@0")
    assert parse_tegrastats(older).clocks_mhz["gpu"] == 306


def test_thor_lines_in_full():
    idle, busy = parse_tegrastats(tegrastats_lines.THOR_R38), parse_tegrastats(tegrastats_lines.THOR_R39)
    assert idle.clocks_mhz == {"cpu": 972, "gpu": 0, "emc": 665}
    assert busy.clocks_mhz == {"cpu": 2601, "gpu": 1574, "emc": 4266}
    assert busy.rails["VDD_GPU"] == 37.939  # now, not the average
    assert busy.temperatures_c["tj"] == 66.625 and busy.temperatures_c["cpu"] == 58.25


@pytest.mark.parametrize("line", tegrastats_lines.ODD)
def test_odd_lines_have_no_rails(line):
    assert parse_tegrastats(line) is None


@pytest.mark.parametrize("line", tegrastats_lines.ALL)
def test_a_line_cut_anywhere_never_crashes_and_never_changes_a_whole_value(line):
    whole = parse_tegrastats(line).rails
    for end in range(len(line)):
        cut = parse_tegrastats(line[:end])
        if cut:
            assert {name: whole[name] for name in cut.rails} == cut.rails


def test_sysfs_of_a_tx2(tmp_path, no_tegrastats):
    write(tmp_path, TX2)
    write(tmp_path, RAPL)  # the better source is taken
    result = measure(tmp_path, samples=3)
    assert (result["source"], result["added"]) == ("sysfs", ["VDD_IN"])
    assert (result["mean_w"], result["peak_w"]) == (pytest.approx(5.297), pytest.approx(5.297))
    assert result["joules"] == pytest.approx(5.297 * result["seconds"])
    assert sorted(result["rails"]) == ["VDD_IN", "VDD_SYS_CPU", "VDD_SYS_GPU", "VDD_SYS_SOC"]
    assert result["rails"]["VDD_SYS_GPU"]["mean_w"] == pytest.approx(0.182)
    assert result["samples"] >= 3 and 0 < result["interval_ms"] < 1000 * result["seconds"] and result["skipped"] == 0
    assert (result["throttled"], result["throttling_told_by"]) == (None, [])


def test_the_driver_names_its_rails(tmp_path, no_tegrastats):
    folder = "sys/bus/i2c/drivers/ina3221x/7-0040/iio:device2/"
    write(tmp_path, {folder + "rail_name_0": "VDD_IN", folder + "in_power0_input": 4000})
    write(tmp_path, {folder + "in_power1_input": 77, folder + "rail_name_2": "NC", folder + "in_power2_input": 5})
    result = measure(tmp_path)
    assert (result["mean_w"], list(result["rails"])) == (pytest.approx(4.0), ["VDD_IN"])


def test_sysfs_of_an_agx_orin_adds_no_rail_that_is_in_another(tmp_path, no_tegrastats):
    write(tmp_path, AGX_ORIN)
    result = measure(tmp_path)
    assert result["added"] == ["VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"]
    assert result["mean_w"] == pytest.approx(2.0 + 0.5 + 4.0)
    assert result["rails"]["VDDQ_VDD2_1V8AO"]["mean_w"] == pytest.approx(0.3)
    assert len(result["rails"]) == 4


def test_a_sensor_that_fails_on_the_way_is_counted(tmp_path, no_tegrastats):
    write(tmp_path, TX2)
    vdd_in = tmp_path / "sys/bus/i2c/drivers/ina3221x/0-0041/iio:device1/in_power0_input"
    gpu = tmp_path / "sys/bus/i2c/drivers/ina3221x/0-0040/iio:device0/in_power0_input"

    def during():
        vdd_in.write_text("garbage")
        gpu.unlink()

    result = measure(tmp_path, skipped=2, during=during)
    assert result["skipped"] > 0 and result["samples"] > 0
    assert result["mean_w"] == pytest.approx(5.297)
    assert result["rails"]["VDD_SYS_GPU"]["mean_w"] == pytest.approx(0.182)


def test_rails_of_an_unknown_board_are_not_added_up(tmp_path, no_tegrastats):
    folder = "sys/bus/i2c/drivers/ina3221x/1-0040/iio:device0/"
    write(tmp_path, {folder + "rail_name_0": "GPU", folder + "in_power0_input": 4000})
    assert "the rails GPU do not add up to a known board" in measure(tmp_path)["unavailable"]


def test_trapezoids():
    found = summaries.watts_summary([(10.0, 2.0), (11.0, 4.0), (13.0, 4.0)], 6.0)
    assert found == {"mean_w": pytest.approx(11 / 3), "peak_w": 4.0, "joules": pytest.approx(22.0)}
    assert summaries.watts_summary([(1.0, 5.0)], 2.0) == {"mean_w": 5.0, "peak_w": 5.0, "joules": 10.0}


def test_joules_of_counters_and_no_peak_from_a_short_last_step():
    series = [(0.0, 100.0), (1.0, 102.0), (2.0, 107.0), (2.001, 107.5)]
    found = summaries.joules_summary(series, 2.001, 1.0)
    assert found["joules"] == pytest.approx(7.5) and found["peak_w"] == pytest.approx(5.0)


def test_rapl_wraps_around_and_adds_packages_and_memory_only(tmp_path, no_tegrastats):
    write(tmp_path, RAPL)
    folder = "sys/class/powercap/intel-rapl:"
    source = rapl.Rapl(str(tmp_path), 0.1)
    assert source.added == ("package-0", "package-0/dram")
    first = source.read(True).rails
    write(tmp_path, {folder + "0/energy_uj": 3001000, folder + "0:0/energy_uj": 2000500})
    write(tmp_path, {folder + "0:1/energy_uj": 499000, folder + "1/energy_uj": 9000000})
    second = source.read(True).rails
    write(tmp_path, {folder + "0:1/energy_uj": 100000})
    third = source.read(True).rails
    assert {name: second[name] - first[name] for name in second} == {
        "package-0": pytest.approx(3.0),
        "package-0/core": pytest.approx(2.0),
        "package-0/dram": pytest.approx(0.5),  # 9.999 to 10, which is 0, to 0.499
        "psys": pytest.approx(9.0),
    }
    assert third["package-0/dram"] - second["package-0/dram"] == pytest.approx(9.601)
    write(tmp_path, {folder + "0/energy_uj": ""})
    assert source.read(True) is None


def test_a_meter_of_rapl(tmp_path, no_tegrastats):
    write(tmp_path, RAPL)
    counter = {"sys/class/powercap/intel-rapl:0/energy_uj": 3001000}
    result = measure(tmp_path, interval_s=5, during=lambda: write(tmp_path, counter))
    assert (result["source"], result["added"], result["samples"]) == ("rapl", ["package-0", "package-0/dram"], 2)
    assert result["joules"] == pytest.approx(result["mean_w"] * result["seconds"])
    assert result["rails"]["package-0"]["joules"] == result["joules"] > 0
    assert result["rails"]["package-0/core"]["joules"] == 0


def test_rapl_that_only_root_may_read_says_how_to_fix_it(tmp_path, no_tegrastats, monkeypatch):
    write(tmp_path, RAPL)

    def refuse(path, *arguments, **options):
        if str(path).endswith("energy_uj"):
            raise PermissionError(13, "Permission denied")
        return open(path, *arguments, **options)

    monkeypatch.setattr(sysfs, "open", refuse, raising=False)
    reason = measure(tmp_path)["unavailable"]
    assert "may be read by root only" in reason and "sudo chmod a+r" in reason and "no tegrastats" in reason


def test_a_board_whose_sensors_only_root_may_read_says_how_to_fix_it(tmp_path, no_tegrastats, monkeypatch):
    write(tmp_path, TX2)

    def refuse(path, *arguments, **options):
        if "in_power" in str(path):
            raise PermissionError(13, "Permission denied")
        return open(path, *arguments, **options)

    monkeypatch.setattr(sysfs, "open", refuse, raising=False)
    assert "in_power0_input: not readable; run as root (sudo)" in measure(tmp_path)["unavailable"]


def test_nothing_to_measure_with_is_no_error(tmp_path, no_tegrastats):
    reason = measure(tmp_path)["unavailable"]
    assert "no INA3221" in reason and "no tegrastats" in reason and "no RAPL: there is no" in reason
    (tmp_path / "sys/class/powercap").mkdir(parents=True)
    assert "has no energy counter of a CPU package" in measure(tmp_path)["unavailable"]


def test_tegrastats_is_read_and_ended(tmp_path, tegrastats):
    pid = tegrastats(
        tegrastats_lines.TX2_ROOT, b"odd \xff line", tegrastats_lines.TX2_ROOT.replace("VDD_IN 5297", "VDD_IN 7297")
    )
    result = measure(tmp_path / "none", interval_s=0.02, samples=4, skipped=1)
    assert (result["source"], result["added"]) == ("tegrastats", ["VDD_IN"])
    assert 5.297 < result["mean_w"] < result["peak_w"] == pytest.approx(7.297)
    assert result["samples"] > 3 and result["skipped"] > 0
    assert result["clocks"]["gpu_max_mhz"] == 114 and result["clocks"]["cpu_mean_mhz"] == 2034
    assert result["temperature_c"]["GPU"] == 39.5
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_tegrastats_that_says_nothing_known_ends_with_the_reason(tmp_path, tegrastats):
    tegrastats("GPU 100mW/100mW", "no rails here", ends=True)
    reason = measure(tmp_path / "none")["unavailable"]
    assert "tegrastats gave no line with known power rails; its last: no rails here" in reason


def test_a_tegrastats_that_says_nothing_known_and_goes_on_is_no_board_of_0_watts(tmp_path, tegrastats, monkeypatch):
    monkeypatch.setattr(tegrastats_source, "FIRST_LINE_S", 0.1)
    tegrastats("GPU 100mW/100mW")
    result = measure(tmp_path / "none", interval_s=0.02, skipped=3)
    assert "tegrastats gave no line with known power rails; its last: GPU 100mW/100mW" in result["unavailable"]


def test_a_tegrastats_that_dies_in_the_block_keeps_what_it_said(tmp_path, tegrastats):
    tegrastats(tegrastats_lines.ORIN_NX, tegrastats_lines.ORIN_NX, tegrastats_lines.ORIN_NX, ends=True)
    result = measure(tmp_path / "none", interval_s=0.02, samples=2, skipped=2)
    assert result["mean_w"] == pytest.approx(12.479)
    assert result["samples"] == 2  # the first line came before the block
    assert "too few values" in result["warning"]


def test_a_block_too_short_for_a_line_says_so(tmp_path, tegrastats):
    tegrastats(tegrastats_lines.ORIN_NX)
    assert "no sample in the" in measure(tmp_path / "none", interval_s=0.5)["unavailable"]


def test_an_error_in_the_block_comes_out_and_nothing_is_left_running(tmp_path, tegrastats):
    pid = tegrastats(tegrastats_lines.ORIN_NX)
    with pytest.raises(KeyboardInterrupt):
        with Meter.open(str(tmp_path / "none"), 0.02):
            raise KeyboardInterrupt
    assert not [thread for thread in threading.enumerate() if thread.name in ("power", "tegrastats")]
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_few_samples_are_said(tmp_path, no_tegrastats):
    write(tmp_path, RAPL)
    assert "too few values" in measure(tmp_path, interval_s=5)["warning"]
    assert measure(tmp_path, samples=TRUSTED_VALUES + 5)["warning"] == ""


def test_many_samples_of_a_sensor_that_has_not_renewed_its_value_are_few(tmp_path, no_tegrastats):
    write(tmp_path, TX2)
    assert (
        measure(tmp_path, samples=3 * TRUSTED_VALUES)["warning"]
        == "too few values of the sensor (1): measure for longer"
    )


def test_the_time_that_a_sensor_needs_to_settle_is_not_counted(tmp_path, no_tegrastats):
    write(tmp_path, TX2)
    power = tmp_path / "sys/bus/i2c/drivers/ina3221x/0-0041/iio:device1/in_power0_input"
    power.write_text("9000")
    with Meter.open(str(tmp_path), 0.005, settle_s=0.05) as meter:
        time.sleep(0.03)
        power.write_text("5000")
        while len(meter._samples) < 100:
            time.sleep(0.005)
    result = meter.result()
    assert result["mean_w"] == result["peak_w"] == pytest.approx(5.0)
    assert result["samples"] < 100 and result["joules"] == pytest.approx(5.0 * result["seconds"])
    with Meter.open(str(tmp_path)) as meter:
        pass
    assert "after its first 1 s" in meter.result()["unavailable"]


def sensor_error(before_w, load_w, seconds, settle_s, phase_s):
    """Returns by which share a simulated INA3221 is wrong about a window; its value renews every 422 ms.

    Args:
        before_w: the board's power before the window.
        load_w: its mean power in the window, about which it goes up and down by 30 % every 0.9 s.
        seconds: length of the window.
        settle_s: its first seconds, which are not counted.
        phase_s: from the window's start to the sensor's next value, 0 to 0.422.
    """

    def joules(t):
        """From the window's start to t seconds."""
        swing = 0.3 * load_w * 0.9 / (2 * math.pi) * (1 - math.cos(2 * math.pi * t / 0.9))
        return before_w * t if t < 0 else load_w * t + swing

    def shown_w(t):
        renewed_s = phase_s + 0.422 * math.floor((t - phase_s) / 0.422)
        return (joules(renewed_s) - joules(renewed_s - 0.422)) / 0.422

    times_s = [0.1 * number for number in range(int(10 * seconds) + 1)]
    series = [(t, shown_w(t)) for t in times_s if t >= settle_s]
    return summaries.watts_summary(series, seconds)["joules"] / joules(seconds) - 1


@pytest.mark.parametrize("before_w, load_w", [(12.0, 7.0), (5.0, 9.0), (2.0, 12.0)])
def test_a_sensor_that_renews_every_422_ms_is_right_in_a_long_window_and_not_in_a_short_one(before_w, load_w):
    def worst(seconds, settle_s):
        errors = [sensor_error(before_w, load_w, seconds, settle_s, phase / 100.0) for phase in range(42)]
        return max(map(abs, errors))

    assert worst(turns.POWER_S, Source.settle_s) < 0.02
    assert worst(0.3, 0.0) > 0.15, "what a window of 0.3 s, as for the speed, would say"


def test_heat_counters_tell_throttling(tmp_path, no_tegrastats):
    write(tmp_path, RAPL)
    counter = "sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count"
    write(tmp_path, {counter: 3})
    assert measure(tmp_path)["throttled"] is False
    result = measure(tmp_path, during=lambda: write(tmp_path, {counter: 4}))
    assert (result["throttled"], result["throttling_told_by"]) == (True, ["heat counters"])


def test_over_current_counters_tell_only_of_that(tmp_path, no_tegrastats):
    write(tmp_path, AGX_ORIN)
    counter = "sys/class/hwmon/hwmon5/oc3_event_cnt"
    write(tmp_path, {counter: 17})
    result = measure(tmp_path)
    assert (result["throttled"], result["throttling_told_by"]) == (None, ["over-current counters"])
    assert measure(tmp_path, during=lambda: write(tmp_path, {counter: 18}))["throttled"] is True


@pytest.mark.parametrize(
    "least, now, throttled", [(1300500, 1300500, False), (1300500, 1122000, True), (114750, 114750, None)]
)
def test_a_pinned_gpu_clock_that_falls_is_throttling(tmp_path, no_tegrastats, least, now, throttled):
    folder = "sys/class/devfreq/17000000.gp10b/"
    write(tmp_path, TX2)
    write(tmp_path, {folder + "min_freq": least * 1000, folder + "max_freq": 1300500 * 1000})
    write(tmp_path, {folder + "cur_freq": now * 1000})
    result = measure(tmp_path)
    assert result["throttled"] is throttled
    assert result["clocks"]["gpu_max_mhz"] == pytest.approx(now / 1000)


def test_clocks_and_temperatures_from_sysfs(tmp_path, no_tegrastats):
    write(tmp_path, TX2)
    write(tmp_path, {"sys/devices/system/cpu/cpu%d/cpufreq/scaling_cur_freq" % core: core * 1000000 for core in (1, 2)})
    zones = [("GPU-therm", 41500), ("PMIC-Die", 100000), ("CV0-therm", -256000), ("", 30000)]
    for number, (name, value) in enumerate(zones):
        folder = "sys/class/thermal/thermal_zone%d/" % number
        write(tmp_path, {folder + "type": name, folder + "temp": value})
    write(tmp_path, {"sys/class/thermal/thermal_zone4/type": "asleep"})
    result = measure(tmp_path)
    assert result["clocks"] == {"cpu_min_mhz": 2000, "cpu_mean_mhz": 2000, "cpu_max_mhz": 2000}
    assert result["temperature_c"] == {"GPU-therm": 41.5, "thermal_zone3": 30.0}


def test_energy_per_image():
    idle = {"source": "sysfs", "added": ["VDD_IN"], "mean_w": 2.0, "joules": 20.0, "seconds": 10.0}
    loaded = dict(idle, mean_w=6.0, joules=30.0, seconds=5.0)
    assert per_image(idle, loaded, 100) == {
        "joules_per_image": pytest.approx(0.3),
        "joules_above_idle_per_image": pytest.approx(0.2),
        "idle_w": 2.0,
    }
    for other in (None, {"unavailable": "no"}, dict(idle, source="rapl")):
        found = per_image(other, loaded, 100)
        assert (found["joules_per_image"], found["joules_above_idle_per_image"]) == (pytest.approx(0.3), None)
    assert per_image(idle, {"unavailable": "no RAPL"}, 100) == {"unavailable": "no RAPL"}
