"""valley: run ByteDance's Valley vision-language models on your own machine."""

__version__ = "0.1.0"
