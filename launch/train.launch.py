"""Fine-tune a regressor while it runs, or train one for a scene.

ros2 launch robust_loc train.launch.py                                   # the trainer node: action /trainer/finetune
ros2 launch robust_loc train.launch.py bags:="A.mcap B.mcap" output:=W   # a scene's weights from its recordings
"""

import os
import shlex

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription

SHARE = get_package_share_directory("robust_loc")

# name, default, description
ARGUMENTS = [
    ("bags", "", "recordings with known poses, separated by blanks; empty: start the trainer node and wait for goals"),
    ("output", "", "with bags: weights file to write"),
    ("initial", "", "with bags: weights to start from; empty: from the package's"),
    ("preset", "compact", "with bags: network, compact or published"),
    ("device", "cpu", "torch device: cpu, cuda or cuda:N"),
    ("params_file", os.path.join(SHARE, "config", "cpu.yaml"), "trainer node: its parameters, in the section trainer"),
    ("regressor", "regressor", "trainer node: name of the regressor node whose weights are exchanged"),
    ("map", "", "trainer node: map of the localizer that gives pseudo-labels; empty: the regressor gives them"),
    ("namespace", "", "trainer node: its namespace"),
]


def generate_launch_description():
    declared = [DeclareLaunchArgument(n, default_value=default, description=text) for n, default, text in ARGUMENTS]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context):
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    if not given["bags"]:
        chosen = {"device": given["device"], "regressor": given["regressor"], "map": given["map"]}
        trainer = Node(
            package="robust_loc",
            executable="trainer_node",
            name="trainer",
            namespace=given["namespace"],
            parameters=[given["params_file"], chosen],
            output="screen",
        )
        return [trainer]
    if not given["output"]:
        raise RuntimeError("bags are given without output, the weights file to write")
    command = ["robust-loc", "train", "regressor", *shlex.split(given["bags"]), "-o", given["output"]]
    command += ["--preset", given["preset"], "--device", given["device"]]
    if given["initial"]:
        command += ["--initial", given["initial"]]
    return [ExecuteProcess(cmd=command, output="screen")]
