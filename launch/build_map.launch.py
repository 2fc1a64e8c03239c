"""Build a relocalization map: ros2 launch robust_loc build_map.launch.py bag:=BAG map:=MAP"""

from launch.actions import DeclareLaunchArgument, ExecuteProcess, OpaqueFunction
from launch.substitutions import LaunchConfiguration

from launch import LaunchDescription

# name, default (None: must be given), description
ARGUMENTS = [
    ("bag", None, "recording with a camera and known poses"),
    ("map", None, "folder to write the map to"),
    ("poses", "", "pose or odometry topic, or /tf:parent.child; empty: the recording's ground truth"),
    ("depth", "", "depth topic; empty: found by type and name"),
    ("image_topic", "", "camera topic, where the recording has several"),
    ("features", "handmade", "descriptors: a name or a weights file"),
]


def generate_launch_description():
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text) for name, default, text in ARGUMENTS
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start)])


def start(context):
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    command = ["robust-loc", "map", given["bag"], "-o", given["map"], "--features", given["features"]]
    for name in ("poses", "depth", "image_topic"):
        if given[name]:
            command += ["--" + name.replace("_", "-"), given[name]]
    return [ExecuteProcess(cmd=command, output="screen")]
