"""Train a regressor for a scene: ros2 launch robust_loc train.launch.py bags:="A.mcap B.mcap" output:=W"""

import shlex

from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription

# name, default (None: must be given), description
ARGUMENTS = [
    ("bags", None, "recordings with known poses, separated by blanks"),
    ("output", None, "weights file to write"),
    ("initial", "", "weights to start from; empty: from the package's"),
    ("preset", "compact", "network: compact or published"),
    ("device", "cpu", "torch device: cpu, cuda or cuda:N"),
]


def generate_launch_description():
    declared = [DeclareLaunchArgument(n, default_value=default, description=text) for n, default, text in ARGUMENTS]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context):
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    command = ["robust-loc", "train", "regressor", *shlex.split(given["bags"]), "-o", given["output"]]
    command += ["--preset", given["preset"], "--device", given["device"]]
    if given["initial"]:
        command += ["--initial", given["initial"]]
    return [ExecuteProcess(cmd=command, output="screen")]
