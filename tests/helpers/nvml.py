"""A library that plays NVIDIA's libnvidia-ml to the real binding: a GPU where there is none.

Its meters stand in a file, a line each (`power 250000`), which is read at every call; what has no
line is not supported by the card, as on real ones.
"""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

FULL = {
    "count": 1,
    "utilization": 87,  # percent
    "memory_total": 150 * 2**30,  # bytes
    "memory_used": 30 * 2**30,
    "power": 400_000,  # milliwatts
    "temperature": 61,
}
SOURCE = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
enum { SUCCESS = 0, NOT_SUPPORTED = 3 };
static int meter(const char *name, unsigned long long *value) {
  char line[128], known[64];
  FILE *file = fopen(getenv("FAKE_NVML"), "r");
  int found = NOT_SUPPORTED;
  while (file && fgets(line, sizeof line, file)) {
    unsigned long long number;
    if (sscanf(line, "%63s %llu", known, &number) != 2) continue;
    if (!strcmp(known, "hangs")) for (;;) pause();
    if (!strcmp(known, name)) { *value = number; found = SUCCESS; }
  }
  if (file) fclose(file);
  return found;
}
static int small(const char *name, unsigned int *value) {
  unsigned long long number = 0;
  int code = meter(name, &number);
  *value = (unsigned int)number;
  return code;
}
int nvmlInitWithFlags(unsigned int flags) { return SUCCESS; }
int nvmlInit_v2(void) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { return code == NOT_SUPPORTED ? "Not Supported" : "?"; }
int nvmlDeviceGetCount_v2(unsigned int *count) { return small("count", count); }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **handle) {
  *handle = (void *)(size_t)(index + 1);
  return SUCCESS;
}
int nvmlDeviceGetName(void *handle, char *name, unsigned int length) {
  snprintf(name, length, "NVIDIA Test");
  return SUCCESS;
}
int nvmlDeviceGetMemoryInfo(void *handle, unsigned long long *info) {
  int code = meter("memory_total", &info[0]);
  if (code || (code = meter("memory_used", &info[2]))) return code;
  info[1] = info[0] - info[2];
  return SUCCESS;
}
int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
  *major = 9; *minor = 0;
  return SUCCESS;
}
int nvmlDeviceGetUtilizationRates(void *handle, unsigned int *rates) {
  rates[1] = 0;
  return small("utilization", &rates[0]);
}
int nvmlDeviceGetPowerUsage(void *handle, unsigned int *value) { return small("power", value); }
int nvmlDeviceGetTemperature(void *handle, int sensor, unsigned int *value) {
  return small("temperature", value);
}
int nvmlDeviceGetTotalEnergyConsumption(void *handle, unsigned long long *value) {
  return meter("energy", value);
}
"""


class FakeNvml:
    """A folder with the library, and the file of its meters."""

    def __init__(self, folder: Path) -> None:
        if (compiler := shutil.which("cc")) is None:
            pytest.skip("no C compiler here")
        folder.mkdir(exist_ok=True)
        self.meters_file = folder / "meters"
        (folder / "nvml.c").write_text(SOURCE)
        name = "libnvidia-ml.so.1"
        subprocess.run(
            [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", name, "nvml.c"],
            cwd=folder, check=True,
        )  # fmt: skip
        self.environment = {"LD_LIBRARY_PATH": str(folder), "FAKE_NVML": str(self.meters_file)}
        self.show(FULL)

    def show(self, meters: dict[str, Any]) -> None:
        """Change what the card shows, at once."""
        staged = self.meters_file.with_suffix(".new")
        staged.write_text("".join(f"{name} {value}\n" for name, value in meters.items()))
        staged.replace(self.meters_file)
