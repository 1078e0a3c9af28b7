"""The files of a run of the crash benchmark: configuration, recycle command, model."""

from __future__ import annotations

from pathlib import Path

from benchmarks.crash_plan import Plan

TARGET = "toy"

TORCH_MODEL = """
import torch


def build() -> torch.nn.Module:
    return torch.nn.Linear(1, 1)
"""


def write_config(folder: Path, plan: Plan, *, port: int, web_port: int, webhook: str) -> str:
    """The daemon's configuration: short intervals, no waiting before or between recycles."""
    kind = 'kind = "process"\ngrace = "2s"'
    if plan.recycler == "command":
        kind = f'kind = "command"\ncommand = ["/bin/sh", "{folder}/recycle.sh"]\ntimeout = "3s"'
    alone = f"""
[[target.canary]]
name = "alone"
kind = "torch"
model = "{folder}/model.py:build"
input = {{ shape = [1], seed = 0 }}
interval = "1s"
"""
    return f"""
[store]
url = "sqlite:///{folder}/watchdog.db"
[web]
listen = "127.0.0.1:{web_port}"
[log]
level = "debug"
[[notifier]]
name = "events"
kind = "webhook"
url = "{webhook}"
min_level = "info"
timeout = "1s"
[[target]]
name = "{TARGET}"
device = "cpu"
mode = "{"act" if plan.recycler and not plan.by_hand else "alert"}"
auto_baseline = false
[[target.canary]]
url = "http://127.0.0.1:{port}/predict"
json = [1]
interval = "150ms"
timeout = "400ms"
max_busy = 1.0
burst = 2
warmup = 0
[target.canary.expect]
json_path = "numbers"
shape = [3]
{alone if plan.torch else ""}
[target.process]
pid_file = "{folder}/server.pid"
workers = "children"
[target.regression]
threshold = 10  # a baseline may be taken, but two cores shared with everything here say nothing about speed
[target.recycle]
{kind}
drain = {plan.drain_s}
ready_timeout = "6s"
verify_bursts = 1
min_uptime = 0
cooldown = 0
budget = 1000
"""


def write_command(folder: Path, plan: Plan) -> str:
    """What stands for `systemctl restart`: says that it begins, ends the workers, whose master starts new ones."""
    return f"""
echo "begin $(date +%s.%N) $WATCHDOG_PIDS" >> {folder}/acts
sleep {600 if plan.act_hangs else plan.before_s}
kill -9 $WATCHDOG_PIDS
sleep {plan.after_s}
exit {int(plan.act_fails)}
"""
