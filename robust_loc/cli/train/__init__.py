"""``robust-loc train``: one subcommand per network, imported when it is called."""

from __future__ import annotations

import importlib

import click

# name -> (module with an object ``command``, one-line help)
TRAINERS: dict[str, tuple[str, str]] = {
    "odometry": ("robust_loc.cli.train.odometry", "the patch odometry (DPVO, weighted flow loss)"),
    "features": ("robust_loc.cli.train.features", "the compact dense descriptors (NRE loss)"),
    "pose_transformer": ("robust_loc.cli.train.pose_transformer", "the pose transformer, which serves every scene"),
    "regressor": ("robust_loc.cli.train.regressor", "the pose regressor of one scene (scene coordinates, Robust-NLL)"),
}


class _Trainers(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(TRAINERS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return importlib.import_module(TRAINERS[cmd_name][0]).command if cmd_name in TRAINERS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Networks"):
            formatter.write_dl([(name, text) for name, (_, text) in TRAINERS.items()])


@click.command(cls=_Trainers)
def command() -> None:
    """Train a network; every run can be interrupted and resumed."""
