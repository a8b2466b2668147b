"""Serves any ONNX model over the Open Inference Protocol with ONNX Runtime; knows nothing of radio."""
