"""The classes that users subclass for an execution provider of their own, and their options."""
