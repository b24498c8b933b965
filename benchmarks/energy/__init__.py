"""Power meters: watts of boards, processors and GPUs, and energy per image."""
