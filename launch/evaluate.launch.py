"""Replay a recording with ground truth in lockstep and judge it: ros2 launch robust_loc evaluate.launch.py bag:=BAG"""

import os

from ament_index_python.packages import get_package_share_directory
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription

SHARE = get_package_share_directory("robust_loc")

# name, default (None: must be given), description
ARGUMENTS = [
    ("bag", None, "recording with ground truth"),
    ("from_frame", "0", "first image to play"),
    ("until_frame", "0", "image to stop before; 0: play to the end"),
    ("results", "results", "folder for the trajectories and report.html"),
    ("map", "", "map folder made by 'robust-loc map'; empty: no relocalizer"),
    ("regressor", "", "regressor weights; empty: no regressor"),
    ("odometry", "true", "run the visual odometry"),
    ("params_file", os.path.join(SHARE, "config", "cpu.yaml"), "parameters of all nodes; config/ has cpu, jetson, gpu"),
    ("base_frame", "camera_optical_frame", "frame whose pose fusion publishes"),
    ("device", "", "torch device of all nodes (cpu, cuda); empty: as the params_file says"),
    ("composition", "single", "single: all nodes in one process; multi: one process each"),
    ("align", "none", "alignment to the truth before judging: none, se3 or sim3"),
]


def generate_launch_description():
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text) for name, default, text in ARGUMENTS
    ]
    localize = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(os.path.join(SHARE, "launch", "localize.launch.py")),
        launch_arguments=[
            *((name, LaunchConfiguration(name)) for name, _, _ in ARGUMENTS),
            ("lockstep", "true"),
            ("rate", "0.0"),
            ("judge", "true"),
        ],
    )
    return LaunchDescription([*declared, localize])
