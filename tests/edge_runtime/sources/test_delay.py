"""The delay of a stream, by its clock."""

import numpy as np
import pytest

from edge_runtime.sources.delay import _JUDGED_FRAMES, Delay


def stale_frames(times, frames_per_second=25.0):
    """Returns the numbers of the frames of [(our clock, stream's clock)] that are stale."""
    delay = Delay(frames_per_second)
    return [number for number, (read_s, place_s) in enumerate(times) if delay.is_stale(read_s, place_s)]


def test_what_piled_up_while_a_stream_was_opened_is_stale():
    burst = [(100 + 0.0004 * number, 0.04 * number) for number in range(25)]
    steady = [(100 + 0.04 * number, 1.0 + 0.04 * number) for number in range(1, 200)]
    assert stale_frames(burst + steady) == list(range(28))
    burst[12:] = [(read_s + 0.05, place_s) for read_s, place_s in burst[12:]]  # one took long to decode
    assert stale_frames(burst + steady) == list(range(28))


def test_a_stream_whose_first_places_jump_about():
    start = [(100.0, 0.0), (100.001, -0.234), (100.002, -0.19), (100.003, -0.12)]
    burst = [(100.004 + 0.0004 * number, 0.04 * number) for number in range(25)]
    steady = [(100 + 0.04 * number, 1.0 + 0.04 * number) for number in range(1, 50)]
    assert stale_frames(start + burst + steady) == list(range(32))


def test_jitter_and_drift_are_no_delay():
    random = np.random.RandomState(0)
    times = [
        (100 + 0.04 * number * 1.0002 + random.exponential(0.03), 0.0123 + 0.04 * number) for number in range(20000)
    ]
    assert [number for number in stale_frames(times) if number > 20] == []


def test_a_decoder_that_falls_behind_gives_stale_frames():
    times = [(100 + 0.05 * number, 0.0123 + 0.04 * number) for number in range(400)]
    stale = stale_frames(times)
    assert stale[-1] == 399
    assert [number for number in stale if number > 3][0] == pytest.approx(200, abs=5)  # 2 s behind


def test_after_a_stall_what_piled_up_is_stale_until_the_stream_is_of_now_again():
    before = [(100 + 0.04 * number, 0.0123 + 0.04 * number) for number in range(100)]
    piled = [(110 + 0.0004 * number, 4.0123 + 0.04 * number) for number in range(150)]
    after = [(110 + 0.04 * number, 10.0123 + 0.04 * number) for number in range(1, 50)]
    stale = [number for number in stale_frames(before + piled + after) if number > 3]
    assert stale == list(range(100, 202))  # the rest is no older than 2 s


@pytest.mark.parametrize("place", [lambda number: (number + 1) / 25.0, lambda _: float("inf"), lambda _: float("nan")])
def test_an_opencv_that_only_counts_frames_judges_none_for_long(place):
    times = [(100 + 0.05 * number, place(number)) for number in range(1000)]  # the camera is slower than it says
    assert [number for number in stale_frames(times) if number > _JUDGED_FRAMES] == []
