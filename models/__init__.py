"""The models: sizes and initial values without any framework, and each network in PyTorch and TensorFlow."""
