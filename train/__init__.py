"""Training of BabelRS models and the simulation of scenes to train them on."""
