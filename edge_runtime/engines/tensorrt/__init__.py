"""The TensorRT engine: one file for the engine, one for what differs between versions of TensorRT."""
