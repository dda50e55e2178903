"""ONNX graphs of every exit in every precision, made from one export of the checkpoint."""
