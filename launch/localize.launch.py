"""Localize a camera in a map: ros2 launch robust_loc localize.launch.py map:=MAP image:=/camera/image_raw ...

``ros2 launch robust_loc localize.launch.py --show-args`` lists the arguments.
"""

import os

from ament_index_python.packages import get_package_share_directory
from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    ExecuteProcess,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchDescription

SHARE = get_package_share_directory("robust_loc")

# name, default, description
ARGUMENTS = [
    ("params_file", os.path.join(SHARE, "config", "cpu.yaml"), "parameters of all nodes; config/ has cpu, jetson, gpu"),
    ("map", "", "map folder made by 'robust-loc map'; empty: no relocalizer"),
    ("regressor", "", "regressor weights; empty: no regressor"),
    ("odometry", "true", "run the visual odometry"),
    ("image", "/camera/image_raw", "camera image topic; its /compressed is used when nothing comes on it"),
    ("camera_info", "/camera/camera_info", "calibration topic of the camera"),
    ("odom_topic", "", "metric odometry of the robot (nav_msgs/Odometry); empty: the camera's own alone"),
    ("publish_odom_tf", "auto", "broadcast odom -> base_link: true, false, or auto (when there is no odom_topic)"),
    ("base_frame", "base_link", "the robot's frame, whose pose is published"),
    ("calibration", "", "covariance factors for fusion, of 'robust-loc calibrate-covariance'; empty: none"),
    ("device", "", "torch device of all nodes (cpu, cuda); empty: as the params_file says"),
    ("composition", "single", "single: all nodes in one process, images shared; multi: one process each"),
    ("namespace", "", "namespace of all nodes"),
    ("use_sim_time", "false", "take time from /clock; true whenever a bag is played"),
    ("bag", "", "recording to play into the graph"),
    ("from_frame", "0", "with bag: first image to play"),
    ("until_frame", "0", "with bag: image to stop before; 0: play to the end"),
    ("rate", "1.0", "speed of the bag; 0: as fast as it goes"),
    ("lockstep", "false", "with bag: wait for every image to be answered, so that nothing is dropped"),
    ("results", "", "with bag: folder to record the answers in, for 'robust-loc evaluate'"),
    (
        "judge",
        "false",
        "with results: judge them by the bag's ground truth at its end, write report.html",
    ),
    ("align", "none", "with judge: alignment to the truth: none, se3 or sim3"),
    ("rviz", "false", "open rviz with the package's view"),
]


def generate_launch_description():
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=text) for name, default, text in ARGUMENTS
    ]
    return LaunchDescription([*declared, *shared_memory(), OpaqueFunction(function=start)])


def shared_memory():
    """Let Fast DDS pass images through a shared memory that holds them, unless a profile is chosen already."""
    if "FASTRTPS_DEFAULT_PROFILES_FILE" in os.environ:
        return []
    return [SetEnvironmentVariable("FASTRTPS_DEFAULT_PROFILES_FILE", os.path.join(SHARE, "config", "fastdds.xml"))]


def start(context):
    """The nodes, once the arguments are known."""
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    flag = lambda name: given[name].lower() in ("true", "1", "yes")  # noqa: E731
    if given["composition"] not in ("single", "multi"):
        raise RuntimeError(f"composition is {given['composition']!r}; expected single or multi")
    common = {"use_sim_time": flag("use_sim_time") or bool(given["bag"]), "lockstep": flag("lockstep")}
    if given["device"]:
        common["device"] = given["device"]
    fusion = {
        "use_odom": bool(given["odom_topic"]),
        "publish_odom_tf": given["publish_odom_tf"].lower(),
        "base_frame": given["base_frame"],
    }
    if given["calibration"]:
        fusion["calibration_file"] = given["calibration"]
    remappings = [
        ("image", given["image"]),
        ("image/compressed", given["image"] + "/compressed"),
        ("camera_info", given["camera_info"]),
    ]
    if given["odom_topic"]:
        remappings.append(("odom", given["odom_topic"]))
    sources = [
        name
        for name, wanted in (
            ("odometry", flag("odometry")),
            ("relocalizer", bool(given["map"])),
            ("regressor", bool(given["regressor"])),
        )
        if wanted
    ]
    chosen = {"odometry": flag("odometry"), "map": given["map"], "regressor": given["regressor"]}

    def node(executable, parameters, **options):
        return Node(
            package="robust_loc",
            executable=executable,
            namespace=given["namespace"],
            parameters=[given["params_file"], common, parameters],
            remappings=remappings,
            output="screen",
            **options,
        )

    if given["composition"] == "single":
        actions = [node("localizer", {**fusion, **chosen})]
    else:
        own = {"relocalizer": {"map": given["map"]}, "regressor": {"weights": given["regressor"]}}
        actions = [node(f"{name}_node", own.get(name, {}), name=name) for name in sources]
        actions.append(node("fusion_node", {**fusion, "sources": sources}, name="fusion"))
    if given["bag"]:
        answers = [f"{name}/estimate" for name in (*sources, "fusion")] + ["fusion/state"]
        player = node(
            "bag_player",
            {
                "bag": given["bag"],
                "from_frame": int(given["from_frame"]),
                "until_frame": int(given["until_frame"]),
                "rate": float(given["rate"]),
                "results": given["results"],
                "answers": answers,
                "wait": 120.0,
                "use_sim_time": False,
            },
            name="bag_player",
        )
        actions.append(player)
        if given["results"]:  # a replay that is recorded ends with its recording
            end = EmitEvent(event=Shutdown(reason="the bag has ended"))
            steps = [end]
            if flag("judge"):
                words = ["robust-loc", "evaluate", given["results"], "--bag", given["bag"], "--align", given["align"]]
                judge = ExecuteProcess(cmd=words, output="screen")
                actions.append(RegisterEventHandler(OnProcessExit(target_action=judge, on_exit=[end])))
                steps = [judge]
            actions.append(RegisterEventHandler(OnProcessExit(target_action=player, on_exit=steps)))
    if flag("rviz"):
        view = os.path.join(SHARE, "config", "rviz", "robust_loc.rviz")
        actions.append(Node(package="rviz2", executable="rviz2", arguments=["-d", view], parameters=[common]))
    return actions
