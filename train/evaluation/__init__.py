"""What an evaluation writes beside the averages: curves, sizes, confusions, pictures, result files."""
