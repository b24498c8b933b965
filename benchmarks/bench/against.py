"""picnic-edge bench BUNDLE --against OTHER: is it slower? Both are measured in one run, in turns.

The noise of a shared machine comes in phases of seconds to minutes. Two windows that follow each other lie in the same
phase, so their ratio does not have it. A process has a speed of its own, too, as long as it lives (where its memory
lies, which core its threads are bound to: 25 % between two of the same engine on a busy machine). So both are opened
again for each round, and a round gives one ratio per figure.

A coin decides in each round which of the two comes first, in opening and in measuring. Where nothing differs, each
ratio is then as likely as its inverse, in phases of any length, and the sign-flip test of benchmarks.bench.sign_flip is
exact.
"""

import datetime
import os
import random
import tempfile
import typing

from benchmarks.bench import machine_state, other_code, sign_flip, turns, verdict
from benchmarks.bench.document import is_busy
from benchmarks.bench.plan import make_plan
from benchmarks.bench.subject import Subject
from benchmarks.bench.worker import END_TO_END
from benchmarks.energy.rapl import Rapl
from edge_runtime.bundle.reading import Bundle
from edge_runtime.console import format_table, print_json, say
from edge_runtime.engines.selection import check_engine, find_engine, list_engines
from edge_runtime.errors import BundleError, GotWorse, MissingRequirement, UsageError
from edge_runtime.machine import cpu, libraries

# So many that 15 % shows in windows that scatter by 10 % each, or where bursts hit a third of them (compare_trial).
MIN_ROUNDS, MAX_ROUNDS = 24, 200
WINDOW_S = 0.3  # at most
_ROUNDS_PER_S = 8  # of --seconds: more rounds also help against what longer windows do not, the speed of a process
_POWER_S = 3.0  # of a round; a board's sensors give means of half a second, and the first second does not count
_EXPECTED = "expected the name of an engine, a bundle's folder, or a checkout of Picnic Edge"


class Side(typing.NamedTuple):
    """One of the two that are compared."""

    title: str
    bundle: Bundle
    engine: str  # its name, or "auto"
    code: str = ""  # folder of the checkout whose code runs, "" for this one


def run(bundle, options, arguments):
    """Measures a bundle's engine and another in turns, and prints what differs.

    Args:
        bundle: an open Bundle.
        options: of benchmarks.bench.cli.parser, with `against`.
        arguments: the words of the command line, for the document.

    Raises:
        PicnicError: as the exit codes say; GotWorse (7) past --fail-above.
    """
    for name in ("labels", "loadgen", "rivals", "report"):
        if getattr(options, name):
            raise UsageError(f"--{name} does not go with --against; --json has all figures of every round")
    sides = list(_sides(bundle, options.engine, options.against))
    with tempfile.TemporaryDirectory() as scratch:
        plan = make_plan(bundle, options, scratch)
        busy_share, idle = machine_state.measure_idle()
        if is_busy({"busy_share": busy_share}):
            say(f"other programs keep {100 * busy_share:.0f} % of the cores busy: the intervals will be wider")
        subjects = [Subject(side.engine) for side in sides]
        rounds_done = 0
        try:
            _open_first(sides, subjects, plan, scratch)
            for number in range(_round_count(plan.seconds)):
                say(f"round {number + 1} of {_round_count(plan.seconds)}")
                _measure_round(sides, subjects, plan, scratch, number, idle.get("source"))
                rounds_done += 1
        finally:
            for subject in subjects:
                subject.close()
            least = _least_change(options.fail_above)
            figures = verdict.judge(verdict.rounds_of(*[subject.windows for subject in subjects]), least)
            if figures:
                result = _document(sides, subjects, plan, arguments, busy_share, figures, least, rounds_done)
                print_json(result) if options.json else print(format_result(result, figures))
    _fail_above(options.fail_above, figures, sides[1].title)


def _least_change(percent):
    """Returns the smallest change with a verdict, a share: --fail-above PERCENT may ask for less."""
    return verdict.MIN_CHANGE if percent is None else min(verdict.MIN_CHANGE, percent / 100)


def format_result(result, figures):
    """Returns the outcome as Markdown: a row per figure, and what must be known beside it.

    Args:
        result: the document.
        figures: list of benchmarks.bench.verdict.Figure.
    """
    rows = []
    for figure in figures:
        interval = "-" if figure.low is None else f"{figure.low:.3f} to {figure.high:.3f}"
        values = [f"{figure.this:.4g}", f"{figure.other:.4g}", f"{figure.ratio:.3f}", interval]
        rows.append([figure.name] + values + [str(len(figure.ratios)), figure.verdict])
    this, other = (f"{side['title']}, {side['engine']}" for side in result["sides"])
    lines = [
        format_table(["figure", "this", "other", "ratio", "95 % interval", "rounds", "verdict"], rows, markdown=True),
        "",
        f"This: {this}. Other: {other}. Ratios: this / other, measured in turns. A verdict: sign-flip test, "
        f"{100 * sign_flip.FAMILY_ALPHA:.0f} % for all figures together, and "
        f"{100 * result['least_change']:g} % or more.",
    ]
    if result["interrupted"]:
        lines.append(f"Stopped after {result['rounds_done']} of {result['rounds']} rounds.")
    if any(figure.verdict == verdict.TOO_FEW for figure in figures):
        lines.append("So few rounds cannot show a change.")
    return "\n".join(lines + result["notes"])


def _fail_above(percent, figures, title):
    """Raises GotWorse for a figure that is worse by more than a percentage; says which may be, where noise is large."""
    if percent is None:
        return
    limit = 1 + percent / 100
    bad = [figure for figure in figures if figure.worse and _factors(figure)[0] > limit]
    for figure in figures:
        if not figure.changed and _factors(figure)[1] > limit:
            say(
                f"{figure.name}: up to {100 * (_factors(figure)[1] - 1):.0f} % worse is possible; longer --seconds help"
            )
    if bad:
        texts = [f"{figure.name} {figure.this:.4g} instead of {figure.other:.4g}" for figure in bad]
        raise GotWorse(f"worse than {title} by more than {percent:g} %: {'; '.join(texts)}")


def _factors(figure):
    """Returns how many times as bad this side is: as estimated, and at most. A rate that halved is 2 times as bad."""
    ratios = [figure.ratio, figure.low, figure.high]
    factors = [float("inf") if ratio is None else 1 / ratio if figure.higher else ratio for ratio in ratios]
    return factors[0], max(factors[1:])


def _sides(bundle, wanted, other):
    """Yields the two Sides. Raises UsageError where OTHER is none of the three kinds."""
    if len(wanted) > 1:
        raise UsageError(f"--engine {' '.join(wanted)}: --against compares one engine at a time")
    engine = "auto" if wanted == ["all"] else wanted[0]
    if engine != "auto":
        engine = find_engine(bundle, engine).name
    yield Side(bundle.path, bundle, engine)
    engines = list_engines(bundle)
    names = [info.name for info in engines]
    if other in names + [info.kind for info in engines]:  # a folder of that name is ./NAME
        yield Side(bundle.path, bundle, find_engine(bundle, other).name)
    elif not os.path.isdir(other):
        raise UsageError(
            f"--against {other}: there is no such folder, and the engines of {bundle.path} are {', '.join(names)}; "
            f"{_EXPECTED}"
        )
    elif other_code.is_checkout(other):
        yield Side(f"the code in {other}", bundle, engine, os.path.abspath(other))
    elif os.path.isfile(os.path.join(other, "manifest.json")):
        yield Side(other, Bundle.open(other), engine)
    else:
        raise UsageError(f"--against {other}: is neither a bundle nor a checkout; {_EXPECTED}")


def _open_first(sides, subjects, plan, scratch):
    """Opens both and closes them again: what cannot be opened is known at once, files are cached, auto has a name."""
    for side, subject in zip(sides, subjects):
        if subject.name == "auto":
            subject.name = subjects[0].name  # on the other side the engine that auto is on this side
        if subject.name != "auto":
            check_engine(side.bundle, find_engine(side.bundle, subject.name))
        turns.open_subject(side.bundle, subject, plan, scratch, side.code)
        _require_alive(side, subject)
        subject.name = subject.facts["name"]
        subject.close()


def _measure_round(sides, subjects, plan, scratch, number, power):
    """Adds a window of each point to both Subjects. power: the name of the source of power, None without one."""
    pairs = list(zip(sides, subjects))
    if random.getrandbits(1):
        pairs.reverse()
    for side, subject in pairs:
        turns.open_subject(side.bundle, subject, plan, scratch, side.code)
        _require_alive(side, subject)
    seconds = min(WINDOW_S, plan.seconds / 10)  # as in turns
    for point in subjects[0].points():
        for side, subject in pairs if point in subjects[1].points() else ():
            turns.measure_window(subject, point, seconds, {"round": number})
            _require_alive(side, subject)
    for side, subject in pairs if power else ():
        turns.measure_energy(subject, END_TO_END, seconds if power == Rapl.name else _POWER_S, power)
        _require_alive(side, subject)
        energy = subject.energy[END_TO_END]
        if "joules" in energy:
            subject.windows[-1]["joules_per_image"] = energy["joules"] / energy["photos"]  # its last is of END_TO_END
    for subject in subjects:
        subject.close()


def _round_count(seconds):
    return min(MAX_ROUNDS, max(MIN_ROUNDS, int(_ROUNDS_PER_S * seconds)))


def _require_alive(side, subject):
    if subject.problem:
        refusal = BundleError if subject.invalid else MissingRequirement
        raise refusal(f"{side.title}: {subject.name} cannot be measured: {subject.reason}")


def _document(sides, subjects, plan, arguments, busy_share, figures, least_change, rounds_done):
    notes = []
    for subject in subjects:
        for point, reason in sorted(subject.skipped_batches.items()):
            notes.append(f"{subject.name} {point} skipped: {reason}")
    if sides[1].code and _timing_code(sides[1].code) != _timing_code(other_code.ROOT):
        notes.append("Each side was measured by its own code, and benchmarks/bench/measure.py is not the same in both.")
    return {
        "command": ["picnic-edge", "bench"] + arguments,
        "finished": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "version": libraries.library_version("picnic-edge"),
        "machine": cpu.describe(),
        "clocks": machine_state.clocks(),
        "busy_share": busy_share,
        "photo_count": len(plan.items),
        "seconds_per_measurement": plan.seconds,
        "rounds": _round_count(plan.seconds),
        "rounds_done": rounds_done,
        "interrupted": rounds_done < _round_count(plan.seconds),
        "least_change": least_change,
        "sides": [
            {"title": side.title, "bundle_id": side.bundle.id, "engine": subject.name, "code": side.code}
            for side, subject in zip(sides, subjects)
        ],
        "figures": [dict(figure._asdict()) for figure in figures],
        "notes": notes,
    }


def _timing_code(checkout):
    """Returns the content of the checkout's file; None where it is gone, which a worker's error or a note then says."""
    try:
        with open(os.path.join(checkout, "benchmarks", "bench", "measure.py"), "rb") as file:
            return file.read()
    except OSError:
        return None
