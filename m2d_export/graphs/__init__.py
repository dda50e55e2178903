"""Makes ONNX graphs of every exit in every precision from one export of the checkpoint."""
