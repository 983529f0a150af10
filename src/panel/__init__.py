"""The web panel: a folder per page of pages/, and ui/ for what pages share."""
