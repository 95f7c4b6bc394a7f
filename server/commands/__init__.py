"""Sub-commands of `gistserve`, one module each; heavy imports happen inside the commands."""
