"""The metrics, by subject; `registry` says what each is called and which way is better."""
