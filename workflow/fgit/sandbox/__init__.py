"""Where programs that a model wrote run: the box, its worker, and the pool of them."""
