"""Pages: HTML and Markdown from texts of other machines."""

from rdtops.pages.gallery import evaluation_page
from rdtops.pages.templating import address, html, html_page, markdown, text, write

__all__ = ["address", "evaluation_page", "html", "html_page", "markdown", "text", "write"]
