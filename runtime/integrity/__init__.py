"""Integrity in flight: memory that flips, outputs that cannot be, engines that no longer compute what they must."""
