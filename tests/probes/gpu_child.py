"""Opens a GpuReader and answers each pid on standard input with a reading, as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict

from probes.gpu.reader import GpuReader

reader = GpuReader.open()
for line in sys.stdin:
    pid = int(line)
    reading = reader.read()
    answer = {
        "available": reader.available,
        "why": reader.why,
        "driver": reader.driver_version,
        "cuda": reader.cuda_version,
        "devices": [asdict(device) for device in reading.devices],
        "pid": [reading.used_by(pid), reading.capacity_for(pid), reading.device_used_for(pid)],
    }
    print(json.dumps(answer), flush=True)
reader.close()
reader.close()
