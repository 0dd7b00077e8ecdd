"""Backbones and ACmix for other frameworks: each module imports its library, and is imported only when asked for."""
