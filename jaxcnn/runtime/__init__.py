"""The machine: processes, devices, memory, signals, compilation."""
