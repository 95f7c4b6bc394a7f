"""From how many requests on a registered prompt has paid for itself."""

from __future__ import annotations

import math


def break_even(registration: float, saved: float) -> int | None:
    """The least number of requests n >= 1 from which on ``n * saved >= registration`` holds.

    Args:
        registration: seconds that registering the prompt costs, less those that the arm it is
            compared with costs; negative where that is more.
        saved: seconds that a request is shorter; negative where it is longer.

    Returns:
        None for never: where no request saves anything (and something was paid), or each one loses.
    """
    if saved < 0 or (saved == 0 and registration > 0):
        return None
    if registration <= saved:
        return 1
    count = math.ceil(registration / saved)
    # The quotient is rounded; what is asked for is the product.
    while count * saved < registration:
        count += 1
    while count > 1 and (count - 1) * saved >= registration:
        count -= 1
    return count
