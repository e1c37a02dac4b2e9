"""Instruction data for language-pivoted pretraining: published files, tiles, chat tokens, packing, shards."""
