"""The site, from docs/*.md, the registries and the docstrings: ``python3 run.py docs``.

:mod:`.stage` writes every page as Markdown into a folder; a builder that reads mkdocs.yml makes HTML of it. Nothing
here needs that builder, so the tests write the pages too.
"""
