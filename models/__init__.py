"""Models to test and measure with: odd ones built by code, real ones fetched, and a small bundled one.

* :mod:`models.registry`: ``CASES``, every odd model by name, each with random feeds.
* :mod:`models.fuzz`: odd models drawn at random, one a seed.
* :mod:`models.digits`: the bundled digit classifier with its data.
* :mod:`models.zoo`: real models from package registries, pinned and checked.
* :mod:`models.external`: models whose weights lie in a second file, also past 2 GiB.
* :mod:`models.large`: language models of any size, dense, for time and memory.

Not part of the wheel.
"""
