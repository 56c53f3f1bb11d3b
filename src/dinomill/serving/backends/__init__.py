"""What computes an embedding in a server: PyTorch, compiled or not, ONNX Runtime or OpenVINO, in some precision."""
