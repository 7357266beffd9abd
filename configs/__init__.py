"""Settings files that come with Amalgam: `default.toml` names every setting."""
