"""The numbers that are kept with each burst (`Burst.facts`), by name. What is not known is not there; 0 is a figure.

An isolated worker adds its own: model_load_s, device_latency_s, and the bytes of memory of `watchdog_agent.memory`.
"""

from __future__ import annotations

# What the target said of itself just before the burst.
LOAD = "load"  # requests in progress or waiting; or whatever else the metric counts that it is read from

# What went on around the burst, on the machine of the watchdog.
CPU_STEAL = "cpu_steal"  # share, 0 to 1, of the time of all CPUs that the hypervisor gave to others
CPU_PRESSURE = "cpu_pressure"  # share of the time, 0 to 1, in which some task waited for a core
MEMORY_PRESSURE = "memory_pressure"  # the same for memory
IO_PRESSURE = "io_pressure"  # the same for a disk
OWN_DELAY = "own_delay"  # seconds per second by which the watchdog held itself up

# Of the workers that answered, of all where it is not known who did; of an isolated canary its own worker.
SERVER_WAIT = "server_wait"  # seconds per second that threads were ready to run and had no core, all threads together
SERVER_CPU = "server_cpu"  # CPU seconds per second

# Of the target's GPUs, as they were last read.
SM_CLOCK_HZ = "sm_clock_hz"  # the lowest of them
GPU_THROTTLE = "gpu_throttle"  # bits of NVML's clock event reasons, of all of them together
GPU_OTHERS = "gpu_others"  # processes on them that are neither the target's nor the watchdog's
