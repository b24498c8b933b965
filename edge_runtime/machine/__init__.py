"""Facts about this machine: processor, memory, Jetson boards, installed libraries."""
