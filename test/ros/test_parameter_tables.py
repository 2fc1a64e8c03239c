"""The documented parameters are the declared ones."""

import importlib.util
from pathlib import Path

import pytest

pytestmark = pytest.mark.ros
ROOT = Path(__file__).resolve().parents[2]


def test_parameter_page_is_up_to_date():
    pytest.importorskip("rclpy")
    spec = importlib.util.spec_from_file_location("parameter_tables", ROOT / "scripts" / "parameter_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    written = (ROOT / "doc" / "parameters.md").read_text()
    assert written == module.document(), "run: python scripts/parameter_tables.py > doc/parameters.md"
