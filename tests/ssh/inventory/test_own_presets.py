"""Presets of hosts.toml and the `set` of a host: what they make of a training, and every mistake with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdtops.contract.config import preset
from rdtops.delivery.plan import Request
from rdtops.errors import ConfigError
from rdtops.ssh import inventory
from rdtops.ssh.inventory import Inventory

GOOD = """\
[presets.drawer]
base = "libero_single_task"
dataset = "drawer"
max_steps = 20_000
learning_rate = 1
state_noise_snr_db = "none"
[presets.quick]
base = "drawer"
max_steps = 10
[hosts.gpu7]
address = "gpu7"
preset = "quick"
set = { num_processes = 4 }
"""


def loaded(tmp_path: Path, text: str) -> Inventory:
    (tmp_path / "hosts.toml").write_text(text)
    return inventory.load(tmp_path / "hosts.toml")


def test_settings_come_from_preset_base_host_and_command_line_each_over_those_before(tmp_path: Path) -> None:
    known = loaded(tmp_path, GOOD)
    host = known.host("gpu7")
    config = Request(settings=("max_steps=11",)).config_for(host, known)
    assert (config.preset, config.dataset, config.max_steps, config.num_processes) == ("quick", "drawer", 11, 4)
    assert (config.learning_rate, config.state_noise_snr_db) == (1.0, None)
    assert type(config.learning_rate) is float  # as --set learning_rate=1 gives it: the digest is the same
    drawer = Request("drawer").config_for(host, known)
    assert (drawer.max_steps, drawer.num_processes) == (20_000, 4)
    assert Request("tiny").config_for(host, known).num_processes == 4
    assert known.preset("tiny") == preset("tiny")


@pytest.mark.parametrize(("broken", "line", "words"), [
    ('base = "libero_single_task"', 2,
     "presets.drawer.base: there is no preset 'libero_single_tusk'; did you mean 'libero_single_task'?; presets: "),
    ("max_steps = 20_000", 4, "presets.drawer.max_stepz: no such setting; did you mean 'max_steps'?"),
    ("learning_rate = 1", 5, "presets.drawer.learning_rate: 'fast' is not a number"),
    ('preset = "quick"', 12, "hosts.gpu7.preset: there is no preset 'quik'; did you mean 'quick'?"),
    ("set = { num_processes = 4 }", 13, "hosts.gpu7.set.num_processes: '4' is not an integer"),
])
def test_a_mistake_is_answered_with_its_line_and_the_nearest_name(
        tmp_path: Path, broken: str, line: int, words: str) -> None:
    wrong = {2: 'base = "libero_single_tusk"', 4: "max_stepz = 20_000", 5: 'learning_rate = "fast"',
             12: 'preset = "quik"', 13: 'set = { num_processes = "4" }'}[line]
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, GOOD.replace(broken, wrong))
    assert str(refused.value).startswith(f"{tmp_path / 'hosts.toml'}:{line}: {words}")


@pytest.mark.parametrize(("text", "words"), [
    ('[presets.a]\nbase = "b"\n[presets.b]\nbase = "a"\n', "presets.a: it inherits from itself: a -> b -> a"),
    ('[presets.a]\nbase = "a"\n', "presets.a: it inherits from itself: a -> a"),
    ("[presets.a]\nmax_steps = 3\n", "presets.a.base: is missing; presets: tiny, "),
    ('[presets.tiny]\nbase = "rdt_1b"\n', "presets.tiny: this is the name of a bundled preset; choose another one"),
    ('[presets.a]\nbase = "tiny"\ncodec = "none"\n', "presets.a.codec: 'none' must be one of delta_velocity, "),
    ('[presets.a]\nbase = "tiny"\nmax_steps = 0\n', "presets.a: training configuration: max_steps = 0: must be above"),
    ('[presets.a]\nbase = "tiny"\npreset = "b"\n', "presets.a.preset: no such setting"),
    ('[presets."a b"]\nbase = "tiny"\n', "presets.a b.[key]: string should match pattern"),
])
def test_a_preset_that_cannot_be_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, text)
    assert words in str(refused.value)
    assert "hosts.toml:" in str(refused.value)
