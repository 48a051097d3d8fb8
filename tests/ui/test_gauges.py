"""The two lines of the dashboard about machines: what is known in the room there is, and what is not known said so."""

from dataclasses import replace

import pytest

from rdtops.answers import HostUsage
from rdtops.ui.dashboard.gauges import gpu_line, host_line, ranges
from tests.ui.screens import USAGE, gpus

EIGHT = gpus()


@pytest.mark.parametrize(("columns", "words"), [
    (100, "GPU 0-7   ███▁████ 86 %, lowest GPU 3: 12 %   570 of 640 GiB   hottest GPU 5: 69 °C   2.7 kW"),
    (70, "GPU 0-7   ███▁████ 86 %   570/640 GiB   69 °C (5)   2.7 kW"),
    (50, "GPU 0-7  ███▁████ 86 %  570/640 GiB  69 °C (5)"),
    (5, "GPU 0-7")])
def test_all_gpus_are_in_one_line_at_every_width(columns, words):
    assert gpu_line(EIGHT, columns, is_own=True).plain == words


def test_one_gpu_has_no_lowest_and_no_hottest_and_those_of_the_host_are_called_so():
    assert gpu_line(EIGHT[3:4], 100, is_own=True).plain == "GPU 3   ▁ 12 %   71 of 80 GiB   45 °C   98 W"
    assert gpu_line(EIGHT[3:4], 100, is_own=False).plain.startswith("GPU 3 of the host   ▁ 12 %")


def test_what_a_driver_does_not_tell_is_a_question_mark_and_its_warning_is_shown():
    silent = [replace(gpu, utilization_percent=None, memory_used_mib=None, temperature_c=None, power_w=None)
              for gpu in EIGHT[:2]]
    assert gpu_line(silent, 100, is_own=True).plain == "GPU 0-1   ?? load ?   memory ?   ? °C   ? W"
    assert gpu_line([EIGHT[0], silent[1]], 100, is_own=True, warning="GPU 7 is lost").plain == (
        "GPU 0-1   █? 97 %   71 of 80 GiB   hottest GPU 0: 57 °C   370 W   GPU 7 is lost")


@pytest.mark.parametrize(("columns", "words"), [
    (100, "CPU ▃ 37 % of 128 cores   RAM 212 of 1007 GiB   disk 340 GB free of 3.5 TB   load 41.7"),
    (50, "CPU ▃ 37 %  RAM 212/1007 GiB  disk 340 GB free"),
    (30, "CPU ▃ 37 %  RAM 212/1007 GiB")])
def test_cpu_memory_and_disk_are_in_one_line_at_every_width(columns, words):
    assert host_line(USAGE, 37.0, columns).plain == words


def test_what_a_host_does_not_tell_is_a_question_mark_and_a_login_node_is_called_so():
    assert host_line(HostUsage(), None, 100).plain == "CPU ? %   RAM ?   disk ?"
    assert host_line(USAGE, None, 100, name="login node").plain.startswith("login node   CPU ? % of 128 cores   RAM")


def test_little_free_memory_and_disk_are_yellow():
    full = replace(USAGE, memory_used_bytes=1000 << 30, disk_free_bytes=10**9)
    line = host_line(full, 37.0, 100)
    assert [str(span.style) for span in line.spans if span.style] == ["yellow", "yellow"]
    assert [span for span in host_line(USAGE, 37.0, 100).spans if span.style] == []


@pytest.mark.parametrize(("numbers", "words"), [([], ""), ([3], "3"), ([0, 1, 2, 5, 7], "0-2, 5, 7"), ([2, 1], "1-2")])
def test_indices_are_ranges(numbers, words):
    assert ranges(numbers) == words
