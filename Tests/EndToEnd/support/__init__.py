"""What the tests stand on: real processes, a device that records, and a judge. Nothing here knows Baton's code."""
