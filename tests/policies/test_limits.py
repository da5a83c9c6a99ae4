"""Time limits: a module may take so long per row, per call and in all, and one that never answers is left behind."""

import subprocess
import sys
import time
from functools import partial

import torch

from medgym_offline.errors import PolicyError
from medgym_offline.policies.foreign import ModulePolicy, TimeLimits
from tests.helpers import refused

ENDLESS = """
import sys, time, torch
from medgym_offline.errors import PolicyError
from medgym_offline.policies import load_policy
from medgym_offline.policies.foreign import TimeLimits

class Loop(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while bool(x.sum() > -1.0):
            x = x * 1.0
        return x[:, :4]

torch.jit.save(torch.jit.script(Loop()), sys.argv[1])
TimeLimits.__init__.__defaults__ = (0.5, *TimeLimits.__init__.__defaults__[1:])
began = time.perf_counter()
try:
    load_policy(sys.argv[1])
except PolicyError as error:
    print(error)
    print("after", time.perf_counter() - began)
"""


def test_an_endless_module_is_refused_and_the_process_ends(tmp_path):
    path = tmp_path / "loop.pt"
    script = tmp_path / "script.py"  # a file: TorchScript reads the source of the module
    script.write_text(ENDLESS, encoding="utf-8")
    command = [sys.executable, "-W", "ignore", str(script), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stderr, done.returncode) == ("", 1)
    message, after = done.stdout.splitlines()
    told = "2 observations took more than 0.52 s, the limit for a policy; export a smaller network without loops"
    assert message == f"{path}: {told}"
    assert 0.5 < float(after.split()[1]) < 30


def test_limits_count_rows_and_add_up():
    limits = TimeLimits(call_s=0.0, row_s=10.0, file_s=0.2)
    policy = ModulePolicy(lambda x: x[:, :3], "p", limits=limits)
    assert torch.equal(policy.act(torch.ones(2, 2, 9)), torch.ones(2, 2, 3))
    assert 0 < limits.used_s < 0.2

    def naps(rows):
        time.sleep(0.5)
        return rows[:, :3]

    in_all, at_once = (partial(ModulePolicy, naps, "q", limits=of) for of in (TimeLimits(file_s=0.2), TimeLimits(0.0)))
    refused(PolicyError, r"q: it took more than 0\.2 s in all", in_all)
    refused(PolicyError, r"q: 2 observations took more than 0\.02 s", at_once)
