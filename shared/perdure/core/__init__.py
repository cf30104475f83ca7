"""The pure heart: events, life cycle, journal, fence, planner. No I/O, no clock, no randomness."""
