"""What the operator said: settings, keys and backends, from flags, environment, file and Flask.

Command line options, variables and YAML come in; one immutable `Settings` goes out, or a
`ConfigurationError` that names the setting, where it came from and what to do.
"""
