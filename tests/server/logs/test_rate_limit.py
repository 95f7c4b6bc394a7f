import logging

from gistserve.server.logs.rate_limit import RepeatedWarning


def test_the_first_is_told_at_once_and_the_next_after_a_while(caplog):
    now = 0.0
    warning = RepeatedWarning(logging.getLogger("test"), seconds=10, clock=lambda: now)
    with caplog.at_level("WARNING"):
        for now in (0.0, 1.0, 9.9, 10.0, 19.0, 31.0):
            warning.warn(f"full at {now:g}", waiting=3)
        warning.warn("full", count=4)
        now = 50.0
        warning.warn("full", count=2)
    told = [(record.message, record.fields["repeated"]) for record in caplog.records]
    assert told == [("full at 0", 1), ("full at 10", 3), ("full at 31", 2), ("full", 6)]
    assert caplog.records[0].fields["waiting"] == 3
