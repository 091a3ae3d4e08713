"""``vidseg serve``: a page and an API; pixels are decoded in processes of their own, which may do little else."""
