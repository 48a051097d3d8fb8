"""Templates of the report. Each is a page or a part of one; the values come from page and chart."""

from pathlib import Path

from jinja2 import FileSystemLoader

from rdtops import pages

_LOADER = FileSystemLoader(Path(__file__).parent)
TEMPLATES = pages.html(_LOADER)
MARKDOWN = pages.markdown(_LOADER)
