"""The trial of the gate plants faults that are refused, and keeps the engine without one."""

from benchmarks.experiments import gate_trial
from tests.convert.test_convert import add_convolution


def test_the_planted_faults_of_a_small_network_are_refused(tiny_bundle, capsys):
    add_convolution(tiny_bundle)
    gate_trial.main([tiny_bundle, "--engines", "onnxruntime-fp32", "--layers", "1"])
    said = capsys.readouterr()
    row = [cell.strip() for cell in said.out.split("\n")[2].strip("|").split("|")]
    assert row[:2] == ["onnxruntime-fp32", "kept"]
    assert row[4:] == ["5 of 5", "20 of 20", "20 of 20", "1 of 1", ""]
    assert "x 1.05: 0.05" in said.err and "log-odds" in said.err
