"""Snapshots shown to people: the live screen (`top`), the report, and what both need. It reads public names only."""
