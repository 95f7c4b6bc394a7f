"""No cache, a cache of the full prompt, a gist: what each costs and brings, on one server."""
