"""Templates: the report's pages and parts of pages; page and chart give the values."""

from pathlib import Path

from jinja2 import FileSystemLoader

from rdtops import pages

_LOADER = FileSystemLoader(Path(__file__).parent)
TEMPLATES = pages.html(_LOADER)
MARKDOWN = pages.markdown(_LOADER)
