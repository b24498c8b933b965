"""From a file's bytes to the uint8 picture that the network sees."""
