"""The paper's tables and figures, and our studies: a recipe and a script each, results as Parquet and Markdown."""
