"""The engine's own throughput, without HTTP, against what the machine can reach."""
