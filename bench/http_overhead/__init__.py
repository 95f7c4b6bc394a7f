"""What HTTP costs: streams of a server against the same engine driven directly."""
