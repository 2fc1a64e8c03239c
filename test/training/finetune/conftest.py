"""What the tests of fine-tuning share: one thread, bags, weights and one finished run."""

from __future__ import annotations

import pytest
import torch
from small_scene import QUICK, frames, untrained, write_bag

from robust_loc.training.finetune import finetune


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    """A folder with a labelled bag of 80 frames and weights that know nothing."""
    folder = tmp_path_factory.mktemp("recorded")
    write_bag(folder / "bag.mcap", frames(80))
    untrained(folder / "untrained.safetensors")
    return folder


@pytest.fixture(scope="session")
def finished(recorded):
    """An accepted run from them, never interrupted: its result and everything that was told while it ran."""
    told = []
    output = recorded / "finished"
    result = finetune([recorded / "bag.mcap"], recorded / "untrained.safetensors", output, QUICK, progress=told.append)
    return result, told
