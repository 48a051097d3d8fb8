"""What drills are staged with: a home, a typist, a disk that can be filled, links that fail, files that are broken."""
