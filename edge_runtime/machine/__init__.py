"""This machine: processor, memory, Jetson boards, installed libraries, child processes."""
