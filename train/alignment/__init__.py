"""How near the sensors' features and detection gradients lie to each other."""
