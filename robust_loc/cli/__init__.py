"""``robust-loc``: every job of the package without a ROS graph.

Each command lives in its own module of this package and is imported only when it is called, so that
``robust-loc --help`` does not wait for torch.
"""

from __future__ import annotations

import importlib
import sys

import click

from robust_loc import __version__
from robust_loc.errors import RobustLocError

# command -> (module with an object ``command``, one-line help)
COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("robust_loc.cli.demo", "render a recording, map it, localize in it, write a report"),
    "convert": ("robust_loc.cli.convert", "a dataset folder to a rosbag2 recording"),
    "map": ("robust_loc.cli.map", "a relocalization map from a recording or a COLMAP model"),
    "localize": ("robust_loc.cli.localize", "poses of every frame of a recording, by each source"),
    "odometry": ("robust_loc.cli.odometry", "the camera's motion in a recording, with covariances"),
    "evaluate": ("robust_loc.cli.evaluate", "an estimate against the truth: errors, uncertainty, report"),
    "train": ("robust_loc.cli.train", "train a network; every run can be resumed"),
    "finetune": ("robust_loc.cli.finetune", "adapt the regressor to recordings, if that makes it better"),
    "export": ("robust_loc.cli.export", "encoders as ONNX or torch.export files for other runtimes"),
    "calibrate-covariance": ("robust_loc.cli.calibrate_covariance", "covariance factors from held-out truth"),
}


class LazyGroup(click.Group):
    """A group that imports a command's module when the command is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return importlib.import_module(COMMANDS[cmd_name][0]).command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.command(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="robust-loc")
def cli() -> None:
    """Visual localization that says how much to believe it."""


def main() -> None:
    """Entry point: bad input ends with one line on stderr and exit code 2."""
    try:
        cli()
    except RobustLocError as error:
        print(f"robust-loc: {error}", file=sys.stderr)
        sys.exit(2)
