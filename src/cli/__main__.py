from src.cli.main import app

app()
