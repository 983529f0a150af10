"""Parts of pages that know no page: HTML, links, charts, tables that are searched."""
