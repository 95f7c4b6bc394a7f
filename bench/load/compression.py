"""How the server is asked to keep registered prompts."""

from enum import StrEnum


class Compression(StrEnum):
    """As `POST /v1/prompts` knows them."""

    gist = "gist"
    prefix = "prefix"
    auto = "auto"
