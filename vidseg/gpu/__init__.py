"""The whole path of a frame as tensor operations of PyTorch: what a GPU does instead of the loops of ``kernels``.

Every module does what the one of its name in ``vidseg`` does, for N pictures at once, ``(N, h, w)``, and without one
look at a number from the host, so that all of it can be one CUDA graph. The kernels of the CPU are the reference:
``tests/test_gpu_path.py`` holds these here to within one step of them, on the tensors of any device.
"""
