"""Lets timm, which the tests here import at their top, find torchvision."""

from tests.hosts import find_torchvision

find_torchvision()
