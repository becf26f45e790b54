"""Modules that tie a budget to other programs. A program imports the ones that it uses; mppool imports none itself."""
