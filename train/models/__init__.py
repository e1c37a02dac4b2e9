"""The BabelRS detector: backbones with taps, layerwise aggregation, pyramid and dense heads."""
