"""The vocabulary shared by training, compression and the onboard runtime of BabelRS."""

__version__ = "0.1.0"
