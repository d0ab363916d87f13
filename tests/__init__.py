"""A package, so that what several test files need is imported by one name: `from tests.stored import Maker`."""
