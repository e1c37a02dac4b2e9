"""What is known of a run while it goes on: heartbeats, rates, the device, and who is told of it."""
