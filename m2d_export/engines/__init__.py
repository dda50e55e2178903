"""TensorRT engines, built from graphs in child processes."""
