"""The command line: an HTTP client of the API, plus serve and demo."""
