"""The decisions, pure: no I/O, no clock, no lock, no log. Time comes in as an argument, work goes out as data."""
