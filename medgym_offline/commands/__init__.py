"""The commands of `medgym-offline`, by theme. Each module names its `COMMANDS` and imports nothing heavy at its top."""
