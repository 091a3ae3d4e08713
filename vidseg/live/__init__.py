"""A live run: a camera in, a virtual camera out, changed while it runs."""
