"""Files other programs read and write: PNG, NumPy, COCO and ONNX; in and out."""
