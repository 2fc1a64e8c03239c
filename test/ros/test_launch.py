"""The launch files: executed where ``launch`` is importable, their contents checked everywhere."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "launch").glob("*.launch.py"))
LOCALIZE = {
    "params_file", "map", "regressor", "use_sim_time", "namespace", "rviz", "bag", "device", "composition",
    "odom_topic", "publish_odom_tf",
}  # fmt: skip


def arguments(path):
    """Name, default and description of every argument that a launch file declares."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "ARGUMENTS":
            return {item.elts[0].value: (item.elts[1], item.elts[2].value) for item in node.value.elts}
    raise AssertionError(f"{path.name} declares no ARGUMENTS")


def test_the_four_launch_files_exist():
    assert [path.name.split(".")[0] for path in FILES] == ["build_map", "evaluate", "localize", "train"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_argument_is_described_and_used(path):
    source = path.read_text()
    for name, (_, description) in arguments(path).items():
        assert len(description) > 8, name
        assert re.search(rf'given\["{name}"\]|flag\("{name}"\)|for name, _, _ in ARGUMENTS', source), (
            f"{name} is unused"
        )


def test_localize_takes_the_promised_arguments_and_evaluate_only_those_of_localize():
    known = arguments(ROOT / "launch" / "localize.launch.py")
    assert set(known) >= LOCALIZE
    assert set(arguments(ROOT / "launch" / "evaluate.launch.py")) <= set(known)


def test_every_program_of_the_launch_files_is_installed():
    source = (ROOT / "launch" / "localize.launch.py").read_text()
    programs = {path.name for path in (ROOT / "scripts" / "nodes").iterdir()}
    started = set(re.findall(r'node\(\s*f?"([\w{}]+)"', source))
    assert started == {"localizer", "{name}_node", "fusion_node", "bag_player"}
    assert programs >= {"localizer", "fusion_node", "bag_player"}
    assert programs >= {f"{name}_node" for name in ("odometry", "relocalizer", "regressor", "trainer")}
    for program in programs:
        module = re.search(r"from (robust_loc\.nodes\.\w+) import main", (ROOT / "scripts/nodes" / program).read_text())
        assert (ROOT / (module[1].replace(".", "/") + ".py")).is_file()


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.name)
def test_every_parameter_of_the_recipes_is_declared_by_its_node(path):
    pytest.importorskip("rclpy")
    pytest.importorskip("robust_loc.msg")
    from robust_loc.fusion import FusionConfig
    from robust_loc.nodes.fusion_config import FusionNodeConfig
    from robust_loc.nodes.odometry_node import OdometryNodeConfig
    from robust_loc.nodes.relocalizer_node import RelocalizerNodeConfig
    from robust_loc.nodes.trainer_config import TrainerNodeConfig
    from robust_loc.odometry import OdometryConfig
    from robust_loc.pose_regression import PoseRegressorConfig
    from robust_loc.relocalization import RelocalizerConfig
    from robust_loc.training.finetune.config import FinetuneConfig

    configs = {
        "/**/trainer": (TrainerNodeConfig, FinetuneConfig),
        "/**/odometry": (OdometryNodeConfig, OdometryConfig),
        "/**/relocalizer": (RelocalizerNodeConfig, RelocalizerConfig),
        "/**/regressor": (PoseRegressorConfig,),
        "/**/fusion": (FusionNodeConfig, FusionConfig),
    }
    for section, content in yaml.safe_load(path.read_text()).items():
        for name, value in content["ros__parameters"].items():
            owners = [config for config in configs[section] if name in config.__dataclass_fields__]
            assert owners, f"{section}: {name}"
            owners[0].from_mapping({name: value})


def test_rviz_shows_topics_that_the_nodes_publish():
    view = yaml.safe_load((ROOT / "config" / "rviz" / "robust_loc.rviz").read_text())
    shown = {d["Topic"]["Value"] for d in view["Visualization Manager"]["Displays"] if "Topic" in d}
    sources = dict.fromkeys(("odometry", "relocalizer", "regressor", "fusion"), "")
    for path in (ROOT / "robust_loc" / "nodes").glob("*.py"):
        for name in sources:
            if name in path.stem or path.stem == "absolute_node":
                sources[name] += path.read_text()
    for topic in shown - {"/camera/image_raw"}:
        _, node, name = topic.split("/")
        assert f'"~/{name}"' in sources[node], topic


@pytest.mark.parametrize("composition", ["single", "multi"])
def test_localize_makes_its_nodes(composition, monkeypatch, tmp_path):
    pytest.importorskip("launch_ros")
    launch = pytest.importorskip("launch")
    monkeypatch.setattr("ament_index_python.packages.get_package_share_directory", lambda name: str(ROOT))
    spec = importlib.util.spec_from_file_location("localize", ROOT / "launch" / "localize.launch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    context = launch.LaunchContext()
    for action in module.generate_launch_description().entities:
        if isinstance(action, launch.actions.DeclareLaunchArgument):
            action.execute(context)
    given = {
        "composition": composition,
        "map": "m",
        "regressor": "w",
        "bag": "b",
        "results": str(tmp_path),
        "rviz": "true",
    }
    context.launch_configurations.update(given)
    programs = [a.node_executable for a in module.start(context) if hasattr(a, "node_executable")]
    nodes = {
        "single": ["localizer"],
        "multi": ["odometry_node", "relocalizer_node", "regressor_node", "fusion_node"],
    }
    assert programs == [*nodes[composition], "bag_player", "rviz2"]


@pytest.mark.parametrize("bags", ["", "a.mcap b.mcap"])
def test_train_starts_the_trainer_or_the_training_of_a_scene(bags, monkeypatch):
    pytest.importorskip("launch_ros")
    launch = pytest.importorskip("launch")
    monkeypatch.setattr("ament_index_python.packages.get_package_share_directory", lambda name: str(ROOT))
    spec = importlib.util.spec_from_file_location("train", ROOT / "launch" / "train.launch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    context = launch.LaunchContext()
    for action in module.generate_launch_description().entities:
        if isinstance(action, launch.actions.DeclareLaunchArgument):
            action.execute(context)
    context.launch_configurations.update({"bags": bags, "output": "w" if bags else ""})
    (action,) = module.start(context)
    assert getattr(action, "node_executable", None) == (None if bags else "trainer_node")
    context.launch_configurations.update({"bags": "a.mcap", "output": ""})
    with pytest.raises(RuntimeError, match="output"):
        module.start(context)
