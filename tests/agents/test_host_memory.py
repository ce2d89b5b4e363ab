"""Freed memory stays with the process: the next tensor of the same size brings no page faults."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource
import torch
from gumbelrl.agents.host_memory import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        tensors = [torch.ones(2**20) for _ in range(4)]  # 16 MiB, 4,096 pages
        del tensors
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(), keep_freed_memory(), faults(), faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator of glibc")
def test_freed_memory_is_used_again():
    found = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    before, told, _, after = found.stdout.split()
    if told == "False":
        pytest.skip("another allocator than glibc's")
    assert 10 * int(after) < int(before), found.stdout  # 80,000 and some dozens, where pages are not huge
