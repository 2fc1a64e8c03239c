"""The command line as a whole: bad input ends with one line and exit code 2."""

import sys

import pytest

from robust_loc.cli import COMMANDS, cli, main
from robust_loc.data import BagWriter
from robust_loc.geometry.cameras import CameraCalibration


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(name, capsys):
    import click

    command = cli.get_command(click.Context(cli), name)
    assert command is not None and command.get_short_help_str()


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["robust-loc", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code


def test_bad_input_ends_with_its_cause_and_exit_code_two(monkeypatch, capsys, tmp_path):
    estimate = tmp_path / "est.tum"
    estimate.write_text("1.0 0 0 0 0 0 0\n")
    bag = tmp_path / "run.mcap"
    with BagWriter(bag, CameraCalibration(8, 8, 8.0, 8.0, 3.5, 3.5)) as writer:
        writer.write_raw_image(1_000_000_000, 8, 8, "mono8", 8, bytes(64))
    for arguments, cause in (
        (("evaluate", estimate, estimate), "est.tum:1: 7 values"),
        (("convert", "euroc", tmp_path, tmp_path / "out.mcap"), "sensor.yaml: not found"),
        (("convert", "folder", tmp_path, tmp_path / "out.mcap"), "frames.csv: not found"),
    ):
        assert run(monkeypatch, *arguments) == 2
        error = capsys.readouterr().err
        assert error.startswith("robust-loc: ") and cause in error and len(error.splitlines()) == 1
    estimate.write_text("1.0 0 0 0 0 0 0 1\n")
    assert run(monkeypatch, "evaluate", estimate, bag) == 2
    assert "no ground-truth topic" in (error := capsys.readouterr().err) and "/camera/image_raw" in error
