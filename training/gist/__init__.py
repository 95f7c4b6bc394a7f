"""Training gist adapters (arXiv 2304.08467): two passes over a frozen model, or one masked one."""
