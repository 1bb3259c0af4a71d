"""Timings: `timar bench` and `make bench`. Each section runs in a process of its own, on the cores that it names."""
